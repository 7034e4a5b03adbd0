// Bad input by generator: a cluster.conf that uses everything, with each line taken out, doubled or cut, and each attribute
// taken out, doubled, emptied, given nonsense, huge and negative values. Nothing crashes; every error names the file and a line of it;
// a value of the wrong type is an error, and the line is the one with the value; what is accepted can be shown.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "cluster/config.h"

namespace {

using namespace holdfast::cluster;

// One element on each line, so that an error's line tells whether it is the right one.
const std::vector<std::string> kLines = {
    R"(<?xml version="1.0"?>)",
    R"(<cluster name="alpha" config_version="7">)",
    R"(<cman expected_votes="3" port="6809" shutdown_timeout="5000" cluster_id="5" broadcast="no"/>)",
    R"(<totem token="1000" heartbeat="200" lease="2000" lease_margin="500"/>)",
    R"(<quorumd device="/dev/sdb" votes="2" interval="1" tko="10" reboot="1"/>)",
    R"(<fence_daemon post_fail_delay="0" post_join_delay="3" clean_start="0"/>)",
    R"(<clusternodes>)",
    R"(<clusternode name="a" nodeid="1" votes="1" addr="10.0.0.1" port="7000">)",
    R"(<fence>)",
    R"(<method name="power">)",
    R"(<device name="ipmi" port="2"/>)",
    R"(</method>)",
    R"(</fence>)",
    R"(<unfence>)",
    R"(<device name="pr" action="on"/>)",
    R"(</unfence>)",
    R"(</clusternode>)",
    R"(<clusternode name="b" nodeid="2" addr="10.0.0.2"/>)",
    R"(<clusternode name="c" nodeid="3" addr="10.0.0.3"/>)",
    R"(</clusternodes>)",
    R"(<fencedevices>)",
    R"(<fencedevice name="ipmi" agent="fence_ipmilan" ipaddr="10.0.0.9" login="admin" passwd="s3cret" lanplus="1"/>)",
    R"(<fencedevice name="pr" agent="fence_pr" devices="iscsi://10.0.0.9/iqn.x/0"/>)",
    R"(</fencedevices>)",
    R"(<dlm log_debug="0"/>)",
    R"(<logging debug="off" to_logfile="yes" logfile="/var/log/x.log"/>)",
    R"(</cluster>)",
};

// Attributes of a type; the others are text.
const std::map<std::string, std::string> kTypes = {
    {"config_version", "number"}, {"expected_votes", "number"}, {"shutdown_timeout", "number"}, {"cluster_id", "number"}, {"broadcast", "flag"},
    {"token", "number"}, {"heartbeat", "number"}, {"lease", "number"}, {"lease_margin", "number"}, {"votes", "number"}, {"interval", "number"},
    {"tko", "number"}, {"reboot", "flag"}, {"post_fail_delay", "number"}, {"post_join_delay", "number"}, {"clean_start", "flag"}, {"nodeid", "number"},
    {"log_debug", "flag"}, {"debug", "flag"}, {"to_logfile", "flag"}};

int tried = 0, refused = 0, failures = 0;

void Fail(const std::string& what, const std::string& words) {
  ++failures;
  std::printf("FAILED %s: %s\n", what.c_str(), words.c_str());
}

std::string Join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// line: where the error must be, 0: anywhere in the file. must_fail: -1 must succeed, 1 must fail, 0 either.
void Try(const std::string& what, const std::string& text, size_t lines, int line, int must_fail) {
  ++tried;
  auto loaded = ParseConfig(text, "/etc/cluster/cluster.conf");
  if (loaded.ok()) {
    (void)ShowConfig(loaded->config);
    if (must_fail > 0) Fail(what, "is accepted");
    for (const Remark& remark : loaded->remarks)
      if (remark.line < 1 || remark.line > static_cast<int>(lines)) Fail(what, "a remark at line " + std::to_string(remark.line) + ": " + remark.text);
    return;
  }
  ++refused;
  const std::string& message = loaded.error().message;
  if (must_fail < 0) Fail(what, "is refused: " + message);
  std::smatch match;
  if (!std::regex_search(message, match, std::regex("^cluster\\.conf:(\\d+): ."))) return Fail(what, "an error without a place: " + message);
  int at = std::atoi(match[1].str().c_str());
  if (at < 1 || at > static_cast<int>(lines) + 1) Fail(what, "an error at line " + std::to_string(at) + ": " + message);
  if (line != 0 && at != line) Fail(what, "the error is at line " + std::to_string(at) + ", not " + std::to_string(line) + ": " + message);
}

bool NumberOrFlag(const std::string& name, const std::string& element) {
  return kTypes.contains(name) || (name == "port" && element != "device");
}

void TryAttribute(size_t index, const std::smatch& m) {
  const std::string& line = kLines[index];
  std::string element = line.substr(1, line.find_first_of(" >/", 1) - 1), name = m[1];
  int at = static_cast<int>(index) + 1;
  auto with = [&](const std::string& replacement) {
    std::vector<std::string> lines = kLines;
    auto at = static_cast<size_t>(m.position());
    lines[index] = line.substr(0, at) + replacement + line.substr(at + static_cast<size_t>(m.length()));
    return Join(lines);
  };
  std::string what = "line " + std::to_string(at) + " <" + element + "> " + name + " ";
  bool typed = NumberOrFlag(name, element) && line[1] != '?';
  Try(what + "taken out", with(""), kLines.size(), 0, 0);
  Try(what + "doubled", with(" " + m[0].str() + " " + m[0].str()), kLines.size(), at, 1);
  Try(what + "unknown", with(" no_such_" + m[0].str().substr(1)), kLines.size(), 0, 0);
  for (const char* value : {"", "nonsense", "-5", "1.5", "0x10", "99999999999999999999999999", "4294967296", "1 2", "&lt;", "&#0;", "&undefined;", "\xff"}) {
    bool broken = value[0] == '&' ? value[1] != 'l' : value[0] == '\xff';  // not XML at all
    bool wrong = typed || broken;
    Try(what + "= '" + value + "'", with(" " + name + "=\"" + value + "\""), kLines.size(), wrong && !broken ? at : 0, wrong ? 1 : 0);
  }
  Try(what + "very long", with(" " + name + "=\"" + std::string(100'000, 'x') + "\""), kLines.size(), typed ? at : 0, typed ? 1 : 0);
  Try(what + "without quotes", with(" " + name + "=5"), kLines.size(), at, 1);
}

}  // namespace

int main() {
  std::string whole = Join(kLines);
  Try("the example", whole, kLines.size(), 0, -1);
  const std::regex attribute(" ([a-z_]+)=\"[^\"]*\"");
  for (size_t i = 0; i < kLines.size(); ++i) {
    std::string what = "line " + std::to_string(i + 1);
    std::vector<std::string> lines = kLines;
    lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(i));
    Try(what + " taken out", Join(lines), lines.size(), 0, 0);
    lines = kLines;
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(i), kLines[i]);
    Try(what + " doubled", Join(lines), lines.size(), 0, 0);
    lines = kLines;
    lines[i] = lines[i].substr(0, lines[i].size() / 2);
    Try(what + " cut", Join(lines), lines.size(), 0, 0);
    if (i > 0) {
      lines = kLines;
      std::swap(lines[i], lines[i - 1]);
      Try(what + " swapped", Join(lines), lines.size(), 0, 0);
    }
    for (std::sregex_iterator m(kLines[i].begin(), kLines[i].end(), attribute), end; m != end; ++m) TryAttribute(i, *m);
  }
  for (size_t cut = 0; cut < whole.size(); cut += 7) Try("cut after " + std::to_string(cut), whole.substr(0, cut), kLines.size(), 0, cut + 1 < whole.size() ? 1 : 0);
  std::printf("%d files, %d refused\n%d passed, %d failed\n", tried, refused, tried - failures, failures);
  return failures == 0 ? 0 : 1;
}
