// Small files on a VolumeRig, for tests of a mount's operations.
#pragma once

#include <string>

#include "tests/fs/vfs_rig.h"

namespace holdfast::fs::test {

const Caller kMe{1000, 100, 022};

inline std::string ReadAll(VolumeRig& rig, KernelInode node) {
  Attr attr = Must(rig.Run(rig.vfs().GetAttr(node)));
  AlignedBuffer buffer(attr.size + kBlockSize);
  auto read = Must(rig.Run(rig.vfs().Read(node, 0, buffer.span(), {})));
  return std::string(AsText(std::as_const(buffer).span().first(read.bytes)));
}

inline KernelInode MakeFile(VolumeRig& rig, KernelInode dir, const std::string& name, const std::string& text) {
  Entry e = Must(rig.Run(rig.vfs().Create(dir, name, 0644, true, kMe, {.write = true})));
  if (!text.empty()) (void)Must(rig.Run(rig.vfs().Write(e.attr.node, 0, Text(text), {})));
  Must(rig.Run(rig.vfs().Release(e.attr.node)));
  return e.attr.node;
}

inline std::string Pattern(size_t size, uint64_t seed) {
  sim::SimRandom random(seed);
  std::string s(size, 0);
  for (char& c : s) c = static_cast<char>(random.Next());
  return s;
}

}  // namespace holdfast::fs::test
