// A freshly made small volume, by the mkfs code; made once per process and layout, then copied (pages are shared).
#pragma once

#include <string>

#include "fs/superblock.h"
#include "tests/sim/disk_image.h"

namespace holdfast::whole {

struct TemplateVolume {
  sim::DiskImage image;
  fs::Superblock super;
};
TemplateVolume MakeTemplateVolume(uint32_t journals, uint32_t data_mib, const std::string& lock_table);

}  // namespace holdfast::whole
