// Hostile volumes: metadata whose bytes were changed and sealed again, so that checksums do not help. Operations may
// fail or answer anything that the bytes say; they must not crash, hang or touch what is not theirs.
#include <catch2/catch.hpp>

#include <sys/stat.h>

#include "fs/meta_block.h"
#include "tests/fs/vfs_rig.h"
#include "tests/sim/seeds.h"

namespace holdfast::fs::test {
namespace {

const Caller kMe{0, 0, 022};

Task<std::vector<uint64_t>> FindBlocks(VolumeRig* rig) {
  std::vector<uint64_t> found;
  AlignedBuffer buffer(kBlockSize);
  auto super = co_await ReadSuperblock(*rig->session);
  HF_CHECK(super.ok(), "no superblock");
  for (uint64_t at = super->geometry.first_group_block; at < super->geometry.volume_blocks; ++at) {
    auto read = co_await rig->session->Read(at * kBlockSize, buffer.span());
    HF_CHECK(read.ok(), "read");
    auto bytes = std::as_const(buffer).span();
    if (CheckBlock(bytes, BlockNo(at), BlockType::kInode, super->geometry.uuid).ok() ||
        CheckBlock(bytes, BlockNo(at), BlockType::kTree, super->geometry.uuid).ok())
      found.push_back(at);
  }
  co_return found;
}

Task<void> Damage(VolumeRig* rig, uint64_t block) {
  sim::SimRandom& random = rig->world.random();
  AlignedBuffer buffer(kBlockSize);
  auto read = co_await rig->session->Read(block * kBlockSize, buffer.span());
  HF_CHECK(read.ok(), "read");
  const size_t starts[] = {kBlockHeaderBytes, kXattrRootOffset, kDataRootOffset, kBlockHeaderBytes};
  int changes = 1 + static_cast<int>(random.Below(4));
  for (int i = 0; i < changes; ++i) {
    size_t from = starts[random.Below(4)];
    size_t at = from + random.Below(random.Below(2) ? 64 : kBlockSize - from);
    buffer.data()[at] = random.Below(2) ? static_cast<std::byte>(random.Next()) : std::byte{random.Below(2) ? uint8_t{0xff} : uint8_t{0}};
  }
  SealBlock(buffer.span(), HeaderOf(std::as_const(buffer).span()).version);
  auto written = co_await rig->session->Write(block * kBlockSize, buffer.span(), WriteFlags::kFua);
  HF_CHECK(written.ok(), "write");
}

void Populate(VolumeRig* rig, std::vector<KernelInode>* nodes) {
  Vfs& v = rig->vfs();
  Entry d = Must(rig->Run(v.MakeDir(kRootNode, "d", 0755, kMe)));
  nodes->push_back(d.attr.node);
  for (int i = 0; i < 150; ++i)
    (void)Must(rig->Run(v.MakeNode(d.attr.node, "some-longer-name-" + std::to_string(i), S_IFREG | 0644, 0, kMe)));
  for (int i = 0; i < 4; ++i) {
    Entry f = Must(rig->Run(v.MakeNode(kRootNode, "f" + std::to_string(i), S_IFREG | 0644, 0, kMe)));
    nodes->push_back(f.attr.node);
    std::string text(5000, 'x');
    for (uint64_t k = 0; k < (i == 0 ? 150u : 3u); ++k) (void)Must(rig->Run(v.Write(f.attr.node, k * 20'000, Text(text), {})));
    Must(rig->Run(v.SetXattr(f.attr.node, "user.a", Bytes(static_cast<size_t>(i) * 3000), XattrMode::kSet)));
  }
  Entry l = Must(rig->Run(v.Symlink(kRootNode, "l", std::string(4000, 't'), kMe)));
  nodes->push_back(l.attr.node);
  nodes->push_back(kRootNode);
}

void Use(VolumeRig* rig, const std::vector<KernelInode>& nodes) {
  Vfs& v = rig->vfs();
  sim::SimRandom& random = rig->world.random();
  AlignedBuffer buffer(65536);
  for (int i = 0; i < 150; ++i) {
    KernelInode n = nodes[random.Below(nodes.size())], m = nodes[random.Below(nodes.size())];
    std::string name = random.Below(2) ? "f" + std::to_string(random.Below(4)) : "some-longer-name-" + std::to_string(random.Below(150));
    switch (random.Below(14)) {
      case 0: (void)rig->Run(v.Lookup(n, name)); break;
      case 1: (void)rig->Run(v.ReadDir(n, {.cookie = random.Below(2) ? 0 : random.Next() >> 1, .plus = true})); break;
      case 2: (void)rig->Run(v.Read(n, random.Below(3'000'000), buffer.span(), {})); break;
      case 3: (void)rig->Run(v.Write(n, random.Below(3'000'000), buffer.span().first(random.Below(9000)), {})); break;
      case 4: (void)rig->Run(v.Set(n, {.which = kSetSize, .size = random.Below(3'000'000)})); break;
      case 5: (void)rig->Run(v.Unlink(n, name)); break;
      case 6: (void)rig->Run(v.Rename(n, name, m, "new" + std::to_string(i), 0)); break;
      case 7: (void)rig->Run(v.SetXattr(n, "user.a", Bytes(random.Below(20'000)), XattrMode::kSet)); break;
      case 8: (void)rig->Run(v.ListXattr(n)); break;
      case 9: (void)rig->Run(v.RemoveXattr(n, "user.a")); break;
      case 10: (void)rig->Run(v.Fsync(n, false)); break;
      case 11: (void)rig->Run(v.ReadLink(n)); break;
      case 12: (void)rig->Run(v.Lookup(random.Next(), "..")); break;
      default: (void)rig->Run(v.MakeDir(n, "made" + std::to_string(i), 0755, kMe)); break;
    }
  }
  rig->world.RunFor(Seconds(12));
}

std::string RunHostile(uint64_t seed) {
  VolumeRig rig(seed, 24);
  rig.Mount();
  std::vector<KernelInode> nodes;
  Populate(&rig, &nodes);
  rig.Unmount();
  auto blocks = rig.Run(FindBlocks(&rig));
  for (int i = 0; i < 3; ++i) rig.world.Run(*rig.process, Damage(&rig, blocks[rig.world.random().Below(std::min<size_t>(blocks.size(), 40))]));
  rig.mount = std::make_unique<VfsRig>(rig.session.get());
  auto started = rig.Run(rig.mount->Start());
  if (started.ok()) Use(&rig, nodes);
  rig.Kill();
  return "";
}

}  // namespace

TEST_CASE("vfs: damaged metadata with good checksums gives errors, never a crash", "[fs][sim]") {
  auto report = sim::RunSeeds({.count = 300, .batch = 20}, RunHostile);
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("vfs: numbers that were never given out are stale", "[fs][unit]") {
  VolumeRig rig(1, 24);
  rig.Mount();
  sim::SimRandom random(3);
  for (int i = 0; i < 500; ++i) {
    KernelInode node = random.Below(2) ? random.Next() : random.Below(7000) | uint64_t{1} << 48;
    if (node == kRootNode) continue;
    auto attr = rig.Run(rig.vfs().GetAttr(node));
    CHECK((attr.code() == Errc::kStale || (attr.ok() && attr->node == node)));
  }
  rig.Unmount();
}

}  // namespace holdfast::fs::test
