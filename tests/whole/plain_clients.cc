// PlainClients: each user of a mount replaces its own file again and again (write a new one, fsync, rename over, often fsync
// the directory), reads the others', keeps some open while they are replaced, writes its cell of a file that all share and
// whoever likes syncs for everybody, and creates and removes shared names. Model per file and cell: the newest version
// begun, completed, promised by fsync.
#include <sys/stat.h>

#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/log.h"
#include "fs/vfs.h"
#include "tests/whole/clients.h"

namespace holdfast::whole {
namespace {

using namespace fs;

constexpr uint32_t kUsers = 2;
const Caller kMe{0, 0, 022};

struct FileModel {
  uint64_t begun = 0, completed = 0, synced = 0;
};

struct Content {
  uint64_t magic = 0, node = 0, user = 0, version = 0;
};
constexpr uint64_t kMagic = 0x31'54'4e'45'49'4c'43;

class PlainClients final : public Clients {
 public:
  explicit PlainClients(sim::World* world) : world_(world) {}

  void Attach(NodeId node, Mount* mount, sim::SimExecutor* executor) override {
    Place& place = places_[node];
    place = Place{};
    place.mount = mount;
    place.executor = executor;
    place.life = ++lives_;
    for (uint32_t user = 0; user < kUsers; ++user) {
      ++place.running;
      executor->Spawn(User(node, user, place.life));
    }
  }
  Task<void> Detach(NodeId node) override {
    Place& place = places_[node];
    uint64_t life = place.life;
    place.stop = true;
    while (places_[node].life == life && places_[node].running > 0) co_await SleepFor(Milliseconds(1));
    places_[node].mount = nullptr;
  }
  void NodeDied(NodeId node) override { Died(node); }
  void MountDied(NodeId node) override { Died(node); }
  Task<void> Withdraw(NodeId node, Error why) override {
    Mount* mount = places_[node].mount;
    Died(node);
    if (mount) co_await mount->Withdraw(why);
  }
  // A paused life: what it had completed without a sync may be gone from now on, and what it completes later counts for nobody.
  void Replayed(const MemberId& victim) override {
    for (auto& [node, place] : places_) {
      if (place.mount == nullptr || place.buried) continue;
      const OwnerStamp& owner = place.mount->owner();
      if (owner.node != victim.node || owner.nonce != victim.nonce) continue;
      place.buried = true;
      Forget(node);
    }
  }
  void Recovered(NodeId) override {}
  void DiskErrors(NodeId node) override { disk_errors_.insert(node); }
  void Quiesce() override { quiet_ = true; }
  bool Idle() const override {
    for (const auto& [node, place] : places_)
      if (place.mount && place.running > 0) return false;
    return true;
  }
  Task<void> FinalCheck(NodeId node) override {
    Mount* mount = places_[node].mount;
    if (!mount) co_return;
    for (const auto& [who, model] : files_) {
      Status read = co_await ReadFile(mount, who.first, who.second);
      if (!read.ok() && !mount->withdrawn()) Violate("I6: at the end " + NameOf(who.first, who.second) + " cannot be read: " + read.error().ToString());
    }
  }
  Task<std::string> CheckCold(Mount* mount) override {
    std::string before = std::exchange(violation_, "");
    for (const auto& [who, model] : files_) {
      FileModel promised{model.begun, model.synced, model.synced};
      Status read = co_await ReadFileOf(mount, who.first, who.second, promised, true);
      if (!read.ok()) Violate("I4: " + NameOf(who.first, who.second) + " cannot be read: " + read.error().ToString());
    }
    for (const auto& [who, model] : cells_) {
      FileModel promised{model.begun, model.synced, model.synced};
      Status read = co_await ReadCell(mount, who, promised, true);
      if (!read.ok()) Violate("I4: the cells cannot be read: " + read.error().ToString());
    }
    co_return std::exchange(violation_, before);
  }
  const std::string& Violation() const override { return violation_; }
  std::string Verify() override { return violation_; }
  std::string Dump() const override {
    std::string out = "clients: " + std::to_string(operations_) + " operations";
    for (const auto& [node, place] : places_) {
      if (!place.mount) continue;
      for (const auto& [user, what] : place.doing)
        if (!what.empty()) out += "\n  n" + std::to_string(node.v) + " user " + std::to_string(user) + ": " + what;
    }
    return out + "\n";
  }
  uint64_t operations() const override { return operations_; }

 private:
  struct Place {
    Mount* mount = nullptr;
    sim::SimExecutor* executor = nullptr;
    uint64_t life = 0;
    bool buried = false;  // fenced and replayed, though it may not know yet
    uint32_t running = 0;
    bool stop = false;
    std::map<uint32_t, std::string> doing;
  };

  void Violate(std::string what) {
    if (violation_.empty()) violation_ = std::move(what);
  }
  void Died(NodeId node) {
    places_[node].mount = nullptr;
    Forget(node);
  }
  // What was completed and not synced is promised no more.
  void Forget(NodeId node) {
    ++deaths_[node];
    for (auto* models : {&files_, &cells_})
      for (auto& [who, model] : *models)
        if (who.first == node) model.completed = model.synced;
  }
  static std::string NameOf(NodeId node, uint32_t user) { return "f" + std::to_string(node.v) + "." + std::to_string(user); }
  bool Lives(NodeId node, uint64_t life) const {
    auto it = places_.find(node);
    return it != places_.end() && it->second.life == life && it->second.mount != nullptr;
  }
  // An error that a healthy mount must not give.
  void Judge(NodeId node, uint64_t life, const char* what, const Error& error) {
    if (!Lives(node, life) || places_[node].mount->withdrawn()) return;
    if (error.code == Errc::kIo && disk_errors_.contains(node)) return;
    if (error.code == Errc::kFenced || error.code == Errc::kCancelled || error.code == Errc::kDisconnected || error.code == Errc::kConflict) return;
    Violate(std::string(what) + " on n" + std::to_string(node.v) + " failed: " + error.ToString());
  }

  Task<void> User(NodeId node, uint32_t user, uint64_t life) {
    sim::SimRandom& random = world_->random();
    while (!quiet_ && Lives(node, life) && !places_[node].stop && violation_.empty()) {
      Mount* mount = places_[node].mount;
      std::string& doing = places_[node].doing[user];
      uint64_t what = random.Below(14);
      bool ok = true;
      if (what >= 12) {
        doing = "holds open";
        ok = co_await HoldOpen(mount, node, life);
      } else if (what >= 10) {
        doing = "cells";
        ok = co_await Cells(mount, node, user, life);
      } else if (what < 4) {
        doing = "replace";
        ok = co_await Replace(mount, node, user, life);
      } else if (what < 8) {
        doing = "read";
        if (!files_.empty()) {
          auto it = std::next(files_.begin(), static_cast<ptrdiff_t>(random.Below(files_.size())));
          std::pair<NodeId, uint32_t> who = it->first;
          Status read = co_await ReadFile(mount, who.first, who.second);
          if (!read.ok()) {
            Judge(node, life, "read", read.error());
            ok = false;
          }
        }
      } else {
        doing = "shared name";
        ok = co_await SharedName(mount, node, life);
      }
      ++operations_;
      if (!ok && Lives(node, life)) ok = disk_errors_.contains(node) && !mount->withdrawn();
      if (!ok || !Lives(node, life)) break;
      places_[node].doing[user] = "";
      co_await SleepFor(random.Between(Microseconds(100), Milliseconds(20)));
    }
    if (Lives(node, life)) --places_[node].running;
  }

  Task<bool> Replace(Mount* mount, NodeId node, uint32_t user, uint64_t life) {
    Vfs& vfs = mount->vfs();
    std::string tmp = "t" + std::to_string(node.v) + "." + std::to_string(user);
    FileModel& model = files_[{node, user}];
    Content content{kMagic, node.v, user, ++model.begun};
    OpenOptions open;
    open.write = open.truncate = true;
    auto made = co_await vfs.Create(kRootNode, tmp, S_IFREG | 0644, false, kMe, open);
    if (!made.ok()) co_return Failed(node, life, "create", made.error());
    KernelInode inode = made->attr.node;
    bool good = co_await Fill(mount, node, user, life, tmp, inode, content);
    if (Lives(node, life)) (void)co_await vfs.Release(inode);
    co_return good;
  }

  Task<bool> Fill(Mount* mount, NodeId node, uint32_t user, uint64_t life, std::string tmp, KernelInode inode, Content content) {
    Vfs& vfs = mount->vfs();
    FileModel& model = files_[{node, user}];
    std::vector<std::byte> bytes(sizeof content + world_->random().Below(6000));
    std::memcpy(bytes.data(), &content, sizeof content);
    auto written = co_await vfs.Write(inode, 0, bytes, {});
    if (!written.ok()) co_return Failed(node, life, "write", written.error());
    Status synced = co_await vfs.Fsync(inode, false);
    if (!synced.ok()) co_return Failed(node, life, "fsync", synced.error());
    auto renamed = co_await vfs.Rename(kRootNode, tmp, kRootNode, NameOf(node, user), 0);
    if (!renamed.ok()) co_return Failed(node, life, "rename", renamed.error());
    if (!Lives(node, life)) co_return false;
    if (!places_[node].buried) model.completed = content.version;
    if (world_->random().Chance(500'000)) {
      Status safe = co_await vfs.Fsync(kRootNode, false);
      if (!safe.ok()) co_return Failed(node, life, "fsync of the directory", safe.error());
      if (!Lives(node, life)) co_return false;
      model.synced = std::max(model.synced, content.version);
    }
    co_return true;
  }

  bool Failed(NodeId node, uint64_t life, const char* what, const Error& error) {
    Judge(node, life, what, error);
    return false;
  }

  Task<Status> ReadFile(Mount* mount, NodeId node, uint32_t user) {
    FileModel before = files_[{node, user}];
    Status read = co_await ReadFileOf(mount, node, user, before, false);
    co_return read;
  }
  // cold: judged by `before` alone.
  Task<Status> ReadFileOf(Mount* mount, NodeId node, uint32_t user, FileModel before, bool cold) {
    Vfs& vfs = mount->vfs();
    uint64_t deaths = deaths_[node];
    uint64_t version = 0;
    auto entry = co_await vfs.Lookup(kRootNode, NameOf(node, user));
    if (!entry.ok()) co_return entry.error();
    if (entry->found()) {
      KernelInode inode = entry->attr.node;
      AlignedBuffer buffer(kBlockSize);
      auto read = co_await vfs.Read(inode, 0, buffer.span(), {});
      vfs.Forget(inode);
      if (read.code() == Errc::kStale) co_return Status();  // replaced meanwhile
      if (!read.ok()) co_return read.error();
      Content content;
      if (read->bytes >= sizeof content) std::memcpy(&content, buffer.data(), sizeof content);
      if (content.magic != kMagic || content.node != node.v || content.user != user)
        Violate("I6: " + NameOf(node, user) + " holds what was never written (" + std::to_string(read->bytes) + " bytes)");
      version = content.version;
    }
    FileModel after = cold ? before : files_[{node, user}];
    uint64_t least = deaths == deaths_[node] ? before.completed : before.synced;
    if (version < least || version > after.begun)
      Violate((version < before.synced ? "I4: " : "I6: ") + NameOf(node, user) + " has version " + std::to_string(version) + ", not in " +
              std::to_string(least) + ".." + std::to_string(after.begun));
    co_return Status();
  }

  // What was open when its name went to another file stays as it was.
  Task<bool> HoldOpen(Mount* mount, NodeId node, uint64_t life) {
    if (files_.empty()) co_return true;
    Vfs& vfs = mount->vfs();
    auto it = std::next(files_.begin(), static_cast<ptrdiff_t>(world_->random().Below(files_.size())));
    std::string name = NameOf(it->first.first, it->first.second);
    auto entry = co_await vfs.Lookup(kRootNode, name);
    if (!entry.ok()) co_return Failed(node, life, "lookup", entry.error());
    if (!entry->found()) co_return true;
    KernelInode inode = entry->attr.node;
    auto opened = co_await vfs.Open(inode, {});
    bool good = opened.ok() || opened.code() == Errc::kStale || opened.code() == Errc::kNotFound;  // replaced meanwhile
    if (!good) Judge(node, life, "open", opened.error());
    if (opened.ok()) {
      AlignedBuffer first(kBlockSize), again(kBlockSize);
      auto before = co_await vfs.Read(inode, 0, first.span(), {});
      co_await SleepFor(world_->random().Between(Microseconds(10), Milliseconds(60)));
      Result<ReadResult> after = Errc::kIo;
      if (before.ok() && Lives(node, life)) after = co_await vfs.Read(inode, 0, again.span(), {});
      bool judged = Lives(node, life) && !places_[node].buried && !mount->withdrawn();
      for (Errc code : {before.code(), after.code()})
        if (judged && (code == Errc::kStale || code == Errc::kNotFound)) Violate("I6: " + name + ", open on n" + std::to_string(node.v) + ", is gone");
      if (judged && before.ok() && after.ok() && (before->bytes != after->bytes || std::memcmp(first.data(), again.data(), kBlockSize) != 0))
        Violate("I6: " + name + ", open on n" + std::to_string(node.v) + ", became another file");
      good = before.ok() && after.ok();
      if (!before.ok()) Judge(node, life, "read of an open file", before.error());
      else if (!after.ok()) Judge(node, life, "read of an open file", after.error());
      if (Lives(node, life)) (void)co_await vfs.Release(inode);
    }
    if (Lives(node, life)) vfs.Forget(inode);
    co_return good;
  }

  // ---- a file of everybody's cells, a block each ----

  static constexpr const char* kCells = "cells";
  static uint64_t CellAt(std::pair<NodeId, uint32_t> who) { return (uint64_t{who.first.v - 1} * kUsers + who.second) * kBlockSize; }

  Task<bool> Cells(Mount* mount, NodeId node, uint32_t user, uint64_t life) {
    Vfs& vfs = mount->vfs();
    OpenOptions open;
    open.write = true;
    auto made = co_await vfs.Create(kRootNode, kCells, S_IFREG | 0644, false, kMe, open);
    if (!made.ok()) co_return Failed(node, life, "create", made.error());
    bool good = co_await UseCells(mount, node, user, life, made->attr.node);
    if (Lives(node, life)) (void)co_await vfs.Release(made->attr.node);
    if (Lives(node, life)) vfs.Forget(made->attr.node);
    co_return good;
  }
  Task<bool> UseCells(Mount* mount, NodeId node, uint32_t user, uint64_t life, KernelInode inode) {
    Vfs& vfs = mount->vfs();
    uint64_t what = world_->random().Below(3);
    if (what == 0) {
      FileModel& model = cells_[{node, user}];
      Content content{kMagic, node.v, user, ++model.begun};
      std::vector<std::byte> bytes(kBlockSize);
      std::memcpy(bytes.data(), &content, sizeof content);
      auto written = co_await vfs.Write(inode, CellAt({node, user}), bytes, {});
      if (!written.ok()) co_return Failed(node, life, "write of a cell", written.error());
      if (Lives(node, life) && !places_[node].buried) model.completed = content.version;
    } else if (what == 1) {
      // What anybody had completed when it began is safe when it ends, also what came after we opened it.
      co_await SleepFor(world_->random().Between(Microseconds(10), Milliseconds(30)));
      if (!Lives(node, life)) co_return false;
      auto before = cells_;
      auto deaths = deaths_;
      Status synced = co_await vfs.Fsync(inode, world_->random().Chance(500'000));
      if (!synced.ok()) co_return Failed(node, life, "fsync of the cells", synced.error());
      if (!Lives(node, life) || places_[node].buried) co_return true;
      for (const auto& [who, model] : before)
        if (deaths[who.first] == deaths_[who.first]) cells_[who].synced = std::max(cells_[who].synced, model.completed);
    } else if (!cells_.empty()) {
      auto it = std::next(cells_.begin(), static_cast<ptrdiff_t>(world_->random().Below(cells_.size())));
      std::pair<NodeId, uint32_t> who = it->first;
      FileModel model = it->second;
      Status read = co_await ReadCell(mount, who, model, false);
      if (!read.ok()) co_return Failed(node, life, "read of a cell", read.error());
    }
    co_return true;
  }
  Task<Status> ReadCell(Mount* mount, std::pair<NodeId, uint32_t> who, FileModel before, bool cold) {
    Vfs& vfs = mount->vfs();
    uint64_t deaths = deaths_[who.first], version = 0;
    auto entry = co_await vfs.Lookup(kRootNode, kCells);
    if (!entry.ok()) co_return entry.error();
    std::string name = "cell " + std::to_string(who.first.v) + "." + std::to_string(who.second);
    if (entry->found()) {
      KernelInode inode = entry->attr.node;
      AlignedBuffer buffer(kBlockSize);
      auto read = co_await vfs.Read(inode, CellAt(who), buffer.span(), {});
      vfs.Forget(inode);
      if (!read.ok()) co_return read.error();
      Content content;
      if (read->bytes >= sizeof content) std::memcpy(&content, buffer.data(), sizeof content);
      if (content.magic == kMagic && content.node == who.first.v && content.user == who.second) version = content.version;
      else if (content.magic != 0) Violate("I6: " + name + " holds what was never written");
    }
    uint64_t least = deaths == deaths_[who.first] ? before.completed : before.synced;
    uint64_t most = cold ? before.begun : cells_[who].begun;
    if (version < least || version > most)
      Violate((version < before.synced ? "I4: " : "I6: ") + name + " has version " + std::to_string(version) + ", not in " +
              std::to_string(least) + ".." + std::to_string(most));
    co_return Status();
  }

  Task<bool> SharedName(Mount* mount, NodeId node, uint64_t life) {
    Vfs& vfs = mount->vfs();
    sim::SimRandom& random = world_->random();
    std::string name = "s" + std::to_string(random.Below(4)), other = "s" + std::to_string(random.Below(4));
    Errc got = Errc::kOk;
    switch (random.Below(4)) {
      case 0: {
        auto made = co_await vfs.MakeDir(kRootNode, name, 0755, kMe);
        got = made.code();
        break;
      }
      case 1: {
        auto removed = co_await vfs.RemoveDir(kRootNode, name);
        got = removed.code();
        break;
      }
      case 2: {
        auto moved = co_await vfs.Rename(kRootNode, name, kRootNode, other, 0);
        got = moved.code();
        break;
      }
      default: {
        auto removed = co_await vfs.Unlink(kRootNode, name);
        got = removed.code();
        break;
      }
    }
    switch (got) {
      case Errc::kOk:
      case Errc::kExists:
      case Errc::kNotFound:
      case Errc::kIsDirectory:
      case Errc::kNotDirectory:
      case Errc::kNotEmpty:
      case Errc::kInvalid:
      case Errc::kPermission: co_return true;
      default: co_return Failed(node, life, "a shared name", Error(got));
    }
  }

  sim::World* world_;
  std::map<NodeId, Place> places_;
  std::map<std::pair<NodeId, uint32_t>, FileModel> files_;
  std::map<std::pair<NodeId, uint32_t>, FileModel> cells_;
  std::map<NodeId, uint64_t> deaths_;
  std::set<NodeId> disk_errors_;
  std::string violation_;
  uint64_t operations_ = 0, lives_ = 0;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Clients> MakePlainClients(sim::World* world) { return std::make_unique<PlainClients>(world); }

}  // namespace holdfast::whole
