// SimDisk: the shared volume of a simulated cluster. Each process opens its own session (SimDiskSession), which is its
// BlockDevice and its Reservations at once, as one iSCSI session is.
// A write is accepted (reservation checked), lands in the array's cache some time later, perhaps in two pieces, and
// completes then. Flush or kFua makes it durable. Two failures:
//   node crash: what was accepted may still land, much later (crash_late_max), until the session's key has been
//     preempted and Drain() answered. The write that lands late is why fencing exists.
//   PowerLoss(): each sector not flushed is kept, lost or torn, on its own; writes in flight likewise; all keys are
//     gone unless persist_through_power_loss; sessions that can be lost are.
// A session that can be lost (SetLosable) is as one of iSCSI: after a power loss, or when its owner gives it up because a
// command has no answer, its requests fail with kDisconnected, what the array had accepted of them may land later, and
// nothing goes before Relogin. Its registration is the nexus's and stays.
// Everything random comes from the world's seed. Writes and conflicts are recorded for checkers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/reservations.h"
#include "tests/sim/disk_image.h"
#include "tests/sim/world.h"

namespace holdfast::sim {

struct DiskKnobs {
  Duration accept_max = Microseconds(200);   // until the array checks the reservation
  Duration latency_min = Microseconds(50);   // from acceptance to landing
  Duration latency_max = Milliseconds(2);
  uint32_t slow = 1000;                      // per million requests that take up to slow_max
  Duration slow_max = Milliseconds(100);
  uint32_t split = 200'000;                  // per million writes that land in two pieces (a reader may see the tear)
  uint32_t crash_late = 500'000;             // per million in-flight writes of a dead process that land late ...
  Duration crash_late_max = Seconds(5);      // ... after up to this; the others never land
  uint32_t read_error = 0, write_error = 0;  // per million requests: kIo; a failed write may have landed
  uint32_t early_destage = 100'000;          // per million sectors overwritten in cache whose old version became durable
  Duration path_stall_max = Seconds(10);     // a cut path stalls a request so long, then kDisconnected
  uint32_t keep = 500'000;                    // per million unflushed sectors that a power loss leaves whole (a quarter of the others is torn)
  bool volatile_cache = true;
  bool preempt_and_abort = false;
  bool persist_through_power_loss = true;
  bool goes_with_holder = false;             // the reservation, with the key of whoever made it (SCSI type 5)
  bool record_writes = false;                // keep every accepted write (without its bytes) in writes()

  static DiskKnobs Random(SimRandom& random);
};

struct DiskWrite {
  Instant landed;
  uint64_t executor = 0;  // SimExecutor::id of the writer
  NodeId node;
  ReservationKey key = 0;  // registered by the session when the write was accepted
  uint64_t offset = 0, length = 0;
  bool fua = false;
  bool writer_dead = false;  // it landed after its process had died
  bool overtaken = false;    // its session was lost, and the same owner's next one had written before it landed
};

enum class DiskOp : uint8_t { kRead, kWrite, kFlush, kDiscard };

// What is wrong with a node's path, or with the array; per million requests.
struct DiskTrouble {
  uint32_t error = 0;  // kIo; a write may have landed all the same
  uint32_t hang = 0;   // never answered, though the array may do it. REQUIRES: only sessions that can be lost are used
};

class SimDiskSession;

class SimDisk {
 public:
  SimDisk(World* world, uint64_t size_bytes, DiskKnobs knobs = {});
  SimDisk(World* world, DiskImage image, DiskKnobs knobs = {});
  ~SimDisk();

  std::unique_ptr<SimDiskSession> Open(SimExecutor& executor);

  // The array loses power and returns at once; see above. Requests in flight fail with kDisconnected.
  void PowerLoss();
  // What the volume would hold after a power loss now, without doing it; every call draws another outcome. Writes in
  // flight count too.
  DiskImage CrashImage(SimRandom& random) const;
  // What readers see now / what is safe already.
  const DiskImage& image() const { return image_; }
  DiskImage DurableImage() const;

  // The node's path to the storage. Cut: requests stall, then fail; what was accepted before still lands.
  void CutPath(NodeId node) { no_path_.insert(node); }
  void HealPath(NodeId node) { no_path_.erase(node); }

  // NodeId(0): the array, for everybody.
  void SetTrouble(NodeId node, DiskTrouble trouble) { trouble_[node] = trouble; }
  void EndTroubles() { trouble_.clear(); }
  // Do requests of that node's processes that have ended still fly? (A byte lock is free when none does.)
  bool AnythingInFlight(const std::function<bool(uint64_t executor)>& of) const;

  // Asked for each request at acceptance; an error is the request's outcome (a write then does not land).
  using Fault = std::function<Status(DiskOp op, NodeId node, uint64_t offset, uint64_t length)>;
  void SetFault(Fault fault) { fault_ = std::move(fault); }
  // Called right after a write landed whole (checkers, crash cuts at every write).
  void OnWrite(std::function<void(const DiskWrite&)> watcher) { watcher_ = std::move(watcher); }
  // Called right before the array acknowledges a flush or a FUA write.
  void OnFlush(std::function<void()> watcher) { flush_watcher_ = std::move(watcher); }

  DiskKnobs& knobs() { return knobs_; }
  const std::vector<DiskWrite>& writes() const { return writes_; }
  uint64_t accepted() const { return accepted_; }    // writes
  uint64_t conflicts() const { return conflicts_; }  // refused by the reservation
  size_t unflushed_sectors() const { return dirty_.size(); }
  ReservationState reservation() const;

 private:
  friend class SimDiskSession;
  struct Session;
  struct Request;
  using Sector = std::array<std::byte, kSectorSize>;

  void Submit(std::shared_ptr<Request> request);
  void Accept(std::shared_ptr<Request> request);
  Status Admit(Request& request);
  void Schedule(std::shared_ptr<Request> request);
  void Land(std::shared_ptr<Request> request);
  void LandBytes(Request& request, uint64_t from, uint64_t to);
  void Finish(Request& request, Status status);
  void Answer(Request& request, Status status);
  void Lose(Session& session);
  bool Strikes(NodeId node, uint32_t DiskTrouble::*what);
  void MakeDurable(uint64_t offset, uint64_t length);
  void LoseSector(DiskImage& image, uint64_t sector, const Sector& before, SimRandom& random) const;
  void LoseUnflushed(DiskImage& image, SimRandom& random) const;
  void LoseInFlight(DiskImage& image, SimRandom& random) const;
  bool Drained() const;

  // The reservation commands, at the array.
  Status Register(Session& session, ReservationKey key);
  Status Unregister(Session& session, ReservationKey key);
  Status Reserve(Session& session, ReservationKey key);
  Status Preempt(Session& session, ReservationKey own, ReservationKey victim);

  World* world_;
  DiskImage image_;
  std::map<uint64_t, Sector> dirty_;  // by sector number: its durable content, where the cache holds newer
  DiskKnobs knobs_;
  std::vector<std::shared_ptr<Session>> sessions_;
  std::map<uint64_t, std::shared_ptr<Request>> in_flight_;  // writes accepted and not landed, by acceptance
  bool reserved_ = false;
  Session* holder_ = nullptr;
  uint32_t pr_generation_ = 0;
  std::set<NodeId> no_path_;
  std::map<NodeId, DiskTrouble> trouble_;
  Fault fault_;
  std::function<void(const DiskWrite&)> watcher_;
  std::function<void()> flush_watcher_;
  std::vector<DiskWrite> writes_;
  uint64_t accepted_ = 0, conflicts_ = 0;
};

class SimDiskSession final : public BlockDevice, public Reservations {
 public:
  const DeviceInfo& info() const override { return info_; }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override;
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override;
  Task<Status> Flush() override;
  Task<Status> Discard(uint64_t offset, uint64_t length) override;
  Task<void> Close() override;

  void SetLosable();
  bool lost() const;
  // Gives the session up: whatever has no answer fails with kDisconnected.
  void Lose();
  // True: there is a session again. False: no path to the array.
  Task<bool> Relogin();

  Task<Result<ReservationCapabilities>> Capabilities() override;
  Task<Status> Register(ReservationKey key) override;
  Task<Status> Unregister(ReservationKey key) override;
  Task<Status> Reserve(ReservationKey own_key) override;
  Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) override;
  Task<Status> Drain() override;
  Task<Result<ReservationState>> Read() override;

 private:
  friend class SimDisk;
  SimDiskSession(SimDisk* disk, std::shared_ptr<SimDisk::Session> session);
  Task<Status> Do(std::shared_ptr<SimDisk::Request> request);
  // One way trip of a reservation command; false when the path is cut for too long.
  Task<bool> Travel();
  SimDisk* disk_;
  std::shared_ptr<SimDisk::Session> session_;
  DeviceInfo info_;
};

}  // namespace holdfast::sim
