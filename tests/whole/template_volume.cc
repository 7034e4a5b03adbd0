#include "tests/whole/template_volume.h"

#include <map>
#include <tuple>

#include "mkfs/make_volume.h"
#include "tests/sim/disk.h"

namespace holdfast::whole {

TemplateVolume MakeTemplateVolume(uint32_t journals, uint32_t data_mib, const std::string& lock_table) {
  static std::map<std::tuple<uint32_t, uint32_t, std::string>, TemplateVolume> made;
  auto found = made.find({journals, data_mib, lock_table});
  if (found != made.end()) return found->second;
  sim::World world(1);
  sim::SimDisk disk(&world, (uint64_t{37} + journals * 2 + data_mib) << 20);
  auto& executor = world.Start(NodeId(1));
  auto session = disk.Open(executor);
  mkfs::MakeVolumeOptions options;
  options.journals = journals;
  options.journal_mib = 2;
  options.lock_table = lock_table;
  options.now = {1'700'000'000, 0};
  auto super = world.Run(executor, mkfs::MakeVolume(*session, options, world.random()));
  HF_CHECK(super.ok(), "mkfs: %s", super.error().ToString().c_str());
  TemplateVolume out{disk.image(), *super};
  made.emplace(std::tuple(journals, data_mib, lock_table), out);
  return out;
}

}  // namespace holdfast::whole
