#include <catch2/catch.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "cluster/config.h"
#include "cluster/keys.h"
#include "cluster/lease_page.h"

using namespace holdfast;
using namespace holdfast::cluster;

namespace {

constexpr char kGood[] = R"(<?xml version="1.0"?>
<cluster name="alpha" config_version="7">
  <cman expected_votes="3" port="6809"/>
  <totem token="1000"/>
  <quorumd device="/dev/sdb" votes="2" interval="1" tko="10"><heuristic program="ping -c1 gw" score="1"/></quorumd>
  <fence_daemon post_fail_delay="0" post_join_delay="3"/>
  <clusternodes>
    <clusternode name="b" nodeid="2" votes="1" addr="10.0.0.2"><fence><method name="power">
      <device name="ipmi" port="2"/><device name="ipmi" port="3" action="on"/></method></fence></clusternode>
    <clusternode name="a" nodeid="1" addr="10.0.0.1" port="7000"/>
    <clusternode name="c" nodeid="3"/>
  </clusternodes>
  <fencedevices><fencedevice name="ipmi" agent="fence_ipmilan" ipaddr="10.0.0.9" login="admin" passwd="s3cret" lanplus="1"/></fencedevices>
  <rm log_level="7"><service name="web"><ip address="10.0.0.5"/></service></rm>
</cluster>
)";

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string ErrorOf(const std::string& text) {
  auto loaded = ParseConfig(text, "/etc/cluster/cluster.conf");
  if (loaded.ok()) return "";
  return loaded.error().message;
}

bool Remarked(const LoadedConfig& loaded, Remark::Kind kind, int line, const std::string& word) {
  for (const auto& r : loaded.remarks)
    if (r.kind == kind && r.line == line && r.text.find(word) != std::string::npos) return true;
  return false;
}

struct TemporaryDirectory {
  std::string path;
  TemporaryDirectory() {
    char name[] = "/tmp/hf-config-XXXXXX";
    path = mkdtemp(name);
  }
  ~TemporaryDirectory() { [[maybe_unused]] int rc = std::system(("rm -rf " + path).c_str()); }
};

}  // namespace

TEST_CASE("config: an RHCS cluster.conf loads into plain structs", "[config][unit]") {
  auto loaded = ParseConfig(kGood, "cluster.conf");
  INFO((loaded.ok() ? std::string() : loaded.error().message));
  REQUIRE(loaded.ok());
  const Config& c = loaded->config;
  CHECK(c.cluster == "alpha");
  CHECK(c.version == 7);
  REQUIRE(c.nodes.size() == 3);
  CHECK(c.nodes[0].name == "a");
  CHECK(c.nodes[0].Address() == "tcp://10.0.0.1:7000");
  CHECK(c.nodes[1].Address() == "tcp://10.0.0.2:6809");
  CHECK(c.nodes[2].address == "c");
  REQUIRE(c.nodes[1].methods.size() == 1);
  REQUIRE(c.nodes[1].methods[0].devices.size() == 2);
  CHECK(c.nodes[1].methods[0].devices[1].attributes == Attributes{{"port", "3"}, {"action", "on"}});
  CHECK(c.quorum_votes == 2);
  CHECK(c.TotalVotes() == 5);
  CHECK(c.Quorum() == 3);
  CHECK(c.timing.post_join_delay.ms() == 3000);
  CHECK(c.timing.heartbeat.ms() == 200);
  CHECK(c.timing.lease.ms() == 2000);
  CHECK(c.timing.lease_margin.ms() == 500);
  CHECK(c.hash.size() == 64);
}

TEST_CASE("config: what is not acted on is named by line", "[config][unit]") {
  auto loaded = ParseConfig(kGood, "cluster.conf");
  REQUIRE(loaded.ok());
  CHECK(Remarked(*loaded, Remark::Kind::kUnused, 14, "<rm>"));
  CHECK(Remarked(*loaded, Remark::Kind::kUnused, 5, "heuristic"));
  CHECK(Remarked(*loaded, Remark::Kind::kUnused, 5, "'tko'"));
  CHECK(Remarked(*loaded, Remark::Kind::kAdvice, 11, "public_key"));
}

TEST_CASE("config: unknown items warn with their line and are skipped", "[config][unit]") {
  auto text = Replaced(kGood, "<totem token", "<blurb x='1'><y/></blurb><totem colour='red' token");
  auto loaded = ParseConfig(text, "cluster.conf");
  REQUIRE(loaded.ok());
  CHECK(Remarked(*loaded, Remark::Kind::kUnknown, 4, "<blurb>"));
  CHECK(Remarked(*loaded, Remark::Kind::kUnknown, 4, "'colour'"));
}

TEST_CASE("config: malformed known items are errors with their line", "[config][unit]") {
  CHECK_THAT(ErrorOf(Replaced(kGood, "nodeid=\"2\"", "nodeid=\"300\"")), Catch::Contains("cluster.conf:8:"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "nodeid=\"2\"", "nodeid=\"two\"")), Catch::Contains("cluster.conf:8:"));
  CHECK_THAT(ErrorOf(Replaced(kGood, " nodeid=\"2\"", "")), Catch::Contains("cluster.conf:8:"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "token=\"1000\"", "token=\"-1\"")), Catch::Contains("cluster.conf:4:"));
  CHECK_THAT(ErrorOf(Replaced(kGood, " config_version=\"7\"", "")), Catch::Contains("cluster.conf:2:"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "</rm>", "")), Catch::Contains("cluster.conf:"));
  CHECK_THAT(ErrorOf("<clutter/>"), Catch::Contains("<cluster>"));
  CHECK_THAT(ErrorOf(""), Catch::Contains("cluster.conf"));
}

TEST_CASE("config: references, ids and votes must fit", "[config][unit]") {
  CHECK_THAT(ErrorOf(Replaced(kGood, "nodeid=\"2\"", "nodeid=\"1\"")), Catch::Contains("given twice"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "<device name=\"ipmi\" port=\"2\"", "<device name=\"apc\" port=\"2\"")), Catch::Contains("'apc'"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "votes=\"2\" interval", "votes=\"3\" interval")), Catch::Contains("quorumd votes"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "<cman ", "<cman two_node=\"1\" ")), Catch::Contains("two nodes"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "token=\"1000\"", "token=\"1000\" heartbeat=\"900\"")), Catch::Contains("cluster.conf:4:"));
  CHECK_THAT(ErrorOf(Replaced(kGood, "device=\"/dev/sdb\"", "label=\"q\"")), Catch::Contains("cluster.conf:5:"));
}

TEST_CASE("config: two_node means one vote for the disk", "[config][unit]") {
  constexpr char kTwo[] = R"(<cluster name="two" config_version="1"><cman two_node="1" expected_votes="1"/><quorumd device="/v"/>
    <clusternodes><clusternode name="a" nodeid="1"/><clusternode name="b" nodeid="2"/></clusternodes></cluster>)";
  auto loaded = ParseConfig(kTwo, "cluster.conf");
  REQUIRE(loaded.ok());
  CHECK(loaded->config.quorum_votes == 1);
  CHECK(loaded->config.Quorum() == 2);
  CHECK_THAT(ErrorOf(Replaced(kTwo, "<quorumd device=\"/v\"/>", "")), Catch::Contains("quorumd"));
}

TEST_CASE("config: no document types, entities or endless input", "[config][unit]") {
  std::string bomb = R"(<?xml version="1.0"?><!DOCTYPE cluster [<!ENTITY a "aaaa"><!ENTITY x SYSTEM "file:///etc/passwd">]>)";
  CHECK_THAT(ErrorOf(bomb + std::string(kGood).substr(22)), Catch::Contains("document type"));
  std::string deep = "<cluster name='a' config_version='1'>";
  for (int i = 0; i < 100000; ++i) deep += "<rm>";
  CHECK_FALSE(ErrorOf(deep).empty());
  CHECK_THAT(ErrorOf(std::string(kConfigBytesMax + 1, ' ')), Catch::Contains("larger"));
  std::string control = Replaced(kGood, "alpha", "al\x01pha");
  CHECK_FALSE(ErrorOf(control).empty());
}

TEST_CASE("config: every cut of a good file is an error, not a crash", "[config][unit]") {
  std::string text = kGood;
  size_t whole = text.rfind('>') + 1;
  for (size_t cut = 0; cut < whole; cut += 7) CHECK_FALSE(ErrorOf(text.substr(0, cut)).empty());
}

TEST_CASE("config: passwords are never shown and their file must be private", "[config][unit]") {
  auto loaded = ParseConfig(kGood, "cluster.conf");
  REQUIRE(loaded.ok());
  std::string all;
  std::function<void(const StatusTree&)> walk = [&](const StatusTree& t) {
    all += t.name + "=" + t.value + "\n";
    for (const auto& c : t.children) walk(c);
  };
  walk(ShowConfig(loaded->config));
  CHECK(all.find("s3cret") == std::string::npos);
  CHECK(all.find("passwd=***") != std::string::npos);
  CHECK(RedactUrl("iscsi://joe%pw@h:3260/iqn.x/1") == "iscsi://joe%***@h:3260/iqn.x/1");
  CHECK(RedactUrl("iscsi://h/iqn.x%41/1") == "iscsi://h/iqn.x%41/1");
  CHECK(IsSecret("snmp_priv_passwd"));
  CHECK_FALSE(IsSecret("passwd_script"));

  TemporaryDirectory dir;
  std::string path = dir.path + "/cluster.conf";
  std::ofstream(path) << kGood;
  ::chmod(path.c_str(), 0644);
  CHECK(LoadConfig(path).code() == Errc::kPermission);
  ::chmod(path.c_str(), 0640);
  CHECK(LoadConfig(path).ok());
  CHECK(LoadConfig(dir.path + "/none").code() == Errc::kNotFound);
  CHECK(LoadConfig(dir.path).code() == Errc::kInvalid);
}

TEST_CASE("keys: a pair is written privately and read back", "[keys][unit]") {
  TemporaryDirectory dir;
  KeyPair keys = GenerateKeys();
  CHECK(keys.public_key.size() == 40);
  REQUIRE(SaveKeys(dir.path, keys, false).ok());
  CHECK(SaveKeys(dir.path, GenerateKeys(), false).code() == Errc::kExists);
  auto back = LoadKeys(dir.path);
  REQUIRE(back.ok());
  CHECK(back->secret_key == keys.secret_key);
  struct stat st {};
  REQUIRE(::stat((dir.path + "/curve.key").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  ::chmod((dir.path + "/curve.key").c_str(), 0644);
  CHECK(LoadKeys(dir.path).code() == Errc::kPermission);
  ::chmod((dir.path + "/curve.key").c_str(), 0600);
  std::ofstream(dir.path + "/curve.key") << "short\n";
  CHECK(LoadKeys(dir.path).code() == Errc::kCorrupt);
}

TEST_CASE("lease: a reader sees the deadline, the eviction, and not a later life", "[lease][unit]") {
  TemporaryDirectory dir;
  std::string path = dir.path + "/lease";
  auto writer = LeaseWriter::Create(path);
  REQUIRE(writer.ok());
  auto reader = MapLeasePage(path);
  REQUIRE(reader.ok());
  const LeasePage& page = **reader;
  Incarnation life(4);
  CHECK(CheckLease(page, life, Instant{1}) == LeaseState::kEvicted);  // not this life
  (*writer)->Begin(life);
  CHECK(CheckLease(page, life, Instant{1}) == LeaseState::kExpired);
  (*writer)->Extend(Instant{100});
  (*writer)->Extend(Instant{50});
  CHECK(CheckLease(page, life, Instant{99}) == LeaseState::kValid);
  CHECK(CheckLease(page, life, Instant{100}) == LeaseState::kExpired);
  (*writer)->Evict();
  (*writer)->Extend(Instant{1000});
  CHECK(CheckLease(page, life, Instant{99}) == LeaseState::kEvicted);
  // A new life of holdfastd makes a new file: the old page stays as it was.
  auto next = LeaseWriter::Create(path);
  REQUIRE(next.ok());
  (*next)->Begin(Incarnation(5));
  (*next)->Extend(Instant{1000});
  CHECK(CheckLease(page, Incarnation(5), Instant{99}) == LeaseState::kEvicted);
  CHECK(MapLeasePage(dir.path).ok() == false);
}
