#include "tests/sim/disk.h"

#include <algorithm>
#include <array>

namespace holdfast::sim {

struct SimDisk::Session {
  SimExecutor* executor;
  ReservationKey key = 0;  // 0: not registered
  bool closing = false;
  bool losable = false, lost = false;
  uint64_t logins = 1, wrote_in = 0;  // wrote_in: the login of its newest accepted write
  std::map<uint64_t, std::shared_ptr<Request>> open;  // losable: not answered yet, by the order of submission
  uint64_t submitted = 0;
  size_t running = 0;
  WaitList idle;
};

struct SimDisk::Request {
  DiskOp op;
  std::shared_ptr<Session> session;
  uint64_t offset = 0, length = 0;
  std::vector<std::byte> bytes;   // writes: a copy, as the wire makes one
  std::span<std::byte> out;       // reads: the caller's memory, touched only while its process lives
  bool fua = false;
  uint64_t number = 0;            // order of acceptance
  uint64_t landed_to = 0;         // bytes that landed already (a split write)
  ReservationKey key = 0;
  bool late = false;              // its process died and it was put off once
  bool gone = false;              // aborted, or failed by a power loss
  bool answered = false;
  uint64_t login = 0;             // of the session, when it was submitted
  bool orphan = false;            // its session was lost after the array had accepted it
  uint64_t turn = 0;              // order of submission in its session
  Instant submitted;
  Completion<Status> done;
};

DiskKnobs DiskKnobs::Random(SimRandom& random) {
  DiskKnobs k;
  k.accept_max = random.Between(Microseconds(10), Milliseconds(1));
  k.latency_max = random.Between(Microseconds(100), Milliseconds(10));
  k.slow = static_cast<uint32_t>(random.Below(20'000));
  k.slow_max = random.Between(Milliseconds(10), Milliseconds(1500));
  k.split = static_cast<uint32_t>(random.Below(kMillion / 2));
  k.crash_late = static_cast<uint32_t>(random.Between(200'000, kMillion));
  k.preempt_and_abort = random.Chance(kMillion / 4);
  k.volatile_cache = !random.Chance(kMillion / 8);
  return k;
}

SimDisk::SimDisk(World* world, uint64_t size, DiskKnobs knobs) : SimDisk(world, DiskImage(size), knobs) {}
SimDisk::SimDisk(World* world, DiskImage image, DiskKnobs knobs)
    : world_(world), image_(std::move(image)), knobs_(knobs) {}
SimDisk::~SimDisk() = default;

std::unique_ptr<SimDiskSession> SimDisk::Open(SimExecutor& executor) {
  auto session = std::make_shared<Session>();
  session->executor = &executor;
  sessions_.push_back(session);
  return std::unique_ptr<SimDiskSession>(new SimDiskSession(this, session));
}

// ---- requests: Submit -> Accept (reservation checked) -> Land -> Finish ----

void SimDisk::Submit(std::shared_ptr<Request> request) {
  request->submitted = world_->now();
  Session& session = *request->session;
  request->login = session.logins;
  if (session.losable) {
    request->turn = ++session.submitted;
    session.open[request->turn] = request;
  }
  Duration delay = world_->random().Between(Duration{0}, knobs_.accept_max);
  world_->After(delay, [this, request] { Accept(request); });
}

void SimDisk::Accept(std::shared_ptr<Request> request) {
  Session& session = *request->session;
  if (request->gone) return;
  if (no_path_.contains(session.executor->node())) {
    if (!session.executor->alive()) return;
    if (world_->now() - request->submitted > knobs_.path_stall_max) {
      Finish(*request, Error(Errc::kDisconnected, "the path to the simulated disk is cut"));
      return;
    }
    world_->After(Milliseconds(20), [this, request] { Accept(request); });
    return;
  }
  if (Status status = Admit(*request); !status.ok()) {
    Finish(*request, status);
    return;
  }
  request->key = session.key;
  request->number = ++accepted_;
  in_flight_[request->number] = request;
  if (request->op == DiskOp::kWrite) session.wrote_in = std::max(session.wrote_in, request->login);
  Schedule(request);
}

Status SimDisk::Admit(Request& request) {
  Session& session = *request.session;
  bool changes = request.op != DiskOp::kRead;
  if (changes && reserved_ && session.key == 0) {
    ++conflicts_;
    return Error(Errc::kConflict, "reservation conflict");
  }
  if (fault_) HF_TRY(fault_(request.op, session.executor->node(), request.offset, request.length));
  if (Strikes(session.executor->node(), &DiskTrouble::error)) {
    if (request.op == DiskOp::kWrite && world_->random().Chance(kMillion / 2)) LandBytes(request, 0, request.length);
    return Error(Errc::kIo, "injected");
  }
  if (request.op == DiskOp::kRead && world_->random().Chance(knobs_.read_error)) return Errc::kIo;
  return {};
}

bool SimDisk::Strikes(NodeId node, uint32_t DiskTrouble::*what) {
  if (trouble_.empty()) return false;
  for (NodeId who : {NodeId(0), node}) {
    auto it = trouble_.find(who);
    if (it != trouble_.end() && world_->random().Chance(it->second.*what)) return true;
  }
  return false;
}

void SimDisk::Schedule(std::shared_ptr<Request> request) {
  SimRandom& random = world_->random();
  Duration latency = random.Chance(knobs_.slow) ? random.Between(knobs_.latency_min, knobs_.slow_max)
                                                : random.Between(knobs_.latency_min, knobs_.latency_max);
  bool split = request->op == DiskOp::kWrite && request->length > kSectorSize && random.Chance(knobs_.split);
  if (split) {
    uint64_t sectors = request->length / kSectorSize;
    uint64_t cut = random.Between(1, sectors - 1) * kSectorSize;
    world_->After(latency / 2, [this, request, cut] {
      if (request->gone) return;
      LandBytes(*request, 0, cut);
      request->landed_to = cut;
    });
  }
  world_->After(latency, [this, request] { Land(request); });
}

void SimDisk::Land(std::shared_ptr<Request> request) {
  if (request->gone) return;
  SimRandom& random = world_->random();
  Session& session = *request->session;
  bool dead = !session.executor->alive();
  if ((dead || request->orphan) && !request->late) {
    request->late = true;
    if (request->op == DiskOp::kWrite && random.Chance(knobs_.crash_late)) {
      world_->After(random.Between(Duration{0}, knobs_.crash_late_max), [this, request] { Land(request); });
      return;
    }
    request->gone = true;
    in_flight_.erase(request->number);
    return;
  }
  in_flight_.erase(request->number);
  bool hangs = session.losable && !dead && !request->answered && Strikes(session.executor->node(), &DiskTrouble::hang);
  if (hangs && random.Chance(kMillion / 2)) return;  // lost on its way in
  switch (request->op) {
    case DiskOp::kRead:
      if (!dead && !hangs) image_.Read(request->offset, request->out);
      break;
    case DiskOp::kWrite: {
      LandBytes(*request, request->landed_to, request->length);
      if (request->fua || !knobs_.volatile_cache) MakeDurable(request->offset, request->length);
      DiskWrite record{world_->now(), session.executor->id(), session.executor->node(), request->key, request->offset,
                       request->length, request->fua, dead, request->login < session.wrote_in};
      if (knobs_.record_writes) writes_.push_back(record);
      if (watcher_) watcher_(record);
      if (request->fua && flush_watcher_) flush_watcher_();
      if (random.Chance(knobs_.write_error)) {
        Finish(*request, Error(Errc::kIo, "injected; the write landed"));
        return;
      }
      break;
    }
    case DiskOp::kFlush:
      dirty_.clear();
      if (flush_watcher_) flush_watcher_();
      break;
    case DiskOp::kDiscard:
      // The range reads as zeroes or as before: whole pages, each as chance has it.
      for (uint64_t at = request->offset; at < request->offset + request->length; at += kBlockSize)
        if (random.Chance(kMillion / 2)) {
          MakeDurable(at, kBlockSize);
          image_.Zero(at, kBlockSize);
        }
      break;
  }
  if (!hangs) Finish(*request, {});
}

void SimDisk::LandBytes(Request& request, uint64_t from, uint64_t to) {
  if (from >= to) return;
  uint64_t first = (request.offset + from) / kSectorSize, end = (request.offset + to) / kSectorSize;
  for (uint64_t sector = first; sector < end; ++sector) {
    auto [it, fresh] = dirty_.try_emplace(sector);
    // The cache may have written the version that is overwritten now to the medium at any time before.
    if (fresh || world_->random().Chance(knobs_.early_destage)) image_.Read(sector * kSectorSize, it->second);
  }
  image_.Write(request.offset + from, std::span(request.bytes).subspan(from, to - from));
}

void SimDisk::Finish(Request& request, Status status) {
  request.gone = true;
  Answer(request, std::move(status));
}

void SimDisk::Answer(Request& request, Status status) {
  if (std::exchange(request.answered, true)) return;
  Session& session = *request.session;
  if (session.losable) session.open.erase(request.turn);
  if (!session.executor->alive()) return;
  ExecutorTurn turn(session.executor);
  if (--session.running == 0) session.idle.WakeAll();
  request.done.Set(std::move(status));
}

// What was accepted lands in its own time; a read touches its caller's memory no more.
void SimDisk::Lose(Session& session) {
  session.lost = true;
  auto open = session.open;
  for (auto& [turn, request] : open) {
    bool accepted = in_flight_.contains(request->number) && request->op != DiskOp::kRead;
    if (accepted) {
      request->orphan = true;
    } else {
      request->gone = true;
      in_flight_.erase(request->number);
    }
    Answer(*request, Error(Errc::kDisconnected, "the session is lost"));
  }
}

bool SimDisk::AnythingInFlight(const std::function<bool(uint64_t)>& of) const {
  return std::any_of(in_flight_.begin(), in_flight_.end(), [&](const auto& entry) {
    return entry.second->op != DiskOp::kRead && of(entry.second->session->executor->id());
  });
}

void SimDisk::MakeDurable(uint64_t offset, uint64_t length) {
  dirty_.erase(dirty_.lower_bound(offset / kSectorSize), dirty_.lower_bound((offset + length) / kSectorSize));
}

// ---- power loss ----

void SimDisk::LoseSector(DiskImage& image, uint64_t sector, const Sector& before, SimRandom& random) const {
  uint64_t luck = random.Below(8);
  constexpr uint32_t kHalf = kMillion / 2;
  if (knobs_.keep == kHalf ? luck < 4 : random.Chance(knobs_.keep)) return;
  Sector now;
  image.Read(sector * kSectorSize, now);
  Sector result = before;
  if (knobs_.keep == kHalf ? luck == 7 : luck < 2) {  // torn: it starts new and ends old
    size_t cut = 8 * random.Between(1, kSectorSize / 8 - 1);
    std::copy_n(now.begin(), cut, result.begin());
  }
  image.Write(sector * kSectorSize, result);
}

void SimDisk::LoseUnflushed(DiskImage& image, SimRandom& random) const {
  for (const auto& [sector, before] : dirty_) LoseSector(image, sector, before, random);
}

// A write in flight: each of its sectors may have reached the medium, or half of it.
void SimDisk::LoseInFlight(DiskImage& image, SimRandom& random) const {
  for (const auto& [number, request] : in_flight_) {
    if (request->op != DiskOp::kWrite) continue;
    if (random.Chance(kMillion / 2)) continue;
    for (uint64_t at = request->landed_to; at < request->length; at += kSectorSize) {
      Sector before;
      image.Read(request->offset + at, before);
      image.Write(request->offset + at, std::span(request->bytes).subspan(at, kSectorSize));
      LoseSector(image, (request->offset + at) / kSectorSize, before, random);
    }
  }
}

DiskImage SimDisk::CrashImage(SimRandom& random) const {
  DiskImage image = image_;
  LoseUnflushed(image, random);
  LoseInFlight(image, random);
  return image;
}

DiskImage SimDisk::DurableImage() const {
  DiskImage image = image_;
  for (const auto& [sector, before] : dirty_) image.Write(sector * kSectorSize, before);
  return image;
}

void SimDisk::PowerLoss() {
  LoseUnflushed(image_, world_->random());
  LoseInFlight(image_, world_->random());
  dirty_.clear();
  auto flying = std::move(in_flight_);
  in_flight_.clear();
  for (auto& [number, request] : flying) Finish(*request, Error(Errc::kDisconnected, "the array lost power"));
  if (!knobs_.persist_through_power_loss) {
    for (auto& session : sessions_) session->key = 0;
    reserved_ = false;
  }
  pr_generation_ = 0;
  for (auto& session : sessions_)
    if (session->losable) Lose(*session);
}

// ---- reservations, at the array ----

Status SimDisk::Register(Session& session, ReservationKey key) {
  if (key == 0) return Error(Errc::kInvalid, "key 0 means not registered");
  if (session.key == key) return {};
  if (session.key != 0) return Error(Errc::kConflict, "this session is registered with another key");
  session.key = key;
  ++pr_generation_;
  return {};
}

Status SimDisk::Unregister(Session& session, ReservationKey key) {
  if (session.key == 0) return {};
  if (session.key != key) return Errc::kConflict;
  session.key = 0;
  ++pr_generation_;
  if (knobs_.goes_with_holder && holder_ == &session) reserved_ = false;
  bool any = std::any_of(sessions_.begin(), sessions_.end(), [](const auto& s) { return s->key != 0; });
  if (!any) reserved_ = false;  // type 7 goes with its last registrant
  return {};
}

Status SimDisk::Reserve(Session& session, ReservationKey key) {
  if (session.key == 0 || session.key != key) return Errc::kConflict;
  if (!reserved_) holder_ = &session;
  reserved_ = true;
  return {};
}

Status SimDisk::Preempt(Session& session, ReservationKey own, ReservationKey victim) {
  if (session.key == 0 || session.key != own) return Errc::kConflict;
  if (victim == 0 || victim == own) return Error(Errc::kInvalid, "a node does not preempt itself");
  for (auto& s : sessions_) {
    if (s->key != victim) continue;
    s->key = 0;
    if (!knobs_.preempt_and_abort) continue;
    std::vector<std::shared_ptr<Request>> aborted;
    for (auto& [number, request] : in_flight_)
      if (request->session == s) aborted.push_back(request);
    for (auto& request : aborted) {
      in_flight_.erase(request->number);
      Finish(*request, Error(Errc::kIo, "aborted"));
    }
  }
  ++pr_generation_;
  return {};
}

ReservationState SimDisk::reservation() const {
  ReservationState state;
  state.generation = pr_generation_;
  for (const auto& s : sessions_)
    if (s->key != 0) state.keys.push_back(s->key);
  state.reserved = state.all_registrants_write_exclusive = reserved_;
  return state;
}

// Nothing accepted from a session without a key is still under way.
bool SimDisk::Drained() const {
  return std::none_of(in_flight_.begin(), in_flight_.end(), [](const auto& entry) {
    return entry.second->op != DiskOp::kRead && (entry.second->session->key == 0 || entry.second->orphan);
  });
}

// ---- a session ----

SimDiskSession::SimDiskSession(SimDisk* disk, std::shared_ptr<SimDisk::Session> session)
    : disk_(disk), session_(std::move(session)) {
  info_.name = "sim";
  info_.size_bytes = disk_->image_.size() / kBlockSize * kBlockSize;
  info_.volatile_cache = disk_->knobs_.volatile_cache;
  info_.discard = true;
}

Task<Status> SimDiskSession::Do(std::shared_ptr<SimDisk::Request> request) {
  if (session_->closing) co_return Errc::kCancelled;
  if (session_->lost) co_return Error(Errc::kDisconnected, "there is no session");
  if (request->offset % kBlockSize != 0 || request->length % kBlockSize != 0 ||
      request->offset + request->length > info_.size_bytes || request->offset + request->length < request->offset)
    co_return Error(Errc::kInvalid, "misaligned or out of range");
  request->session = session_;
  ++session_->running;
  disk_->Submit(request);
  auto status = co_await request->done;
  co_return status;
}

Task<Status> SimDiskSession::Read(uint64_t offset, std::span<std::byte> out) {
  auto request = std::make_shared<SimDisk::Request>();
  request->op = DiskOp::kRead;
  request->offset = offset;
  request->length = out.size();
  request->out = out;
  return Do(std::move(request));
}

Task<Status> SimDiskSession::Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) {
  auto request = std::make_shared<SimDisk::Request>();
  request->op = DiskOp::kWrite;
  request->offset = offset;
  request->length = in.size();
  request->bytes.assign(in.begin(), in.end());
  request->fua = flags == WriteFlags::kFua;
  return Do(std::move(request));
}

Task<Status> SimDiskSession::Flush() {
  auto request = std::make_shared<SimDisk::Request>();
  request->op = DiskOp::kFlush;
  return Do(std::move(request));
}

Task<Status> SimDiskSession::Discard(uint64_t offset, uint64_t length) {
  auto request = std::make_shared<SimDisk::Request>();
  request->op = DiskOp::kDiscard;
  request->offset = offset;
  request->length = length;
  return Do(std::move(request));
}

Task<void> SimDiskSession::Close() {
  session_->closing = true;
  while (session_->running > 0) co_await session_->idle.Wait();
}

void SimDiskSession::SetLosable() { session_->losable = true; }
bool SimDiskSession::lost() const { return session_->lost; }
void SimDiskSession::Lose() { disk_->Lose(*session_); }

Task<bool> SimDiskSession::Relogin() {
  auto arrived = co_await Travel();
  if (arrived) session_->lost = false;
  if (arrived) ++session_->logins;
  co_return arrived;
}

Task<bool> SimDiskSession::Travel() {
  SimRandom& random = disk_->world_->random();
  Instant start = disk_->world_->now();
  co_await SleepFor(random.Between(Microseconds(20), disk_->knobs_.latency_max));
  while (disk_->no_path_.contains(session_->executor->node())) {
    if (disk_->world_->now() - start > disk_->knobs_.path_stall_max) co_return false;
    co_await SleepFor(Milliseconds(20));
  }
  co_return true;
}

Task<Result<ReservationCapabilities>> SimDiskSession::Capabilities() {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  ReservationCapabilities c;
  c.preempt_and_abort = disk_->knobs_.preempt_and_abort;
  c.persist_through_power_loss = disk_->knobs_.persist_through_power_loss;
  co_return c;
}

Task<Status> SimDiskSession::Register(ReservationKey key) {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  co_return disk_->Register(*session_, key);
}

Task<Status> SimDiskSession::Unregister(ReservationKey key) {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  co_return disk_->Unregister(*session_, key);
}

Task<Status> SimDiskSession::Reserve(ReservationKey own_key) {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  co_return disk_->Reserve(*session_, own_key);
}

Task<Status> SimDiskSession::Preempt(ReservationKey own_key, ReservationKey victim) {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  co_return disk_->Preempt(*session_, own_key, victim);
}

Task<Status> SimDiskSession::Drain() {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  while (!disk_->Drained()) co_await SleepFor(Milliseconds(1));
  co_return Status();
}

Task<Result<ReservationState>> SimDiskSession::Read() {
  auto arrived = co_await Travel();
  if (!arrived) co_return Errc::kDisconnected;
  co_return disk_->reservation();
}

}  // namespace holdfast::sim
