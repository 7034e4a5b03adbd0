#include "tests/fuzz/volume_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/crc32c.h"
#include "fs/meta_block.h"
#include "fs/replay.h"
#include "mkfs/make_volume.h"
#include "tests/fuzz/mounted_volume.h"

namespace holdfast::fuzz {

using fs::BlockType;

MemoryDevice::MemoryDevice(sim::DiskImage image) : image_(std::move(image)) {
  info_.name = "memory";
  info_.size_bytes = image_.size();
}
Status MemoryDevice::Fits(const char* what, uint64_t offset, uint64_t length) {
  if (offset % kBlockSize == 0 && length % kBlockSize == 0 && offset <= image_.size() && length <= image_.size() - offset) return {};
  if (outrage_.empty()) outrage_ = std::string(what) + " of " + std::to_string(length) + " bytes at " + std::to_string(offset);
  return Error(Errc::kInvalid, "outside the device");
}
void MemoryDevice::Guard(const fs::Geometry& geometry, MountNo journal) {
  guarded_ = true;
  geometry_ = geometry;
  journal_first_ = geometry.JournalStart(journal).v;
  journal_end_ = journal_first_ + geometry.journal_blocks;
}
void MemoryDevice::Judge(uint64_t block, std::span<const std::byte> bytes) {
  bool ours = (block >= journal_first_ && block < journal_end_) || geometry_.InGroups(BlockNo(block));
  bool over = ours && geometry_.InGroups(BlockNo(block)) && geometry_.IsOverhead(BlockNo(block)) && fs::HeaderOf(bytes).magic != fs::kBlockMagic;
  if (ours && !over) return;
  if (outrage_.empty()) outrage_ = (over ? "data over the group's own block " : "a write to block ") + std::to_string(block);
}
Task<Status> MemoryDevice::Read(uint64_t offset, std::span<std::byte> out) {
  Status fits = Fits("a read", offset, out.size());
  if (fits.ok()) image_.Read(offset, out);
  co_return fits;
}
Task<Status> MemoryDevice::Write(uint64_t offset, std::span<const std::byte> in, WriteFlags) {
  Status fits = Fits("a write", offset, in.size());
  if (!fits.ok()) co_return fits;
  for (size_t at = 0; guarded_ && at < in.size(); at += kBlockSize) Judge((offset + at) / kBlockSize, in.subspan(at, kBlockSize));
  image_.Write(offset, in);
  co_return fits;
}
Task<Status> MemoryDevice::Flush() { co_return Status(); }
Task<Status> MemoryDevice::Discard(uint64_t offset, uint64_t length) {
  Status fits = Fits("a discard", offset, length);
  if (fits.ok()) image_.Zero(offset, length);
  co_return fits;
}
Task<void> MemoryDevice::Close() { co_return; }

BlockBytes ReadBlock(const sim::DiskImage& image, uint64_t block) {
  BlockBytes bytes(kBlockSize);
  image.Read(block * kBlockSize, bytes);
  return bytes;
}

namespace {

void Seal(BlockBytes& bytes) {
  std::span<std::byte> block(bytes);
  fs::HeaderOf(block).crc32c = fs::BlockCrc(block);
}

}  // namespace

void WriteSealed(const BaseImage& base, sim::DiskImage* image, uint64_t block, BlockBytes bytes) {
  Seal(bytes);
  image->Write(block * kBlockSize, bytes);
  for (const BaseImage::Record& record : base.records) {
    if (std::find(record.blocks.begin(), record.blocks.end(), block) == record.blocks.end()) continue;
    uint32_t crc = 0;
    for (uint64_t b : record.blocks) crc = Crc32c(ReadBlock(*image, b), crc);
    BlockBytes commit = ReadBlock(*image, record.commit);
    fs::As<fs::DiskLogCommit>(std::span<std::byte>(commit)).record_crc32c = crc;
    Seal(commit);
    image->Write(record.commit * kBlockSize, commit);
  }
}

namespace {

const fs::Caller kMe{0, 0, 022};
constexpr uint64_t kVolumeMiB = 12;

KernelInode Node(Result<fs::Entry> entry) {
  HF_CHECK(entry.ok(), "the script: %s", entry.error().ToString().c_str());
  return entry->attr.node;
}
template <class T>
void Good(const T& result) {
  HF_CHECK(result.ok(), "the script: %s", result.error().ToString().c_str());
}

// Every kind of object, small: a directory with tree blocks, files inline, with extents, with a tree of them, sparse,
// unwritten; attributes inline and in tree blocks; links; devices.
void Populate(MountedVolume& v) {
  fs::Vfs& vfs = v.vfs();
  auto file = [&](KernelInode in, const char* name) { return Node(v.Run(vfs.MakeNode(in, name, S_IFREG | 0644, 0, kMe))); };
  auto write = [&](KernelInode node, uint64_t at, size_t bytes) {
    Bytes data(bytes, std::byte{'x'});
    Good(v.Run(vfs.Write(node, at, data, {})));
  };
  KernelInode names = Node(v.Run(vfs.MakeDir(fs::kRootNode, "names", 0755, kMe)));
  KernelInode one = file(names, "one");
  for (int i = 0; i < 180; ++i) Good(v.Run(vfs.Link(one, names, "a-name-that-takes-some-room-" + std::to_string(i))));
  KernelInode in_line = file(fs::kRootNode, "inline");
  write(in_line, 0, 100);
  KernelInode large = file(fs::kRootNode, "large");
  for (uint64_t i = 0; i < 150; ++i) write(large, i * 8192, 100);
  KernelInode some = file(fs::kRootNode, "some");
  write(some, 0, 9000);
  write(some, 1 << 20, 5000);
  Good(v.Run(vfs.Fallocate(some, 2 << 20, 64 << 10, 0)));
  KernelInode attrs = file(fs::kRootNode, "attrs");
  Good(v.Run(vfs.SetXattr(attrs, "user.small", Bytes(20, std::byte{1}), fs::XattrMode::kSet)));
  Good(v.Run(vfs.SetXattr(attrs, "user.large", Bytes(9000, std::byte{2}), fs::XattrMode::kSet)));
  Node(v.Run(vfs.Symlink(fs::kRootNode, "short", "inline", kMe)));
  Node(v.Run(vfs.Symlink(fs::kRootNode, "long", std::string(4000, 't'), kMe)));
  KernelInode sub = Node(v.Run(vfs.MakeDir(fs::kRootNode, "sub", 0700, kMe)));
  KernelInode deep = Node(v.Run(vfs.MakeDir(sub, "deep", 0700, kMe)));
  file(deep, "leaf");
  Good(v.Run(vfs.MakeNode(sub, "pipe", S_IFIFO | 0600, 0, kMe)));
  Good(v.Run(vfs.MakeNode(sub, "disk", S_IFBLK | 0600, uint64_t{8} << 32 | 1, kMe)));
  for (KernelInode node : {large, some, attrs}) Good(v.Run(vfs.Fsync(node, false)));
}

// What a kill leaves: records in the log, an orphan that was open, claims.
void Unsettle(MountedVolume& v) {
  fs::Vfs& vfs = v.vfs();
  KernelInode gone = Node(v.Run(vfs.MakeNode(fs::kRootNode, "gone", S_IFREG | 0644, 0, kMe)));
  Good(v.Run(vfs.Open(gone, {.write = true})));
  Good(v.Run(vfs.Write(gone, 0, Bytes(20'000, std::byte{'g'}), {})));
  Good(v.Run(vfs.Fsync(gone, false)));
  Good(v.Run(vfs.Unlink(fs::kRootNode, "gone")));
  KernelInode fresh = Node(v.Run(vfs.MakeDir(fs::kRootNode, "fresh", 0755, kMe)));
  for (int i = 0; i < 4; ++i) Good(v.Run(vfs.MakeNode(fresh, "f" + std::to_string(i), S_IFREG | 0644, 0, kMe)));
  auto large = v.Run(vfs.Lookup(fs::kRootNode, "large"));
  Good(v.Run(vfs.Write(Node(std::move(large)), 7 << 20, Bytes(5000, std::byte{'z'}), {})));
  Good(v.Run(vfs.Rename(fresh, "f1", fs::kRootNode, "renamed", 0)));
  Good(v.Run(vfs.Fsync(fresh, false)));
}

void FindRecords(BaseImage* base, uint32_t journal) {
  const fs::Geometry& g = base->super.geometry;
  uint64_t log = g.JournalStart(MountNo(journal)).v + fs::kJournalLogIndex;
  BlockBytes header = ReadBlock(base->image, g.JournalStart(MountNo(journal)).v);
  for (uint64_t position = 0; position < g.LogBlocks();) {
    BlockBytes first = ReadBlock(base->image, log + position);
    const auto& d = fs::As<fs::DiskLogDescriptor>(std::span<const std::byte>(first));
    if (!fs::CheckBlock(first, BlockNo(log + position), BlockType::kLogDescriptor, g.uuid).ok()) break;
    BaseImage::Record record;
    uint64_t body = uint64_t{d.descriptors} + d.images;
    if (position + body >= g.LogBlocks()) break;
    for (uint64_t i = 0; i < body; ++i) record.blocks.push_back(log + position + i);
    record.commit = log + position + body;
    position += body + 1;
    base->records.push_back(std::move(record));
  }
}

void FindPlaces(BaseImage* base) {
  const fs::Geometry& g = base->super.geometry;
  auto add = [&](uint64_t block, uint64_t commit) {
    BlockBytes bytes = ReadBlock(base->image, block);
    const fs::DiskBlockHeader& h = fs::HeaderOf(std::span<const std::byte>(bytes));
    if (h.magic == fs::kBlockMagic) base->places.push_back({block, static_cast<BlockType>(uint16_t{h.type}), commit});
  };
  for (uint64_t block : {fs::kSuperblockBlock, fs::kSuperblockBlock + 1, fs::kSuperblockBackupBlock}) add(block, 0);
  for (uint32_t j = 0; j < g.journal_count; ++j)
    for (uint64_t i = 0; i < fs::kJournalLogIndex; ++i) add(g.JournalStart(MountNo(j)).v + i, 0);
  for (const BaseImage::Record& record : base->records) {
    for (uint64_t block : record.blocks) add(block, record.commit);
    add(record.commit, record.commit);
  }
  for (uint64_t block = g.first_group_block; block < g.volume_blocks; ++block) add(block, 0);
}

BaseImage Make(bool crashed) {
  MountedVolume volume(sim::DiskImage(kVolumeMiB << 20));
  mkfs::MakeVolumeOptions options;
  options.journals = 2;
  options.journal_mib = 1;
  options.quorum_area = false;
  options.now = {1'700'000'000, 0};
  sim::SimRandom random(7);
  auto made = volume.Run(mkfs::MakeVolume(volume.device(), std::move(options), random));
  Good(made);
  Good(volume.Mount());
  Populate(volume);
  Good(volume.Unmount());
  BaseImage base;
  base.super = *made;
  if (crashed) {
    Good(volume.Mount());
    Unsettle(volume);
  }
  base.image = volume.device().image();
  if (crashed) volume.Withdraw();
  if (crashed) FindRecords(&base, 0);
  FindPlaces(&base);
  HF_CHECK(base.places.size() > 30 && (!crashed || !base.records.empty()), "%zu places, %zu records", base.places.size(), base.records.size());
  return base;
}

uint64_t Interesting(const BaseImage& base, uint32_t which) {
  const fs::Geometry& g = base.super.geometry;
  const uint64_t numbers[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX,
                              uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 1, g.volume_blocks, g.volume_blocks - 1, g.first_group_block,
                              g.first_group_block + 1, g.first_journal_block, g.journal_blocks, g.LogBlocks(), base.super.root_inode.v,
                              uint64_t{1} << 48, uint64_t{1} << 51, uint64_t{1} << 52, 4096, 4032, 3328, 512, 960};
  constexpr size_t kNumbers = sizeof numbers / sizeof numbers[0];
  size_t i = which % (kNumbers + base.places.size());
  return i < kNumbers ? numbers[i] : base.places[i - kNumbers].block;
}

size_t OffsetOf(const BlockBytes& bytes, uint16_t field) {
  if ((field & 0x8000) == 0) return field % kBlockSize;
  std::vector<size_t> used;
  for (size_t i = 0; i < bytes.size(); ++i)
    if (bytes[i] != std::byte{0}) used.push_back(i);
  return used.empty() ? 0 : used[(field & 0x7fff) % used.size()];
}

void ChangeBytes(const BaseImage& base, BlockBytes* bytes, size_t at, uint8_t operation, uint32_t argument) {
  size_t width = std::min<size_t>(size_t{1} << (operation >> 3 & 3), kBlockSize - at);
  uint64_t now = 0;
  std::memcpy(&now, bytes->data() + at, width);
  uint64_t next = now;
  switch (operation & 7) {
    case 0: next = argument; break;
    case 1: next = ~uint64_t{argument}; break;
    case 2: next = now + argument; break;
    case 3: next = now - argument; break;
    case 4: next = now ^ uint64_t{1} << (argument & 63); break;
    case 5: {  // bytes from elsewhere in the block
      size_t from = argument % kBlockSize, count = std::min<size_t>({1 + (argument >> 12 & 63), kBlockSize - from, kBlockSize - at});
      std::memmove(bytes->data() + at, bytes->data() + from, count);
      return;
    }
    default: next = Interesting(base, argument); break;
  }
  std::memcpy(bytes->data() + at, &next, width);
}

void Show(const Place& place, const BlockBytes& before, const BlockBytes& after, size_t offset) {
  fprintf(stderr, "%s, block %llu, offset %zu:", fs::BlockTypeName(place.type), static_cast<unsigned long long>(place.block), offset);
  for (const BlockBytes* bytes : {&before, &after}) {
    for (size_t i = offset; i < std::min<size_t>(offset + 8, kBlockSize); ++i) fprintf(stderr, " %02x", static_cast<unsigned>((*bytes)[i]));
    fprintf(stderr, bytes == &before ? " ->" : "\n");
  }
}

}  // namespace

const BaseImage& CleanBase() {
  static const BaseImage* base = new BaseImage(Make(false));
  return *base;
}
const BaseImage& CrashedBase() {
  static const BaseImage* base = new BaseImage(Make(true));
  return *base;
}

Patched Apply(std::span<const uint8_t> input) {
  constexpr size_t kChange = 8, kChangesMax = 64;
  bool crashed = !input.empty() && (input[0] & 1) != 0;
  const BaseImage& base = crashed ? CrashedBase() : CleanBase();
  static const bool show = getenv("HOLDFAST_FUZZ_SHOW") != nullptr;
  Patched out{&base, base.image, 0};
  for (size_t at = 1; at + kChange <= input.size() && out.changes < static_cast<int>(kChangesMax); at += kChange, ++out.changes) {
    const uint8_t* c = input.data() + at;
    const Place& place = out.base->places[static_cast<size_t>(c[0] | c[1] << 8) % out.base->places.size()];
    BlockBytes bytes = ReadBlock(out.image, place.block);
    size_t offset = OffsetOf(bytes, static_cast<uint16_t>(c[2] | c[3] << 8));
    BlockBytes before = bytes;
    ChangeBytes(*out.base, &bytes, offset, c[4], static_cast<uint32_t>(c[5] | c[6] << 8 | c[7] << 16));
    if (show) Show(place, before, bytes, offset);
    WriteSealed(*out.base, &out.image, place.block, std::move(bytes));
  }
  return out;
}

}  // namespace holdfast::fuzz
