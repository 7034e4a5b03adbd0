// See history.h. A record is one line of tab-separated fields with backslash escapes: readable with any tool. The
// number is the key, "fence/history/" and 20 digits, so that order in the store is order in time.

#include "fence/history.h"

#include <charconv>
#include <cstdio>

namespace holdfast::fence {

namespace {

constexpr char kHistory[] = "fence/history/";
constexpr char kSeenOn[] = "fence/seen-on/";

std::string KeyOf(uint64_t number) {
  char text[64];
  snprintf(text, sizeof text, "%s%020llu", kHistory, static_cast<unsigned long long>(number));
  return text;
}

void PutField(std::string* out, const std::string& field) {
  if (!out->empty()) *out += '\t';
  for (char c : field) {
    if (c == '\\') *out += "\\\\";
    else if (c == '\t') *out += "\\t";
    else if (c == '\n') *out += "\\n";
    else *out += c;
  }
}

std::vector<std::string> Fields(const std::string& text) {
  std::vector<std::string> out(1);
  for (size_t i = 0; i < text.size(); i++) {
    char c = text[i];
    if (c == '\t') {
      out.emplace_back();
    } else if (c == '\\' && i + 1 < text.size()) {
      c = text[++i];
      out.back() += c == 't' ? '\t' : c == 'n' ? '\n' : c;
    } else {
      out.back() += c;
    }
  }
  return out;
}

template <class T>
bool Number(const std::string& text, T* out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

std::string SeenKey(const std::string& device, const std::string& plug) { return device + "\n" + plug; }

}  // namespace

HistoryRecord RecordOf(const FenceStep& step) {
  HistoryRecord out;
  out.at = step.at;
  out.node = step.node;
  out.incarnation = step.incarnation;
  out.phase = "fence";
  out.what = step.method + "/" + step.device + " " + step.action;
  out.outcome = std::string(OutcomeName(step.outcome));
  out.details = step.details;
  out.took = step.took;
  return out;
}

HistoryRecord RecordOf(NodeId node, Incarnation incarnation, const FenceProof& proof) {
  HistoryRecord out;
  out.at = proof.at;
  out.node = node;
  out.incarnation = incarnation;
  out.phase = proof.sufficient ? "fenced" : "proof";
  out.what = std::string(ProofName(proof.kind)) + (proof.method.empty() ? "" : " " + proof.method);
  out.outcome = proof.sufficient ? "sufficient" : "not sufficient alone";
  out.details = proof.details;
  return out;
}

std::string EncodeRecord(const HistoryRecord& r) {
  std::string out = "1";
  for (const std::string& field : {std::to_string(r.at.seconds), std::to_string(r.at.nanoseconds), std::to_string(r.node.v),
                                   std::to_string(r.incarnation.v), r.phase, r.what, r.outcome, r.details, std::to_string(r.took.ns)}) {
    PutField(&out, field);
  }
  return out;
}

Result<HistoryRecord> DecodeRecord(const std::string& text) {
  auto f = Fields(text);
  HistoryRecord r;
  bool good = f.size() == 10 && f[0] == "1" && Number(f[1], &r.at.seconds) && Number(f[2], &r.at.nanoseconds) &&
              Number(f[3], &r.node.v) && Number(f[4], &r.incarnation.v) && Number(f[9], &r.took.ns);
  if (!good) return Error(Errc::kCorrupt, "a history record that this program does not understand");
  r.phase = f[5];
  r.what = f[6];
  r.outcome = f[7];
  r.details = f[8];
  return r;
}

Task<Status> History::Load() {
  auto all = co_await store_->Scan(kHistory, 4 * records_max_ + 1000);
  if (!all.ok()) co_return all.error();
  for (const auto& [key, value] : *all) {
    uint64_t number = 0;
    if (!Number(key.substr(sizeof kHistory - 1), &number)) continue;
    if (next_ == 1) first_ = number;
    next_ = number + 1;
  }
  auto ports = co_await store_->Scan(kSeenOn, 10'000);
  if (!ports.ok()) co_return ports.error();
  for (const auto& [key, value] : *ports) {
    WallTime at;
    if (Number(value, &at.seconds)) seen_on_[key.substr(sizeof kSeenOn - 1)] = at;
  }
  co_return Status{};
}

Task<Status> History::Append(HistoryRecord record) {
  KvBatch batch;
  batch.puts.emplace_back(KeyOf(next_++), EncodeRecord(record));
  for (int i = 0; i < 2 && next_ - first_ > records_max_; i++) batch.deletes.push_back(KeyOf(first_++));
  auto status = co_await store_->Write(std::move(batch), false);
  co_return status;
}

Task<Result<std::vector<HistoryRecord>>> History::Newest(size_t limit) {
  std::vector<HistoryRecord> out;
  uint64_t number = next_ - first_ > limit ? next_ - limit : first_;
  uint64_t end = next_;
  for (; number < end; number++) {
    auto value = co_await store_->Get(KeyOf(number));
    if (!value.ok()) co_return value.error();
    if (!value->has_value()) continue;
    auto record = DecodeRecord(**value);
    if (!record.ok()) continue;
    record->number = number;
    out.push_back(std::move(*record));
  }
  co_return out;
}

Task<Status> History::MarkSeenOn(std::string device, std::string plug, WallTime at) {
  std::string key = SeenKey(device, plug);
  seen_on_[key] = at;
  KvBatch batch;
  batch.puts.emplace_back(kSeenOn + key, std::to_string(at.seconds));
  auto status = co_await store_->Write(std::move(batch), true);
  co_return status;
}

std::optional<WallTime> History::SeenOn(const std::string& device, const std::string& plug) const {
  auto found = seen_on_.find(SeenKey(device, plug));
  if (found == seen_on_.end()) return std::nullopt;
  return found->second;
}

}  // namespace holdfast::fence
