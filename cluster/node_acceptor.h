// NodeAcceptor: a node's own part of the register, kept in its KvStore and synced before every answer. Its storage id is
// minted with an empty store: an answer under an id that ClusterState does not list counts for nothing, so a lost memory
// cannot vote (register.md, "Memory loss"). Threading: one executor; calls are served one after the other.
#pragma once

#include <string>

#include "base/kv_store.h"
#include "base/random.h"
#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"
#include "cluster/ballot.h"

namespace holdfast::cluster {

struct NodeAnswer {
  bool ok = false;
  Ballot promised;   // the highest that it knows
  Ballot accepted;
  std::string value; // phase 1
};

class NodeAcceptor {
 public:
  NodeAcceptor(KvStore* store, Random* random) : store_(store), random_(random) {}

  // Reads the store, or mints a storage id. kCorrupt: the store holds something else.
  Task<Status> Load();
  // The memory turned out to be an old copy: it counts as lost.
  Task<Status> Forget();

  // A ballot that was promised already is promised again (a repeated message). Errors: the store failed; no answer.
  Task<Result<NodeAnswer>> Prepare(Ballot ballot);
  Task<Result<NodeAnswer>> Accept(Ballot ballot, std::string value);

  uint64_t storage() const { return storage_; }
  const Ballot& promised() const { return promised_; }
  const Ballot& accepted() const { return accepted_; }
  const std::string& value() const { return value_; }

 private:
  KvStore* store_;
  Random* random_;
  Mutex order_;
  uint64_t storage_ = 0;
  Ballot promised_, accepted_;
  std::string value_;
};

}  // namespace holdfast::cluster
