#include "tools/print_tree.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace holdfast::tools {
namespace {

using Json = nlohmann::ordered_json;

bool IsNumber(const std::string& text) {
  if (text.empty() || text.size() > 18) return false;
  size_t digits = text[0] == '-' ? 1 : 0;
  if (digits == text.size()) return false;
  if (text[digits] == '0' && text.size() > digits + 1) return false;
  return std::all_of(text.begin() + static_cast<long>(digits), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Names are text even if they look like numbers.
bool IsText(const std::string& name) {
  return name == "name" || name == "uuid" || name == "key" || name == "cluster" || name == "label" || name == "nonce";
}

Json Convert(const StatusTree& tree) {
  if (tree.value == "[]") {
    Json list = Json::array();
    for (const auto& child : tree.children) list.push_back(Convert(child));
    return list;
  }
  if (tree.children.empty()) {
    if (tree.value == "true") return true;
    if (tree.value == "false") return false;
    if (tree.value == "{}") return Json::object();
    if (IsNumber(tree.value) && !IsText(tree.name)) return std::stoll(tree.value);
    return tree.value;
  }
  Json object = Json::object();
  if (!tree.value.empty()) object["name"] = tree.value;
  for (const auto& child : tree.children) {
    Json value = Convert(child);
    auto found = object.find(child.name);
    if (found == object.end()) {
      object[child.name] = std::move(value);
    } else if (found->is_array() && child.value != "[]") {
      found->push_back(std::move(value));
    } else {
      Json list = Json::array({*found, std::move(value)});
      *found = std::move(list);
    }
  }
  return object;
}

std::string Clean(const std::string& text) {
  std::string clean;
  for (unsigned char c : text) clean += c < 0x20 || c == 0x7f ? '?' : static_cast<char>(c);
  return clean;
}

void Indented(const StatusTree& tree, int depth, std::string& out) {
  out += std::string(static_cast<size_t>(2 * depth), ' ') + Clean(tree.name.empty() ? "-" : tree.name);
  if (!tree.value.empty() && tree.value != "[]" && tree.value != "{}") out += ": " + Clean(tree.value);
  out += '\n';
  for (const auto& child : tree.children) Indented(child, depth + 1, out);
}

const StatusTree& Find(const StatusTree& tree, std::string_view name) {
  static const StatusTree nothing;
  for (const auto& child : tree.children)
    if (child.name == name) return child;
  return nothing;
}

std::string Value(const StatusTree& tree, std::string_view name) { return Clean(Find(tree, name).value); }

std::string Padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

struct Table {
  std::vector<std::vector<std::string>> rows;

  std::string Text(const std::string& indent) const {
    std::vector<size_t> widths;
    for (const auto& row : rows)
      for (size_t i = 0; i < row.size(); ++i) {
        if (widths.size() <= i) widths.push_back(0);
        widths[i] = std::max(widths[i], row[i].size());
      }
    std::string out;
    for (const auto& row : rows) {
      std::string line = indent;
      for (size_t i = 0; i < row.size(); ++i) line += Padded(row[i], widths[i]) + "  ";
      while (!line.empty() && line.back() == ' ') line.pop_back();
      out += line + '\n';
    }
    return out;
  }
};

std::string Seconds(const std::string& ms) {
  if (!IsNumber(ms)) return ms;
  long long value = std::stoll(ms);
  char text[32];
  std::snprintf(text, sizeof text, "%lld.%03lld s", value / 1000, value % 1000);
  return text;
}

void Lockspaces(const StatusTree& status, std::string& out) {
  for (const auto& ls : Find(status, "lockspaces").children) {
    out += "\nLockspace " + Value(ls, "name") + "  generation " + Value(ls, "generation") + "  volume " + Value(ls, "volume") + "\n";
    Table members{{{"Mount", "Node", "Member", "Address"}}};
    for (const auto& m : Find(ls, "members").children)
      members.rows.push_back({Value(m, "mount"), Value(m, "node"), Value(m, "member"), Value(m, "address")});
    if (members.rows.size() > 1) out += members.Text("  ");
    for (const auto& v : Find(ls, "victims").children) {
      out += "  Journal " + Value(v, "mount") + " of " + Value(v, "member") + ": ";
      out += Value(v, "fenced") != "true" ? "not fenced yet" : Value(v, "replayed") == "true" ? "replayed" : "fenced, replay owed";
      if (!Value(v, "replayer").empty()) out += ", by " + Value(v, "replayer");
      if (Value(v, "readers_ended") != "true") out += ", its cached readers may still live";
      out += '\n';
    }
  }
}

}  // namespace

std::string ToJson(const StatusTree& tree) {
  StatusTree root = tree;
  root.value.clear();
  return Convert(root).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ToText(const StatusTree& tree) {
  std::string out;
  for (const auto& child : tree.children) Indented(child, 0, out);
  return out;
}

std::string ConfigText(const StatusTree& config) { return ToText(config); }

std::string StatusText(const StatusTree& s) {
  std::string out = "Cluster " + Value(s, "cluster") + "  config version " + Value(s, "config_version") + "  register version " +
                    Value(s, "register_version") + "\n";
  out += "Node " + Value(s, "node") + ": " + Value(s, "state");
  if (!Value(s, "incarnation").empty()) out += ", incarnation " + Value(s, "incarnation");
  out += "\n";
  const StatusTree& quorum = Find(s, "quorum");
  out += std::string("Quorum: ") + (Value(s, "quorate") == "true" ? "yes" : "NO, activity blocked") + "  votes " + Value(quorum, "votes") +
         " of " + Value(quorum, "expected") + ", needed " + Value(quorum, "needed");
  if (!Value(quorum, "disk").empty()) out += "  disk: " + Value(quorum, "disk");
  out += "\nLease: " + Value(Find(s, "lease"), "state");
  if (!Value(Find(s, "lease"), "remaining_ms").empty()) out += ", " + Value(Find(s, "lease"), "remaining_ms") + " ms left";
  out += "\n\n";
  Table nodes{{{"ID", "Name", "State", "Inc", "Votes", "Heard", "Address"}}};
  for (const auto& n : Find(s, "nodes").children)
    nodes.rows.push_back({Value(n, "id"), Value(n, "name"), Value(n, "state"), Value(n, "incarnation"), Value(n, "votes"),
                          Value(n, "heard"), Value(n, "address")});
  out += nodes.Text("");
  Lockspaces(s, out);
  const StatusTree& fencing = Find(s, "fencing");
  if (!fencing.children.empty()) out += "\nFencing\n";
  for (const auto& f : fencing.children) {
    out += "  " + Value(f, "victim") + ": " + Value(f, "state");
    if (!Value(f, "fencer").empty()) out += ", fencer " + Value(f, "fencer");
    if (!Value(f, "doing").empty()) out += ", " + Value(f, "doing");
    if (!Value(f, "reason").empty()) out += " (" + Value(f, "reason") + ")";
    out += '\n';
  }
  const StatusTree& mounts = Find(s, "mounts");
  if (!mounts.children.empty()) out += "\nMounts of this node\n";
  for (const auto& m : mounts.children) {
    out += "  " + Value(m, "lockspace") + "  mount " + Value(m, "mount") + "  pid " + Value(m, "pid") + "  " + Value(m, "state") + "\n";
  }
  const StatusTree& waits = Find(s, "waiting");
  if (!waits.children.empty()) out += "\nWaiting\n";
  for (const auto& w : waits.children)
    out += "  " + Value(w, "what") + " waits for " + Value(w, "on") + ", since " + Seconds(Value(w, "since_ms")) + "\n";
  for (const auto& note : Find(s, "notes").children) out += "\nNote: " + Clean(note.value) + "\n";
  return out;
}

std::string HistoryText(const StatusTree& history) {
  std::string out;
  for (const auto& r : Find(history, "recoveries").children) {
    out += Value(r, "at") + "  " + Value(r, "victim");
    if (!Value(r, "reason").empty()) out += ": " + Value(r, "reason");
    out += '\n';
    Table phases;
    for (const auto& p : Find(r, "phases").children)
      phases.rows.push_back({"+" + Value(p, "ms") + " ms", Value(p, "phase"), Value(p, "detail")});
    out += phases.Text("    ");
  }
  const StatusTree& events = Find(history, "events");
  if (!events.children.empty() && !out.empty()) out += '\n';
  for (const auto& e : events.children) out += Value(e, "at") + "  " + Value(e, "what") + "  " + Value(e, "detail") + "\n";
  if (out.empty()) out = "Nothing has happened yet.\n";
  return out;
}

}  // namespace holdfast::tools
