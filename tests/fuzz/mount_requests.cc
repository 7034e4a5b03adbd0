// Fuzzer: a mount's KernelRequests with requests in any order, at once, and with any argument that a kernel's structures can
// hold: inodes that are or were known or never existed, names, sizes, offsets, flags. Each is answered once; afterwards the
// volume is clean.
//
//   input: 12 bytes a request: which | inode | name | second inode | second name | flags | offset (3) and its scale | length (2)
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <set>

#include "base/check.h"
#include "fs/kernel_requests.h"
#include "tests/fuzz/mounted_volume.h"

namespace holdfast::fuzz {
namespace {

constexpr size_t kRequest = 12;
constexpr size_t kRequestsMax = 100;

struct NoKernel final : Kernel {
  bool has_epoch() const override { return true; }
  Task<Status> InvalidateInode(KernelInode, int64_t, int64_t) override { co_return Status(); }
  Task<Status> DropEntries(KernelInode, std::vector<KernelEntryDrop>) override { co_return Status(); }
  Status Epoch() override { return {}; }
  Task<Result<SizeSeen>> AskSize(KernelInode, uint32_t) override { co_return Errc::kUnsupported; }
};

// What the kernel knows.
struct Table {
  std::vector<KernelInode> inodes{1, 0, 2, ~uint64_t{0}, uint64_t{1} << 48 | 1};
  std::set<KernelInode> files;  // no directories
  std::vector<fs::FileHandle*> handles;
  size_t waiting = 0;
  std::vector<std::pair<KernelInode, uint64_t>> lookups;
};

class Reply final : public fs::KernelReply {
 public:
  Reply(Table* table, fs::Interrupt* interrupt) : table_(table), interrupt_(interrupt) { ++table->waiting; }
  ~Reply() override { --table_->waiting; }
  void Error(const holdfast::Error&) override { Once(); }
  void Done() override { Once(); }
  void Data(std::span<const std::byte> bytes) override {
    Once();
    for (std::byte b : bytes) sum_ += std::to_integer<uint64_t>(b);  // all of it can be read
  }
  void Written(size_t) override { Once(); }
  void Position(uint64_t) override { Once(); }
  bool Entry(const fs::EntryAnswer& answer) override {
    Once();
    Know(answer);
    return true;
  }
  void Attr(const fs::Attr&, bool) override { Once(); }
  void Opened(const fs::OpenAnswer& answer) override {
    Once();
    table_->handles.push_back(answer.handle);
  }
  void Created(const fs::EntryAnswer& entry, const fs::OpenAnswer& open) override {
    Once();
    Know(entry);
    table_->handles.push_back(open.handle);
  }
  void Listing(fs::KernelRequests& requests, KernelInode dir, const fs::DirPage& page, bool plus, size_t) override {
    Once();
    for (const fs::DirEntry& e : page.entries) {
      if (!plus || e.name == "." || e.name == ".." || !e.has_attr) continue;
      fs::Entry entry;
      entry.attr = e.attr;
      entry.parent_acquisition = page.parent_acquisition;
      Know(requests.JudgeListed(dir, e.name, entry));
    }
  }
  fs::Interrupt* interrupt() override { return interrupt_; }

 private:
  void Once() { HF_CHECK(!std::exchange(answered_, true), "a request is answered twice"); }
  void Know(const fs::EntryAnswer& answer) {
    if (!answer.entry || !answer.entry->found()) return;
    table_->inodes.push_back(answer.entry->attr.node);
    if (answer.entry->attr.type() != fs::FileType::kDirectory) table_->files.insert(answer.entry->attr.node);
    table_->lookups.emplace_back(answer.entry->attr.node, 1);
  }
  Table* table_;
  fs::Interrupt* interrupt_;
  bool answered_ = false;
  uint64_t sum_ = 0;
};

class Kernels {
 public:
  explicit Kernels(MountedVolume* volume) : volume_(volume), requests_(Parts(volume)) {
    requests_.SetCovered([] { return true; });
    data_.assign(300'000, std::byte{'d'});
  }

  void Ask(std::span<const uint8_t> r) {
    auto node = [&](uint8_t i) { return table_.inodes[i % table_.inodes.size()]; };
    auto name = [&](uint8_t i) {
      static const char* const kNames[] = {"a", "b", "inline", "large", "names", "sub", "deep", "", ".", "..", "a/b"};
      if (i < 200) return std::string(kNames[i % (sizeof kNames / sizeof *kNames)]);
      return std::string(i == 255 ? 300 : i == 254 ? 255 : i - 199, 'n');
    };
    uint64_t offset = (uint64_t{r[6]} << 16 | r[7] << 8 | r[8]) << (r[9] % 48);
    size_t length = size_t{r[10]} << 8 | r[11];
    bool flag = (r[5] & 1) != 0;
    uint32_t mode = S_IFREG | 0644;
    fs::Caller caller{r[5] & 2 ? 1000u : 0u, 0, 022};
    fs::OpenMode open{flag, (r[5] & 2) != 0, (r[5] & 4) != 0, (r[5] & 8) != 0, (r[5] & 16) != 0, (r[5] & 32) != 0, (r[5] & 64) != 0};
    fs::FileHandle* handle = table_.handles.empty() ? nullptr : table_.handles[r[1] % table_.handles.size()];
    auto reply = [&] {
      interrupts_.push_back(std::make_unique<fs::Interrupt>());
      return std::make_unique<Reply>(&table_, interrupts_.back().get());
    };
    switch (r[0] % 24) {
      case 0: return requests_.Lookup(reply(), node(r[1]), name(r[2]));
      case 1: return busy() ? void() : Forget(r[1]);  // never of an inode that a request names
      case 2: {
        static const uint32_t kTypes[] = {S_IFREG, S_IFIFO, S_IFCHR, S_IFSOCK, S_IFDIR, S_IFLNK, 0, 0170000};
        return requests_.MakeNode(reply(), node(r[1]), name(r[2]), kTypes[r[5] >> 5] | 0644, offset, caller);
      }
      case 3: return requests_.MakeDir(reply(), node(r[1]), name(r[2]), static_cast<uint32_t>(offset), caller);
      case 4: return requests_.Symlink(reply(), node(r[1]), name(r[2]), std::string(length % 6000, 's'), caller);
      case 5:  // a kernel links no directory: it would be locked after one below it
        if (table_.files.contains(node(r[1]))) requests_.Link(reply(), node(r[1]), node(r[3]), name(r[4]));
        return;
      case 6: return requests_.Remove(reply(), node(r[1]), name(r[2]), flag);
      case 7: return requests_.Rename(reply(), node(r[1]), name(r[2]), node(r[3]), name(r[4]), r[5]);
      case 8: return requests_.ReadLink(reply(), node(r[1]));
      case 9: return requests_.GetAttr(reply(), node(r[1]));
      case 10: {
        fs::SetAttr set;
        set.which = static_cast<uint32_t>(r[5]) << (r[4] % 4);
        set.mode = r[11];
        set.uid = r[10];
        set.size = offset;
        set.flags = static_cast<uint32_t>(offset);
        set.kill_privileges = flag;
        return requests_.Set(reply(), node(r[1]), set);
      }
      case 11: return requests_.ReadDir(reply(), node(r[1]), length, offset, flag);
      case 12: return requests_.Fsync(reply(), node(r[1]), flag);
      case 13: return requests_.Open(reply(), node(r[1]), open);
      case 14: return requests_.Create(reply(), node(r[1]), name(r[2]), mode, open, caller);
      case 15: return requests_.TmpFile(reply(), node(r[1]), mode, open, caller);
      case 16:
        if (handle) requests_.Read(reply(), handle, offset, length * 4, r[5]);
        return;
      case 17:
      case 18: {
        if (!handle || !handle->write) return;
        fs::WriteOptions options;
        options.append = handle->append && flag;
        options.page_io = (r[5] & 2) != 0;
        options.kill_privileges = (r[5] & 4) != 0;
        options.sync = (r[5] & 8) != 0;
        return requests_.Write(reply(), handle, offset, std::span(data_).first(length * 4), options);
      }
      case 19:
        if (handle) requests_.Flush(reply(), handle, r[5]);
        return;
      case 20:
        if (handle && !busy()) Release(r[1]);
        return;
      case 21: return requests_.Fallocate(reply(), node(r[1]), offset, uint64_t{length} << (r[5] % 40), r[4]);
      case 22: return requests_.Seek(reply(), node(r[1]), offset, flag);
      default:
        if (!interrupts_.empty()) interrupts_[r[1] % interrupts_.size()]->Raise();
        return volume_->Pass(Milliseconds(r[5]));
    }
  }
  void End() {
    for (int i = 0; i < 600 && busy(); ++i) volume_->Pass(Seconds(1));
    HF_CHECK(!busy(), "%zu requests have no answer", table_.waiting);
    while (!table_.handles.empty()) Release(0);
    while (!table_.lookups.empty()) Forget(0);
    for (int i = 0; i < 600 && busy(); ++i) volume_->Pass(Seconds(1));
    HF_CHECK(!busy(), "a release has no answer");
    volume_->Pass(Seconds(10));
  }

 private:
  static fs::KernelRequests::Parts Parts(MountedVolume* volume) {
    fs::KernelRequests::Parts parts;
    parts.vfs = &volume->mount().vfs();
    parts.cache = &volume->mount().kernel_cache();
    parts.ranges = &volume->mount().ranges();
    parts.clock = &volume->process().clock();
    return parts;
  }
  bool busy() const { return table_.waiting > 0; }
  void Release(uint8_t which) {
    size_t at = which % table_.handles.size();
    fs::FileHandle* handle = table_.handles[at];
    table_.handles.erase(table_.handles.begin() + static_cast<ptrdiff_t>(at));
    requests_.Release(std::make_unique<Reply>(&table_, nullptr), handle);
  }
  // The kernel forgets only what it was told, and no more often.
  void Forget(uint8_t which) {
    if (table_.lookups.empty()) return;
    size_t at = which % table_.lookups.size();
    auto [inode, count] = table_.lookups[at];
    table_.lookups.erase(table_.lookups.begin() + static_cast<ptrdiff_t>(at));
    requests_.Forget(inode, count);
  }

  MountedVolume* volume_;
  fs::KernelRequests requests_;
  Table table_;
  std::vector<std::unique_ptr<fs::Interrupt>> interrupts_;
  std::vector<std::byte> data_;
};

// Empty, or what was broken.
std::string Try(std::span<const uint8_t> input) {
  MountedVolume volume(CleanBase().image);
  NoKernel kernel;
  HF_CHECK(volume.Mount().ok(), "mount");
  volume.mount().AttachKernel(&kernel);
  {
    ExecutorTurn turn(&volume.process());
    Kernels kernels(&volume);
    for (size_t n = 0; input.size() >= kRequest && n < kRequestsMax; ++n, input = input.subspan(kRequest)) {
      kernels.Ask(input.first(kRequest));
      if ((input[0] & 0x40) != 0) volume.Pass(Milliseconds(2));
    }
    kernels.End();
  }
  if (!volume.fatal().empty()) return "withdrew: " + volume.fatal();
  Status ended = volume.Unmount();
  if (!ended.ok()) return "unmount: " + ended.error().ToString();
  auto after = volume.Check(false);
  if (!after.ok()) return "fsck: " + after.error().ToString();
  return after->clean() ? volume.Outrage() : Words(*after);
}

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string wrong = holdfast::fuzz::Try({data, size});
  if (wrong.empty()) return 0;
  std::fprintf(stderr, "%s\n", wrong.c_str());
  std::abort();
}
