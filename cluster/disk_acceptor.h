// DiskAcceptor: the shared disk as one acceptor of the register, in the manner of Disk Paxos. A proposer writes its own
// slot, then reads all slots, in both phases; a higher ballot anywhere is a refusal, a slot that cannot be read is no
// answer. Writing: value area and flush (only with a new value), then the header with FUA, never over the newest copy.
// After a write whose outcome is unknown the slot is drained and read again before the next one.
// A slot of ours that is not what we wrote last means a restored area or a twin: no answer from then on.
// Threading: one executor; calls are served one after the other. docs/protocols/register.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"
#include "cluster/ballot.h"
#include "cluster/mutants.h"
#include "cluster/quorum_area.h"

namespace holdfast::cluster {

struct DiskAcceptorOptions {
  NodeId self;
  uint64_t nonce = 0;
  uint64_t offset = 0;
  std::vector<NodeId> nodes;             // whose slots are read: all configured nodes
  std::function<Task<Status>()> drain;   // see engine.h; may be empty
  Mutants mutants;
};

// What this node's own acceptor holds, noted in the slot so that a store restored from an old copy is found out.
struct OwnAcceptor {
  uint64_t storage = 0;
  Ballot accepted;
};

struct DiskAnswer {
  bool ok = false;     // promised / accepted
  Ballot highest;      // the highest ballot seen anywhere
  Ballot accepted;     // of the newest value (phase 1)
  std::string value;
};

class DiskAcceptor {
 public:
  DiskAcceptor(DiskAcceptorOptions options, BlockDevice* device);

  // Drains, then reads the area's id and the own slot. kNotFound: no area; kCorrupt: the own slot is lost.
  Task<Status> Attach();
  bool attached() const { return attached_; }
  uint64_t area_id() const { return area_id_; }
  // What the own slot said at Attach.
  OwnAcceptor noted() const { return {own_.storage, own_.own_accepted}; }

  // Errors: the disk did not answer.
  Task<Result<DiskAnswer>> Prepare(Ballot ballot, OwnAcceptor own);
  Task<Result<DiskAnswer>> Accept(Ballot ballot, std::string value, OwnAcceptor own);
  // The highest ballot with a value in any slot, without writing anything.
  Task<Result<Ballot>> HighestAccepted();
  // The value accepted under that ballot; kNotFound when every slot has moved on.
  Task<Result<std::string>> ReadValue(Ballot ballot);

  const std::string& trouble() const { return trouble_; }  // why it last did not answer; empty: it does

 private:
  struct Slot {
    NodeId node;
    Status status;
    SlotHeader header;
    uint32_t copy = 0;
  };
  struct Copy {
    Status read;
    AlignedBuffer block;
  };
  Task<void> ReadCopy(NodeId node, uint32_t copy, Copy* out);
  Task<std::vector<Slot>> ReadSlots(std::vector<NodeId> nodes);
  Slot Judge(NodeId node, const Copy& a, const Copy& b) const;
  Task<Result<std::string>> ReadValueOf(SlotHeader header);
  Task<Status> Recover();
  Task<Status> WriteHeader(SlotHeader header);
  Task<Status> WriteValue(std::string value, uint32_t area);
  Task<Result<DiskAnswer>> Look(Ballot ballot, bool want_value);
  Task<Result<DiskAnswer>> DoPrepare(Ballot ballot, OwnAcceptor own);
  Task<Result<DiskAnswer>> DoAccept(Ballot ballot, std::string value, OwnAcceptor own);
  void Note(const Result<DiskAnswer>& answer);

  DiskAcceptorOptions options_;
  BlockDevice* device_;
  Mutex order_;
  bool attached_ = false;
  bool unknown_ = false;   // the outcome of our last write
  bool lost_ = false;      // the own slot is not what we wrote
  uint64_t area_id_ = 0;
  SlotHeader own_;
  uint32_t own_copy_ = 0;  // that holds own_
  Ballot cached_ballot_;   // a value that need not be read again
  std::string cached_value_;
  std::string trouble_;
};

}  // namespace holdfast::cluster
