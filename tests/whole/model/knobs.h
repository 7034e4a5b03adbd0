// Knobs of the workload and of the kernel model: sizes of the (small) universe, weights, delays. Random() draws another
// weather for each seed.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "tests/sim/world.h"

namespace holdfast::whole {

struct KernelKnobs {
  bool has_epoch = true;                     // 6.16 and later
  Duration request_max = Microseconds(60);   // from the application to the server
  Duration reply_max = Microseconds(80);     // from the server's reply to its use
  uint32_t slow_reply = 20'000;              // per million replies used up to slow_reply_max later
  Duration slow_reply_max = Milliseconds(8);
  Duration notify_max = Microseconds(200);   // until a notification's thread runs
  uint32_t slow_notify = 0;                  // per million notifications whose thread runs up to slow_notify_max later
  Duration slow_notify_max = Milliseconds(150);
  uint32_t drop_dentry = 20'000;             // per million operations: an unused dentry is reclaimed
  bool drops_after_direct_write = true;      // newer kernels drop the range once more after a direct WRITE
  uint32_t readdir_plus = 500'000;           // per million directory reads
  uint32_t readdir_bytes = 64 * 1024;        // of one READDIR; few: a listing takes several
};

struct WorkloadKnobs {
  KernelKnobs kernel;
  uint32_t users = 3;              // applications per node
  uint32_t operations = 60;        // of each application; 0: until Quiesce
  Duration think_max = Milliseconds(3);
  uint32_t directories = 2;        // beside the root
  bool nested = false;             // the last of them lies in the first
  bool flocks = false;             // counters under flock instead of fcntl
  uint32_t names = 3;              // per directory
  uint32_t files = 2;              // with cells
  uint32_t pages = 2;              // of each such file
  uint32_t counters = 1;
  uint32_t logs = 1;
  // Weights of the kinds of work; 0 switches one off.
  uint32_t weigh_names = 6, weigh_data = 6, weigh_mmap = 1, weigh_counter = 1, weigh_log = 1, weigh_orphan = 1,
           weigh_attributes = 1, weigh_xattr = 1;
  uint32_t kill_application = 5'000;         // per million operations: nobody waits for its end
  Duration supervisor_delay_max = Milliseconds(100);

  static WorkloadKnobs Random(sim::SimRandom& random);
};

}  // namespace holdfast::whole
