// The tree, names and extents over blocks in memory, against std::map.
#include <catch2/catch.hpp>

#include <cstring>
#include <map>
#include <set>

#include "fs/btree.h"
#include "fs/directory.h"
#include "fs/extents.h"
#include "fs/siphash.h"
#include "fs/xattr.h"
#include "tests/sim/world.h"

namespace holdfast::fs {
namespace {

class MemoryStore final : public TreeStore {
 public:
  MemoryStore(NodeKind kind, size_t root_bytes) : kind_(kind), root_(root_bytes) {
    fs::Node(std::span<std::byte>(root_)).Init(kind, 0, owner_);
  }
  NodeOwner owner() const { return owner_; }
  Result<std::span<const std::byte>> Node(BlockNo block) override {
    if (block == kRootNodeBlock) return std::span<const std::byte>(root_);
    auto it = blocks_.find(block.v);
    if (it == blocks_.end()) return Error(Errc::kCorrupt, "no such block");
    if (absent_.contains(block.v)) {
      missing = block.v;
      return Errc::kWouldBlock;
    }
    auto good = NodeView::Check(it->second, kind_, owner_);
    if (!good.ok()) return good.error();
    return std::span<const std::byte>(it->second);
  }
  bool InMemory(BlockNo block) override { return Node(block).ok(); }
  std::span<std::byte> Change(BlockNo block) override {
    return block == kRootNodeBlock ? std::span<std::byte>(root_) : std::span<std::byte>(blocks_.at(block.v));
  }
  Result<BlockNo> New() override {
    ++next_;
    blocks_[next_] = Bytes(kTreeNodeBytes);
    return BlockNo(next_);
  }
  bool MayFree(BlockNo) override { return may_free; }
  void Free(BlockNo block) override { blocks_.erase(block.v); }

  size_t blocks() const { return blocks_.size(); }
  std::map<uint64_t, Bytes>& raw() { return blocks_; }
  void Absent(uint64_t block) { absent_.insert(block); }
  void Load(uint64_t block) { absent_.erase(block); }
  bool may_free = true;
  uint64_t missing = 0;

 private:
  NodeOwner owner_{7, 3};
  NodeKind kind_;
  Bytes root_;
  std::map<uint64_t, Bytes> blocks_;
  std::set<uint64_t> absent_;
  uint64_t next_ = 100;
};

// Nothing but the root is in memory until `load` has brought in what it asks for; then the change has to do with that.
template <class LoadFn>
void OutOfMemory(MemoryStore& store, const LoadFn& load) {
  for (auto& [block, bytes] : store.raw()) store.Absent(block);
  for (;;) {
    Status loaded = load();
    if (loaded.code() != Errc::kWouldBlock) {
      REQUIRE(loaded.ok());
      return;
    }
    store.Load(store.missing);
  }
}

void AllInMemory(MemoryStore& store) {
  for (auto& [block, bytes] : store.raw()) store.Load(block);
}

Bytes Value(sim::SimRandom& random, size_t most) {
  Bytes value(random.Below(most + 1));
  for (std::byte& b : value) b = static_cast<std::byte>(random.Next());
  return value;
}

void Compare(Tree& tree, const std::map<uint64_t, Bytes>& model) {
  uint64_t at = 0;
  for (const auto& [key, value] : model) {
    auto record = tree.AtOrAfter(at);
    REQUIRE(record.ok());
    REQUIRE(record->has_value());
    REQUIRE((*record)->key == key);
    REQUIRE(std::ranges::equal((*record)->value, value));
    at = key + 1;
  }
  auto end = tree.AtOrAfter(at);
  REQUIRE(end.ok());
  REQUIRE(!end->has_value());
}

}  // namespace

TEST_CASE("btree: random changes match a map, and an emptied tree is one node again", "[fs][unit]") {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    sim::SimRandom random(seed);
    MemoryStore store(NodeKind::kXattrs, seed % 2 ? 512 : 3328);
    Tree tree(store, NodeKind::kXattrs, store.owner());
    std::map<uint64_t, Bytes> model;
    uint64_t space = seed % 3 == 0 ? 500 : 1'000'000;
    size_t most = seed % 4 == 0 ? kRecordBytesMax : 60;
    for (int step = 0; step < 4000; ++step) {
      uint64_t key = seed % 5 == 0 ? static_cast<uint64_t>(step) : random.Below(space);
      bool grow = step < 2500;
      if (random.Below(10) < (grow ? 7u : 2u)) {
        Bytes value = Value(random, most);
        if (model.contains(key)) {
          REQUIRE(tree.Insert(key, value).code() == Errc::kExists);
          REQUIRE(tree.Replace(key, value).ok());
        } else {
          REQUIRE(tree.Insert(key, value).ok());
        }
        model[key] = value;
      } else if (!model.empty()) {
        auto it = model.lower_bound(key);
        if (it == model.end()) it = model.begin();
        REQUIRE(tree.Remove(it->first).ok());
        model.erase(it);
      }
      if (step % 16 == 0) {
        auto at = tree.AtOrBefore(key);
        REQUIRE(at.ok());
        auto it = model.upper_bound(key);
        REQUIRE(at->has_value() == (it != model.begin()));
        if (at->has_value()) REQUIRE((*at)->key == std::prev(it)->first);
      }
      if (step % 500 == 0) Compare(tree, model);
    }
    Compare(tree, model);
    while (!model.empty()) {
      auto it = random.Below(2) ? model.begin() : std::prev(model.end());
      REQUIRE(tree.Remove(it->first).ok());
      model.erase(it);
    }
    CHECK(store.blocks() == 0);
    CHECK(tree.Height() == 0);
  }
}

TEST_CASE("btree: without leave to free nodes it still matches", "[fs][unit]") {
  sim::SimRandom random(5);
  MemoryStore store(NodeKind::kXattrs, 512);
  Tree tree(store, NodeKind::kXattrs, store.owner());
  std::map<uint64_t, Bytes> model;
  for (int round = 0; round < 5; ++round) {
    store.may_free = round % 2 == 1;
    for (int i = 0; i < 800; ++i) {
      uint64_t key = random.Below(3000);
      Bytes value = Value(random, 100);
      if (model.contains(key)) continue;
      REQUIRE(tree.Insert(key, value).ok());
      model[key] = value;
    }
    for (int i = 0; i < 700 && !model.empty(); ++i) {
      auto it = model.lower_bound(random.Below(3000));
      if (it == model.end()) it = model.begin();
      REQUIRE(tree.Remove(it->first).ok());
      model.erase(it);
    }
    Compare(tree, model);
  }
}

TEST_CASE("btree: a node that is not in memory ends an operation before anything has changed", "[fs][unit]") {
  sim::SimRandom random(9);
  MemoryStore store(NodeKind::kXattrs, 512);
  Tree tree(store, NodeKind::kXattrs, store.owner());
  std::map<uint64_t, Bytes> model;
  for (uint64_t i = 0; i < 2000; ++i) {
    Bytes value = Value(random, 40);
    REQUIRE(tree.Insert(i * 7, value).ok());
    model[i * 7] = value;
  }
  std::vector<uint64_t> blocks;
  for (auto& [block, bytes] : store.raw()) blocks.push_back(block);
  for (int i = 0; i < 300; ++i) {
    for (uint64_t block : blocks)
      if (store.raw().contains(block) && random.Below(2)) store.Absent(block);
    uint64_t key = random.Below(14000) / 7 * 7;
    bool remove = model.contains(key);
    Bytes value = Value(random, 40);
    for (;;) {
      Status loaded = tree.LoadPath(key);
      if (loaded.code() != Errc::kWouldBlock) break;
      store.Load(store.missing);
    }
    REQUIRE((remove ? tree.Remove(key) : tree.Insert(key, value)).ok());
    if (remove) {
      model.erase(key);
    } else {
      model[key] = value;
    }
  }
  for (uint64_t block : blocks) store.Load(block);
  Compare(tree, model);
}

TEST_CASE("btree: corrupted bytes give kCorrupt or another answer, never a crash", "[fs][unit]") {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    sim::SimRandom random(seed);
    MemoryStore store(NodeKind::kXattrs, 512);
    Tree tree(store, NodeKind::kXattrs, store.owner());
    for (uint64_t i = 0; i < 300; ++i) REQUIRE(tree.Insert(random.Next() >> 2, Value(random, 50)).ok());
    for (auto& [block, bytes] : store.raw()) {
      if (random.Below(3)) continue;
      size_t from = random.Below(2) ? random.Below(64) : random.Below(bytes.size());
      bytes[from] = static_cast<std::byte>(random.Next());
    }
    for (int i = 0; i < 200; ++i) {
      auto a = tree.AtOrAfter(random.Next() >> 2);
      auto b = tree.AtOrBefore(random.Next() >> 2);
      CHECK((a.ok() || a.code() == Errc::kCorrupt));
      CHECK((b.ok() || b.code() == Errc::kCorrupt));
    }
  }
}

TEST_CASE("siphash: the reference vectors of the paper", "[fs][unit]") {
  std::array<uint8_t, 16> key;
  std::string text;
  for (uint8_t i = 0; i < 16; ++i) key[i] = i;
  for (char i = 0; i < 15; ++i) text += i;
  CHECK(SipHash(key, text) == 0xa129ca6149be45e5ull);
  CHECK(SipHash(key, "") == 0x726fdb47dd0e0e31ull);
}

TEST_CASE("directory: cookies stay while names come, go and nodes split and merge", "[fs][unit]") {
  MemoryStore store(NodeKind::kNames, 3328);
  Tree tree(store, NodeKind::kNames, store.owner());
  std::array<uint8_t, 16> key{1, 2, 3};
  Directory names(tree, key);
  std::map<std::string, uint64_t> cookies;
  sim::SimRandom random(3);
  for (int i = 0; i < 30000; ++i) {
    std::string name = "file-" + std::to_string(random.Below(20000));
    auto found = names.Find(name);
    REQUIRE(found.ok());
    REQUIRE(found->has_value() == cookies.contains(name));
    if (found->has_value()) {
      REQUIRE((*found)->cookie == cookies[name]);
      if (random.Below(3) == 0) {
        REQUIRE(names.Remove(cookies[name]).ok());
        cookies.erase(name);
      }
      continue;
    }
    auto cookie = names.FreeCookie(name);
    REQUIRE(cookie.ok());
    REQUIRE(*cookie < (uint64_t{1} << 63));
    REQUIRE(*cookie >= kCookieFirst);
    NameRecord record{*cookie, InodeNo(50 + static_cast<uint64_t>(i)), 1, 8, name};
    REQUIRE(names.Insert(*cookie, record).ok());
    cookies[name] = *cookie;
  }
  size_t seen = 0;
  for (uint64_t at = kCookieFirst - 1;;) {
    auto next = names.After(at);
    REQUIRE(next.ok());
    if (!next->has_value()) break;
    REQUIRE(cookies.at(std::string((*next)->name)) == (*next)->cookie);
    at = (*next)->cookie;
    ++seen;
  }
  CHECK(seen == cookies.size());
}

TEST_CASE("directory: names of one hash do not hide each other", "[fs][unit]") {
  MemoryStore store(NodeKind::kNames, 3328);
  Tree tree(store, NodeKind::kNames, store.owner());
  std::array<uint8_t, 16> key{1, 2, 3};
  Directory names(tree, key);
  // As if they had the hash of "mine": nobody finds such names, a volume may have them.
  uint64_t first = *names.FreeCookie("mine");
  for (uint64_t i = 0; i < 3; ++i) {
    std::string other = "other" + std::to_string(i);
    REQUIRE(names.Insert(first + i, NameRecord{first + i, InodeNo(60 + i), 1, 8, other}).ok());
  }
  CHECK(!names.Find("mine")->has_value());
  auto cookie = names.FreeCookie("mine");
  REQUIRE(cookie.ok());
  CHECK(*cookie == first + 3);
  REQUIRE(names.Insert(*cookie, NameRecord{*cookie, InodeNo(70), 1, 8, "mine"}).ok());
  auto found = names.Find("mine");
  REQUIRE((found.ok() && found->has_value()));
  CHECK((*found)->inode.v == 70);
  CHECK(names.FreeCookie("mine").code() == Errc::kExists);
  // A gap is filled, and what is behind it is still found.
  REQUIRE(names.Remove(first + 1).ok());
  CHECK(names.Find("mine")->has_value());
}

TEST_CASE("extents: random mapping, holes and conversion match an array", "[fs][unit]") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    sim::SimRandom random(seed);
    Geometry g;
    g.volume_blocks = 1 << 20;
    g.first_group_block = 16;
    g.group_blocks = 1 << 19;
    g.group_count = 2;
    g.bitmap_blocks = 33;
    MemoryStore store(NodeKind::kExtents, 3328);
    Tree tree(store, NodeKind::kExtents, store.owner());
    Extents extents(tree, g);
    constexpr uint64_t kSpan = 4000;
    struct Cell {
      uint64_t block = 0;
      bool unwritten = false;
    };
    std::vector<Cell> model(kSpan);
    uint64_t next = 1000;
    for (int step = 0; step < 2500; ++step) {
      uint64_t first = random.Below(kSpan), count = 1 + random.Below(std::min<uint64_t>(40, kSpan - first));
      switch (random.Below(3)) {
        case 0: {
          uint64_t n = 0;
          while (n < count && model[first + n].block == 0) ++n;
          if (n == 0) break;
          if (random.Below(2)) next += 1 + random.Below(3);
          bool unwritten = random.Below(2) != 0;
          REQUIRE(extents.Insert(first, {BlockNo(next), n}, unwritten).ok());
          for (uint64_t i = 0; i < n; ++i) model[first + i] = {next + i, unwritten};
          next += n;
          break;
        }
        case 1: {
          std::vector<Extent> freed;
          REQUIRE(extents.Remove(first, count, &freed).ok());
          uint64_t total = 0, had = 0;
          for (const Extent& e : freed) total += e.count;
          for (uint64_t i = first; i < first + count; ++i) {
            had += model[i].block != 0;
            model[i] = {};
          }
          REQUIRE(total == had);
          break;
        }
        default: {
          uint64_t n = 0;
          while (n < count && model[first + n].block != 0) ++n;
          if (n == 0) break;
          REQUIRE(extents.MarkWritten(first, n).ok());
          for (uint64_t i = 0; i < n; ++i) model[first + i].unwritten = false;
        }
      }
      if (step % 100 != 0) continue;
      for (uint64_t at = 0; at < kSpan;) {
        auto m = extents.Map(at, kSpan - at);
        REQUIRE(m.ok());
        REQUIRE(m->count > 0);
        for (uint64_t i = 0; i < m->count; ++i) {
          REQUIRE(model[at + i].block == (m->hole() ? 0 : m->start.v + i));
          REQUIRE(model[at + i].unwritten == m->unwritten);
        }
        at += m->count;
      }
    }
  }
}

TEST_CASE("extents: a change needs no node that Load has not brought in", "[fs][unit]") {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    sim::SimRandom random(seed);
    Geometry g;
    g.volume_blocks = 1 << 20;
    g.first_group_block = 16;
    g.group_blocks = 1 << 19;
    g.group_count = 2;
    g.bitmap_blocks = 33;
    MemoryStore store(NodeKind::kExtents, 600);
    Tree tree(store, NodeKind::kExtents, store.owner());
    Extents extents(tree, g);
    constexpr uint64_t kSpan = 4000;
    uint64_t next = 1000;
    for (uint64_t at = 0; at < kSpan; at += 1 + random.Below(3), next += 2)
      REQUIRE(extents.Insert(at, {BlockNo(next), 1}, random.Below(2) != 0).ok());
    // Leaves become sparse, empty, and go.
    for (int step = 0; step < 900; ++step) {
      uint64_t first = random.Below(kSpan), count = 1 + random.Below(random.Below(4) ? 6 : 300);
      auto there = extents.Map(first, 1);
      REQUIRE(there.ok());
      if (there->hole() && random.Below(2)) {
        auto at = tree.AtOrAfter(first);  // a boundary is where it is close
        if (at.ok() && *at) first = (*at)->key;
      }
      OutOfMemory(store, [&] { return extents.Load(first, count); });
      bool mark = random.Below(4) == 0;
      std::vector<Extent> freed;
      Status done = mark ? extents.MarkWritten(first, 1) : extents.Remove(first, count, &freed);
      INFO("seed " << seed << " step " << step);
      CHECK((done.ok() || (mark && done.code() == Errc::kCorrupt)));  // a hole is nothing to be marked
      AllInMemory(store);
      if (step % 9 == 0 && there->hole()) (void)extents.Insert(first, {BlockNo(next += 2), 1}, true).ok();
    }
  }
}

TEST_CASE("xattrs: a change needs no node that Load has not brought in", "[fs][unit]") {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    MemoryStore store(NodeKind::kXattrs, 512);
    Tree tree(store, NodeKind::kXattrs, store.owner());
    std::array<uint8_t, 16> key{static_cast<uint8_t>(seed)};
    Xattrs xattrs(tree, key);
    sim::SimRandom random(seed);
    std::map<std::string, Bytes> model;
    for (int i = 0; i < 500; ++i) {
      std::string name = "user." + std::to_string(random.Below(30));
      bool remove = random.Below(4) == 0 && model.contains(name);
      Bytes value = Value(random, random.Below(2) ? 20'000 : 100);
      OutOfMemory(store, [&] { return xattrs.Load(name, remove ? 0 : value.size()); });
      Status done = remove ? xattrs.Remove(name) : xattrs.Set(name, value);
      INFO("seed " << seed << " step " << i);
      REQUIRE(done.ok());
      AllInMemory(store);
      if (remove) {
        model.erase(name);
      } else {
        model[name] = value;
      }
    }
    for (auto& [name, value] : model) {
      auto got = xattrs.Get(name);
      REQUIRE(got.ok());
      CHECK(*got == value);
    }
  }
}

TEST_CASE("xattrs: values up to 64 KiB, replaced and removed", "[fs][unit]") {
  MemoryStore store(NodeKind::kXattrs, 512);
  Tree tree(store, NodeKind::kXattrs, store.owner());
  std::array<uint8_t, 16> key{9};
  Xattrs xattrs(tree, key);
  sim::SimRandom random(4);
  std::map<std::string, Bytes> model;
  for (int i = 0; i < 400; ++i) {
    std::string name = "user." + std::to_string(random.Below(40));
    if (random.Below(4) == 0 && model.contains(name)) {
      REQUIRE(xattrs.Remove(name).ok());
      model.erase(name);
    } else {
      Bytes value = Value(random, random.Below(5) == 0 ? 64 * 1024 : 100);
      size_t blocks = store.blocks();
      size_t promised = xattrs.BlocksFor(name.size(), value.size());
      REQUIRE(xattrs.Set(name, value).ok());
      CHECK(store.blocks() <= blocks + promised);
      model[name] = value;
    }
    for (auto& [n, v] : model) {
      if (random.Below(4)) continue;
      auto got = xattrs.Get(n);
      REQUIRE(got.ok());
      REQUIRE(*got == v);
    }
    auto list = xattrs.List();
    REQUIRE(list.ok());
    REQUIRE(list->size() == model.size());
  }
  CHECK(xattrs.Get("user.none").code() == Errc::kNoData);
}

}  // namespace holdfast::fs
