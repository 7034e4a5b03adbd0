// ValueClients: other clients, and beside them on every mount a user of lock value blocks: counters that live nowhere but
// in the lock manager. Model: a value that is granted as valid is the last one that was written, or one whose writing had
// not ended when its writer died; a lost one must be marked as such.
#pragma once

#include <functional>
#include <memory>

#include "dlm/lockspace.h"
#include "tests/whole/clients.h"

namespace holdfast::whole {

// space(node): the lockspace of that node's mount now.
std::unique_ptr<Clients> MakeValueClients(sim::World* world, std::unique_ptr<Clients> others, std::function<dlm::LockSpace*(NodeId)> space);

}  // namespace holdfast::whole
