#include "dlm/wire.h"

#include "dlm.pb.h"

namespace holdfast::dlm {
namespace {

void Put(wire::MemberId* w, const MemberId& m) {
  w->set_node(m.node.v);
  w->set_incarnation(m.incarnation.v);
  w->set_nonce(m.nonce);
}
MemberId Get(const wire::MemberId& w) { return {NodeId(w.node()), Incarnation(w.incarnation()), w.nonce()}; }

void Put(wire::ValueBlock* w, const ValueBlock& v) {
  w->set_bytes(v.bytes.data(), v.bytes.size());
  w->set_number(v.number);
  w->set_valid(v.valid);
}
bool Get(const wire::ValueBlock& w, ValueBlock* v) {
  if (w.bytes().size() != kValueBytes) return false;
  memcpy(v->bytes.data(), w.bytes().data(), kValueBytes);
  v->number = w.number();
  v->valid = w.valid();
  return true;
}

void Put(wire::Range* w, const RangeArgs& r) {
  w->set_space(static_cast<uint32_t>(r.space));
  w->set_owner_key(r.owner.key);
  w->set_owner_ofd(r.owner.ofd);
  w->set_handle(r.handle);
  w->set_pid(r.pid);
  w->set_start(r.start);
  w->set_end(r.end);
  w->set_type(static_cast<uint32_t>(r.type));
  w->set_wait(r.wait);
  w->set_drop(static_cast<uint32_t>(r.drop));
}
bool Get(const wire::Range& w, RangeArgs* r) {
  if (w.space() > 1 || w.type() > 2 || w.drop() > 1 || w.start() > w.end()) return false;
  *r = {static_cast<RangeSpace>(w.space()), {w.owner_key(), w.owner_ofd()}, w.handle(), w.pid(), w.start(), w.end(),
        static_cast<RangeType>(w.type()), w.wait(), static_cast<DropWhat>(w.drop())};
  return true;
}

void Put(wire::ReportEntry* w, const ReportEntry& e) {
  w->set_what(static_cast<uint32_t>(e.what));
  w->set_name(e.name.bytes());
  w->set_lock(e.lock.v);
  w->set_granted(static_cast<int32_t>(e.granted));
  w->set_under_recovery(e.under_recovery);
  if (e.value) Put(w->mutable_value(), *e.value);
  if (e.what == ReportEntry::What::kRange) Put(w->mutable_range(), e.range);
}
bool Get(const wire::ReportEntry& w, ReportEntry* e) {
  if (w.what() < 1 || w.what() > 2 || w.name().empty() || w.name().size() > kMaxNameBytes) return false;
  e->what = static_cast<ReportEntry::What>(w.what());
  e->name = ResourceName(w.name());
  e->lock = LockId(w.lock());
  if (e->what == ReportEntry::What::kLock && !IsMode(w.granted())) return false;
  if (e->what == ReportEntry::What::kLock) e->granted = static_cast<Mode>(w.granted());
  e->under_recovery = w.under_recovery();
  if (w.has_value() && !Get(w.value(), &e->value.emplace())) return false;
  if (e->what == ReportEntry::What::kRange && !Get(w.range(), &e->range)) return false;
  return true;
}

bool NeedsName(Kind k) { return !IsRecovery(k) && k != Kind::kApp; }
bool NeedsMode(Kind k) { return k == Kind::kRequest || k == Kind::kConvert || k == Kind::kBlocking; }

}  // namespace

Bytes Encode(const Message& m) {
  wire::Body w;
  w.set_name(m.name.bytes());
  if (m.asker != MemberId{}) Put(w.mutable_asker(), m.asker);
  w.set_op(m.op);
  w.set_lock(m.lock.v);
  w.set_mode(static_cast<int32_t>(m.mode));
  w.set_flags(static_cast<uint32_t>(m.flags));
  w.set_status(static_cast<uint32_t>(m.status));
  w.set_guessed(m.guessed);
  w.set_forwarded(m.forwarded);
  w.set_under_recovery(m.under_recovery);
  w.set_term(m.term);
  w.set_count(m.count);
  if (m.value) Put(w.mutable_value(), *m.value);
  if (m.range) Put(w.mutable_range(), *m.range);
  if (m.conflict) {
    auto* c = w.mutable_conflict();
    Put(c->mutable_member(), m.conflict->member);
    c->set_owner_key(m.conflict->owner.key);
    c->set_owner_ofd(m.conflict->owner.ofd);
    c->set_pid(m.conflict->pid);
    c->set_start(m.conflict->start);
    c->set_end(m.conflict->end);
    c->set_type(static_cast<uint32_t>(m.conflict->type));
  }
  for (const ReportEntry& e : m.report) Put(w.add_report(), e);
  for (const MasteredEntry& e : m.mastered) {
    auto* entry = w.add_mastered();
    entry->set_name(e.name.bytes());
    entry->set_term(e.term);
  }
  if (!m.payload.empty()) w.set_payload(m.payload.data(), m.payload.size());
  Bytes out(w.ByteSizeLong());
  w.SerializeToArray(out.data(), static_cast<int>(out.size()));
  return out;
}

Result<Message> Decode(uint32_t kind, std::span<const std::byte> body) {
  if (kind < static_cast<uint32_t>(Kind::kRequest) || kind > static_cast<uint32_t>(Kind::kReady))
    return Error(Errc::kCorrupt, "unknown kind " + std::to_string(kind));
  wire::Body w;
  if (body.size() > (64u << 20) || !w.ParseFromArray(body.data(), static_cast<int>(body.size())))
    return Error(Errc::kCorrupt, "not a lock message");
  Message m;
  m.kind = static_cast<Kind>(kind);
  if (w.name().size() > kMaxNameBytes || (NeedsName(m.kind) && w.name().empty())) return Error(Errc::kCorrupt, "bad name");
  m.name = ResourceName(w.name());
  m.asker = Get(w.asker());
  m.op = w.op();
  m.lock = LockId(w.lock());
  if (w.mode() < -1 || w.mode() >= kModes || (NeedsMode(m.kind) && w.mode() < 0)) return Error(Errc::kCorrupt, "bad mode");
  m.mode = static_cast<Mode>(w.mode());
  m.flags = static_cast<Flags>(w.flags());
  if (w.status() > static_cast<uint32_t>(Errc::kInterrupted)) return Error(Errc::kCorrupt, "bad status");
  m.status = static_cast<Errc>(w.status());
  m.guessed = w.guessed();
  m.forwarded = w.forwarded();
  m.under_recovery = w.under_recovery();
  m.term = w.term();
  m.count = w.count();
  if (w.has_value() && !Get(w.value(), (m.value = std::make_unique<ValueBlock>()).get())) return Error(Errc::kCorrupt, "bad value");
  if (w.has_range() && !Get(w.range(), (m.range = std::make_unique<RangeArgs>()).get())) return Error(Errc::kCorrupt, "bad range");
  if (w.has_conflict()) {
    const auto& c = w.conflict();
    if (c.type() > 2) return Error(Errc::kCorrupt, "bad conflict");
    m.conflict = std::make_unique<RangeConflict>(RangeConflict{Get(c.member()), {c.owner_key(), c.owner_ofd()}, c.pid(),
                                                               c.start(), c.end(), static_cast<RangeType>(c.type())});
  }
  m.report.resize(static_cast<size_t>(w.report_size()));
  for (int i = 0; i < w.report_size(); ++i)
    if (!Get(w.report(i), &m.report[static_cast<size_t>(i)])) return Error(Errc::kCorrupt, "bad report entry");
  m.mastered.reserve(static_cast<size_t>(w.mastered_size()));
  for (const auto& entry : w.mastered()) {
    if (entry.name().empty() || entry.name().size() > kMaxNameBytes) return Error(Errc::kCorrupt, "bad mastered name");
    m.mastered.push_back({ResourceName(entry.name()), entry.term()});
  }
  m.payload.assign(reinterpret_cast<const std::byte*>(w.payload().data()),
                   reinterpret_cast<const std::byte*>(w.payload().data()) + w.payload().size());
  return m;
}

}  // namespace holdfast::dlm
