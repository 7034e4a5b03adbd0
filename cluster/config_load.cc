// LoadConfig: file to DOM to structs. What the schema cannot say (references, sums, unique ids) is checked here.
#include <fcntl.h>
#include <libxml/parser.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>

#include "cluster/config.h"
#include "cluster/config_schema.h"

namespace holdfast::cluster {
namespace {

std::string Sha256(std::string_view text) {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(digest, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  char hex[2 * sizeof digest + 1];
  sodium_bin2hex(hex, sizeof hex, digest, sizeof digest);
  return hex;
}

std::string BaseName(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

// Reads the elements of a validated document. Values have the right form; meaning is checked with Complain.
class Reader {
 public:
  Reader(const std::string& file, std::vector<Remark>& remarks) : file_(file), remarks_(remarks) {}

  void Cluster(xmlNodePtr root);
  Config& config() { return config_; }
  const std::string& errors() const { return errors_; }

 private:
  static int Line(xmlNodePtr n) { return static_cast<int>(xmlGetLineNo(n)); }
  static std::string Name(xmlNodePtr n) { return reinterpret_cast<const char*>(n->name); }
  void Complain(int line, const std::string& text) {
    if (!errors_.empty()) errors_ += '\n';
    errors_ += file_ + ":" + std::to_string(line) + ": " + text;
  }
  void Advise(int line, std::string text) { remarks_.push_back({Remark::Kind::kAdvice, line, std::move(text)}); }

  static std::optional<std::string> Text(xmlNodePtr n, const char* name) {
    xmlChar* value = xmlGetNoNsProp(n, reinterpret_cast<const xmlChar*>(name));
    if (!value) return std::nullopt;
    std::string text = reinterpret_cast<const char*>(value);
    xmlFree(value);
    return text;
  }
  static int64_t Number(xmlNodePtr n, const char* name, int64_t otherwise) {
    auto text = Text(n, name);
    if (!text) return otherwise;
    size_t begin = text->find_first_not_of(" \t\n+");
    int64_t value = otherwise;
    if (begin != std::string::npos) std::from_chars(text->data() + begin, text->data() + text->size(), value);
    return value;
  }
  static bool Flag(xmlNodePtr n, const char* name, bool otherwise) {
    auto text = Text(n, name);
    return text ? *text == "1" || *text == "yes" || *text == "on" : otherwise;
  }
  template <class F>
  static void ForChildren(xmlNodePtr parent, F f) {
    for (xmlNodePtr n = parent->children; n; n = n->next)
      if (n->type == XML_ELEMENT_NODE) f(Name(n), n);
  }
  static Attributes Rest(xmlNodePtr n, std::initializer_list<std::string_view> without);

  void Node(xmlNodePtr n);
  void Totem(xmlNodePtr n);
  void FenceDaemon(xmlNodePtr n);
  void CheckNodes(int line);
  void CheckDevices();
  void CheckTiming(int line);
  void CheckVotes(int line);

  const std::string file_;
  std::vector<Remark>& remarks_;
  Config config_;
  std::string errors_;
  bool quorumd_ = false;
  int64_t quorum_votes_ = -1;
  int64_t port_ = 5405;
};

Attributes Reader::Rest(xmlNodePtr n, std::initializer_list<std::string_view> without) {
  Attributes rest;
  for (xmlAttrPtr a = n->properties; a; a = a->next) {
    std::string name = reinterpret_cast<const char*>(a->name);
    bool skip = false;
    for (auto w : without) skip = skip || w == name;
    if (!skip) rest.emplace_back(name, Text(n, name.c_str()).value_or(""));
  }
  return rest;
}

DeviceUse Use(xmlNodePtr n, Attributes attributes, std::string name) {
  return {std::move(name), std::move(attributes), static_cast<int>(xmlGetLineNo(n))};
}

void Reader::Node(xmlNodePtr n) {
  NodeConfig node;
  node.line = Line(n);
  node.name = Text(n, "name").value_or("");
  node.id = NodeId(static_cast<uint32_t>(Number(n, "nodeid", 0)));
  node.votes = static_cast<uint32_t>(Number(n, "votes", 1));
  node.address = Text(n, "addr").value_or(node.name);
  node.port = static_cast<uint16_t>(Number(n, "port", port_));
  node.public_key = Text(n, "public_key").value_or("");
  ForChildren(n, [&](const std::string& kind, xmlNodePtr child) {
    if (kind == "fence") {
      ForChildren(child, [&](const std::string&, xmlNodePtr m) {
        FenceMethodConfig method{.name = Text(m, "name").value_or("")};
        ForChildren(m, [&](const std::string&, xmlNodePtr d) {
          method.devices.push_back(Use(d, Rest(d, {"name"}), Text(d, "name").value_or("")));
        });
        node.methods.push_back(std::move(method));
      });
    } else if (kind == "unfence") {
      ForChildren(child, [&](const std::string&, xmlNodePtr d) {
        node.unfence.push_back(Use(d, Rest(d, {"name"}), Text(d, "name").value_or("")));
      });
    }
  });
  if (node.methods.empty()) Advise(node.line, "node " + node.name + " has no fence method: if it fails the cluster waits for 'holdfast fence ack " + node.name + "'");
  config_.nodes.push_back(std::move(node));
}

void Reader::Totem(xmlNodePtr n) {
  Timing& t = config_.timing;
  t.token = Milliseconds(Number(n, "token", t.token.ms()));
  int64_t fitting = std::min<int64_t>(200, t.token.ms() / 5);
  t.heartbeat = Milliseconds(Number(n, "heartbeat", fitting));
  t.lease = Milliseconds(Number(n, "lease", std::max<int64_t>(2 * t.token.ms(), 200)));
  t.lease_margin = Milliseconds(Number(n, "lease_margin", std::max<int64_t>(t.lease.ms() / 4, 50)));
}

void Reader::FenceDaemon(xmlNodePtr n) {
  Timing& t = config_.timing;
  t.post_fail_delay = Seconds(Number(n, "post_fail_delay", 0));
  int64_t join = Number(n, "post_join_delay", 6);
  t.post_join_forever = join < 0;
  t.post_join_delay = Seconds(std::max<int64_t>(join, 0));
}

void Reader::Cluster(xmlNodePtr root) {
  config_.cluster = Text(root, "name").value_or("");
  config_.version = static_cast<uint64_t>(Number(root, "config_version", 0));
  int timing_line = Line(root);
  // cman first: its port is the default of the nodes.
  ForChildren(root, [&](const std::string& kind, xmlNodePtr n) {
    if (kind != "cman") return;
    config_.two_node = Flag(n, "two_node", false);
    if (Text(n, "expected_votes")) config_.expected_votes = static_cast<uint32_t>(Number(n, "expected_votes", 0));
    port_ = Number(n, "port", 5405);
    config_.timing.shutdown_timeout = Milliseconds(Number(n, "shutdown_timeout", 5000));
  });
  ForChildren(root, [&](const std::string& kind, xmlNodePtr n) {
    if (kind == "totem") {
      Totem(n);
      timing_line = Line(n);
    } else if (kind == "quorumd") {
      quorumd_ = true;
      config_.quorum_device = Text(n, "device").value_or("");
      quorum_votes_ = Number(n, "votes", -1);
      if (config_.quorum_device.empty()) Complain(Line(n), "<quorumd> needs device=PATH-or-URL (a qdisk label is not looked up)");
    } else if (kind == "fence_daemon") {
      FenceDaemon(n);
    } else if (kind == "clusternodes") {
      ForChildren(n, [&](const std::string&, xmlNodePtr c) { Node(c); });
    } else if (kind == "fencedevices") {
      ForChildren(n, [&](const std::string&, xmlNodePtr d) {
        config_.devices.push_back({Text(d, "name").value_or(""), Text(d, "agent").value_or(""), Rest(d, {"name", "agent"}), Line(d)});
      });
    } else if (kind == "dlm") {
      config_.dlm_debug = Flag(n, "log_debug", false);
    } else if (kind == "logging") {
      config_.logging.debug = Flag(n, "debug", false);
      if (Flag(n, "to_logfile", true)) config_.logging.logfile = Text(n, "logfile").value_or("");
    }
  });
  CheckNodes(Line(root));
  CheckDevices();
  CheckTiming(timing_line);
  CheckVotes(Line(root));
}

void Reader::CheckNodes(int line) {
  std::sort(config_.nodes.begin(), config_.nodes.end(), [](const NodeConfig& a, const NodeConfig& b) { return a.id < b.id; });
  std::set<std::string> names, keys, places;
  for (size_t i = 0; i < config_.nodes.size(); ++i) {
    const NodeConfig& n = config_.nodes[i];
    if (i > 0 && config_.nodes[i - 1].id == n.id)
      Complain(n.line, "nodeid " + std::to_string(n.id.v) + " is given twice");
    if (!names.insert(n.name).second) Complain(n.line, "node name '" + n.name + "' is given twice");
    if (!n.public_key.empty() && !keys.insert(n.public_key).second)
      Complain(n.line, "public_key of " + n.name + " is also another node's: each node needs its own");
    if (!places.insert(n.Address()).second) Complain(n.line, "address " + n.Address() + " is given twice");
    if (n.public_key.empty())
      Advise(n.line, "node " + n.name + " has no public_key: holdfastd will not start (holdfast keys generate)");
  }
  if (config_.nodes.empty()) Complain(line, "no <clusternode>");
}

void Reader::CheckDevices() {
  std::set<std::string> names;
  for (const auto& d : config_.devices)
    if (!names.insert(d.name).second) Complain(d.line, "fencedevice '" + d.name + "' is given twice");
  auto check = [&](const DeviceUse& use) {
    if (!names.contains(use.name)) Complain(use.line, "device '" + use.name + "' is no <fencedevice>");
  };
  for (const auto& n : config_.nodes) {
    for (const auto& m : n.methods)
      for (const auto& d : m.devices) check(d);
    for (const auto& d : n.unfence) check(d);
  }
}

void Reader::CheckTiming(int line) {
  const Timing& t = config_.timing;
  if (t.heartbeat * 2 > t.token) Complain(line, "token must be at least twice the heartbeat");
  if (t.lease < t.token) Complain(line, "lease must not be shorter than token");
}

void Reader::CheckVotes(int line) {
  uint32_t nodes = 0;
  for (const auto& n : config_.nodes) nodes += n.votes;
  if (config_.two_node) {
    bool fits = config_.nodes.size() == 2 && config_.nodes[0].votes == 1 && config_.nodes[1].votes == 1;
    if (!fits) Complain(line, "two_node=\"1\" needs exactly two nodes with one vote each");
    if (!quorumd_) Complain(line, "two_node=\"1\" needs <quorumd device=…>: one vote for the disk replaces the split-brain race");
  }
  if (quorumd_) {
    config_.quorum_votes = config_.two_node ? 1 : quorum_votes_ >= 0 ? static_cast<uint32_t>(quorum_votes_) : std::max(nodes, 2u) - 1;
    if (config_.two_node && quorum_votes_ > 1) Complain(line, "two_node=\"1\" means one disk vote; <quorumd votes> says otherwise");
    if (config_.quorum_votes >= nodes && nodes > 1)
      Complain(line, "quorumd votes must be fewer than the nodes' (" + std::to_string(nodes) + "), or two groups of nodes could be quorate in turn");
  }
  if (nodes == 0) Complain(line, "no node has a vote");
  if (config_.expected_votes && !config_.two_node && *config_.expected_votes != nodes && *config_.expected_votes != config_.TotalVotes())
    Advise(line, "expected_votes=" + std::to_string(*config_.expected_votes) + " is ignored: votes are counted (" +
                     std::to_string(config_.TotalVotes()) + ")");
}

struct DocumentFree {
  void operator()(xmlDoc* d) const { xmlFreeDoc(d); }
};

// The parser's first complaint: those after it are of what it took the rest for.
struct FirstError {
  int line = 0;
  std::string text = "is not XML";
};
void KeepFirst(void* context, xmlErrorPtr error) {
  auto* first = static_cast<FirstError*>(static_cast<xmlParserCtxtPtr>(context)->_private);
  if (first->line != 0 || error->level < XML_ERR_ERROR) return;
  first->line = std::max(error->line, 1);
  if (error->message) first->text = error->message;
  while (!first->text.empty() && first->text.back() == '\n') first->text.pop_back();
}

}  // namespace

Result<LoadedConfig> ParseConfig(std::string_view text, const std::string& path) {
  std::string file = BaseName(path);
  if (text.size() > kConfigBytesMax) return Error(Errc::kInvalid, file + ": larger than " + std::to_string(kConfigBytesMax) + " bytes");
  xmlParserCtxtPtr context = xmlNewParserCtxt();
  FirstError first;
  context->_private = &first;
  context->sax->serror = KeepFirst;
  // No XML_PARSE_NOENT, no DTD loading: entities of the document are refused below, external ones are never fetched.
  std::unique_ptr<xmlDoc, DocumentFree> document(xmlCtxtReadMemory(
      context, text.data(), static_cast<int>(text.size()), file.c_str(), nullptr,
      XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA | XML_PARSE_BIG_LINES));
  xmlFreeParserCtxt(context);
  if (!document) return Error(Errc::kInvalid, file + ":" + std::to_string(std::max(first.line, 1)) + ": " + first.text);
  if (document->intSubset || document->extSubset)
    return Error(Errc::kInvalid, file + ":1: a document type (DOCTYPE, entities) is not accepted");
  xmlNodePtr root = xmlDocGetRootElement(document.get());
  if (!root || std::strcmp(reinterpret_cast<const char*>(root->name), "cluster") != 0)
    return Error(Errc::kInvalid, file + ":1: the outermost element must be <cluster>");

  LoadedConfig loaded;
  const ConfigSchema& schema = ConfigSchema::Get();
  schema.Prune(document.get(), loaded.remarks);
  std::string errors;
  for (const auto& [line, what] : schema.Validate(document.get()))
    errors += (errors.empty() ? "" : "\n") + file + ":" + std::to_string(line) + ": " + what;
  if (!errors.empty()) return Error(Errc::kInvalid, errors);

  Reader reader(file, loaded.remarks);
  reader.Cluster(root);
  if (!reader.errors().empty()) return Error(Errc::kInvalid, reader.errors());
  loaded.config = std::move(reader.config());
  loaded.config.path = path;
  loaded.config.hash = Sha256(text);
  std::stable_sort(loaded.remarks.begin(), loaded.remarks.end(), [](const Remark& a, const Remark& b) { return a.line < b.line; });
  return loaded;
}

Result<LoadedConfig> LoadConfig(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return Error(errno == ENOENT ? Errc::kNotFound : errno == EACCES ? Errc::kPermission : Errc::kIo, path + ": " + std::strerror(errno));
  struct stat st {};
  ::fstat(fd, &st);
  if (!S_ISREG(st.st_mode)) {
    ::close(fd);
    return Error(Errc::kInvalid, path + ": not a file");
  }
  std::string text;
  char chunk[65536];
  ssize_t n = 0;
  while (text.size() <= kConfigBytesMax && (n = ::read(fd, chunk, sizeof chunk)) > 0) text.append(chunk, static_cast<size_t>(n));
  ::close(fd);
  if (n < 0) return Error(Errc::kIo, path + ": " + std::strerror(errno));
  auto loaded = ParseConfig(text, path);
  if (loaded.ok() && HasSecrets(loaded->config) && (st.st_mode & 07) != 0)
    return Error(Errc::kPermission, path + ": holds passwords and everybody may read it; chmod 0600, or use passwd_script");
  return loaded;
}

}  // namespace holdfast::cluster
