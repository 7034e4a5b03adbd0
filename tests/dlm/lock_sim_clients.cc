// The workload: clients that lock, convert, unlock, cancel, write value blocks and set ranges at random, each holding one
// thing at a time (so that only conversion deadlocks exist, which the master finds).
#include "tests/dlm/lock_sim.h"

#include <cstring>

namespace holdfast::dlm {

void LockSim::StartClients(Life& life) {
  life.clients.resize(static_cast<size_t>(options_.lock_clients + options_.range_clients));
  for (size_t i = 0; i < life.clients.size(); ++i) {
    life.clients[i].index = i;
    life.clients[i].ranged = i >= static_cast<size_t>(options_.lock_clients);
    Wake(life, i, world_.random().Between(Milliseconds(1), Milliseconds(20)));
  }
}

void LockSim::Wake(Life& life, size_t client, Duration in) {
  Life* l = &life;
  uint64_t number = ++l->clients[client].wakes;  // an earlier wake-up replaces the one that was set
  world_.After(in, [this, l, client, number] {
    if (l->dead || l->clients[client].wakes != number) return;
    On(*l, [this, l, client] { Act(*l, l->clients[client]); });
  });
}

void LockSim::Act(Life& life, Client& client) {
  auto& random = world_.random();
  Duration next = random.Between(Microseconds(300), Milliseconds(15));
  // A fenced life's I/O fails: it flushes nothing, so it gives nothing up and takes nothing more.
  const Victim* victim = register_.FindVictim(life.id);
  if (life.core->withdrawn() || (victim ? victim->fenced : !register_.IsMember(life.id) && life.evicted)) return;
  if (client.op != 0) {
    bool tired = world_.now() - client.since > Milliseconds(400);
    if (random.Chance(tired || draining_ ? 500'000 : 60'000)) {
      if (client.ranged) life.core->requester().RangeCancel(client.token);
      else life.core->requester().Cancel(client.lock);
    }
  } else {
    client.ranged ? ActOnRange(life, client) : ActOnLock(life, client);
    if (random.Chance(30'000)) {
      auto& members = register_.view().members;
      if (!members.empty()) {
        MemberId to = members[random.Below(members.size())].id;
        bool known = false;
        for (const Member& m : life.core->view().members) known |= m.id == to;
        if (known && to != life.id) {
          uint64_t number = ++life.app_sent[to];
          Bytes payload(8);
          memcpy(payload.data(), &number, 8);
          life.core->SendApp(to, std::move(payload));
        }
      }
    }
  }
  life.core->Settle();
  bool idle = client.op == 0 && client.lock.v == 0 && (!client.ranged || life.core->requester().RangeNames().empty());
  if (!((draining_ || life.leaving) && idle)) Wake(life, client.index, next);
}

void LockSim::Sync(Life& life, const Client& client) {
  if (client.lock.v == 0) return;
  Mode mode = life.core->requester().GrantedMode(client.lock);
  checker_.Believes(life.id, client.lock, client.name, mode);
}

std::optional<ValueBytes> LockSim::NextValue(Life& life, const ResourceName& name) {
  if (!world_.random().Chance(700'000)) return std::nullopt;
  ValueBytes bytes{};
  ++payload_;
  memcpy(bytes.data(), &payload_, sizeof payload_);
  checker_.ValueWritten(life.id, name, payload_);
  return bytes;
}

void LockSim::ActOnLock(Life& life, Client& client) {
  auto& random = world_.random();
  static constexpr Mode kLikely[] = {Mode::kEX, Mode::kEX, Mode::kPR, Mode::kPR, Mode::kPW, Mode::kCW, Mode::kCR, Mode::kNL};
  Flags flags = Flags::kNone;
  if (random.Chance(120'000)) flags = flags | Flags::kNoQueue;
  if (Has(flags, Flags::kNoQueue) && random.Chance(300'000)) flags = flags | Flags::kNoQueueBast;
  if (random.Chance(100'000)) flags = flags | Flags::kTimeout;
  if (client.lock.v == 0) {
    if (draining_ || life.leaving) return;
    client.name = NameOf(random.Below(static_cast<uint64_t>(options_.names)));
    auto& handle = client.handles[client.name];
    if (handle.v == 0) handle = life.core->requester().Create(client.name);
    client.lock = handle;
    StartLock(life, client, kLikely[random.Below(8)], flags);
    return;
  }
  if (draining_ || life.leaving || random.Chance(400'000)) return StartUnlock(life, client);
  if (random.Chance(600'000)) {
    if (random.Chance(200'000)) flags = flags | Flags::kQueCvt;
    StartLock(life, client, kLikely[random.Below(8)], flags);
  }
}

void LockSim::StartLock(Life& life, Client& client, Mode mode, Flags flags) {
  auto& requester = life.core->requester();
  RequestOptions options;
  options.timeout = world_.random().Between(Milliseconds(1), Milliseconds(100));
  client.before = requester.GrantedMode(client.lock);
  if (WritesValue(client.before) && IsDownConvert(client.before, mode)) options.value = NextValue(life, client.name);
  auto op = requester.Request(client.lock, mode, flags, options);
  if (!op.ok()) return checker_.Fail("request refused: " + std::string(ErrcName(op.code())));
  client.op = *op;
  client.asked = mode;
  client.flags = flags;
  client.unlocking = false;
  client.since = world_.now();
  client.asked_in = life.core->view().generation;
  Sync(life, client);
}

void LockSim::StartUnlock(Life& life, Client& client) {
  auto& requester = life.core->requester();
  Mode held = requester.GrantedMode(client.lock);
  std::optional<ValueBytes> value;
  if (WritesValue(held)) value = NextValue(life, client.name);
  auto op = requester.Unlock(client.lock, value);
  if (!op.ok()) return checker_.Fail("unlock refused: " + std::string(ErrcName(op.code())));
  client.op = *op;
  client.unlocking = true;
  client.since = world_.now();
  Sync(life, client);
}

void LockSim::Done(Life& life, const Upcall& up) {
  world_.Mix(up.op ^ (static_cast<uint64_t>(up.status) << 40));
  if (auto call = life.calls.find(up.op); call != life.calls.end()) {
    auto fn = std::move(call->second);
    life.calls.erase(call);
    return fn(up);
  }
  for (Client& client : life.clients) {
    if (client.op != up.op) continue;
    client.op = 0;
    return client.ranged ? RangeDone(client, up) : LockDone(life, client, up);
  }
}

void LockSim::LockDone(Life& life, Client& client, const Upcall& up) {
  Mode now = life.core->requester().GrantedMode(client.lock);
  Sync(life, client);
  switch (up.status) {
    case Errc::kOk: break;
    case Errc::kWouldBlock: ++stats_.would_block; break;
    case Errc::kDeadlock: ++stats_.deadlocks; break;
    case Errc::kCancelled: case Errc::kTimeout: ++stats_.cancelled; break;
    case Errc::kFenced: break;
    default: checker_.Fail("lock ended with " + std::string(ErrcName(up.status)));
  }
  if (up.status == Errc::kOk && !client.unlocking) {
    if (now != client.asked) checker_.Fail("asked " + std::string(ModeName(client.asked)) + ", granted " + std::string(ModeName(now)));
    if (!IsDownConvert(client.before, client.asked)) {
      ++stats_.grants;
      checker_.Granted(life.id, client.lock, client.name, now, client.asked_in);
      ++stats_.values_read;
      checker_.ValueRead(life.id, client.name, now, life.core->requester().Value(client.lock));
    }
  }
  if (now == Mode::kIV) client.lock = LockId(0);
}

void LockSim::Blocking(Life& life, const Upcall& up) {
  for (Client& client : life.clients)
    if (!client.ranged && client.lock == up.lock) Wake(life, client.index, world_.random().Between(Microseconds(50), Milliseconds(3)));
}

void LockSim::ActOnRange(Life& life, Client& client) {
  auto& random = world_.random();
  auto& requester = life.core->requester();
  bool finish = draining_ || life.leaving;
  if (client.name.bytes().empty() || (!requester.HoldsRanges(client.name) && random.Chance(200'000)))
    client.name = NameOf(random.Below(2));
  if (finish && !requester.HoldsRanges(client.name)) return;
  RangeArgs r;
  r.owner.key = client.index;
  r.handle = client.index * 10 + random.Below(2);
  r.start = random.Below(16);
  r.end = random.Chance(100'000) ? UINT64_MAX : random.Between(r.start, 15);
  r.type = static_cast<RangeType>(random.Below(3));
  r.wait = random.Chance(500'000);
  Result<uint64_t> op = Errc::kInvalid;
  client.setting = false;
  if (finish || random.Chance(100'000)) {
    if (!finish && random.Chance(500'000)) {
      r.drop = DropWhat::kHandle;
      op = requester.RangeDrop(client.name, r);
    } else {
      op = requester.RangeDrop(client.name, r);
    }
  } else if (random.Chance(150'000)) {
    op = requester.RangeTest(client.name, r);
  } else {
    client.token = (client.index << 32) | (payload_ + random.Below(1 << 30) + 1);
    op = requester.RangeSet(client.name, r, client.token);
    client.setting = true;
  }
  if (!op.ok()) return checker_.Fail("range operation refused");
  client.op = *op;
  client.range = r;
  client.since = world_.now();
  SyncRanges(life, client.name);
}

// While a change to shared is under way its caller cannot rely on being alone: it may have been granted already.
void LockSim::SyncRanges(Life& life, const ResourceName& name) {
  const RangeTable* table = life.core->requester().Ranges(name);
  RangeTable believed = table ? *table : RangeTable{};
  for (const Client& client : life.clients) {
    if (!client.ranged || client.op == 0 || !client.setting || client.name != name || client.range.type != RangeType::kShared) continue;
    believed.Soften(life.id, client.range);
  }
  checker_.RangesOf(life.id, name, &believed);
}

void LockSim::RangeDone(Client& client, const Upcall& up) {
  if (up.status == Errc::kFenced) return;
  if (up.status != Errc::kOk && up.status != Errc::kWouldBlock && up.status != Errc::kInterrupted)
    checker_.Fail("range operation ended with " + std::string(ErrcName(up.status)));
  if (up.status == Errc::kOk) ++stats_.ranges_granted;
  for (auto& [id, other] : lives_)  // undone grants change a table without a client's call
    if (!other->dead && !other->core->withdrawn()) SyncRanges(*other, client.name);
  checker_.CheckRanges(client.name);
}

void LockSim::AppArrived(Life& life, const Upcall& up) {
  ++stats_.apps;
  uint64_t number = 0;
  if (up.payload.size() == 8) memcpy(&number, up.payload.data(), 8);
  uint64_t& seen = life.app_seen[up.from];
  if (number != seen + 1)
    checker_.Fail("application message " + std::to_string(number) + " after " + std::to_string(seen) + " from " + ToString(up.from));
  seen = number;
}

}  // namespace holdfast::dlm
