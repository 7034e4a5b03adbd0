#include "io/zmq_transport.h"

#include <sys/epoll.h>
#include <zmq.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"

namespace holdfast::io {
namespace {

constexpr int kFramesPerTurn = 128;  // then others run
constexpr size_t kCopyMax = 4096;    // larger frames are handed to ZeroMQ without a copy

class Message {
 public:
  Message() { zmq_msg_init(&m_); }
  ~Message() { zmq_msg_close(&m_); }
  Message(const Message&) = delete;
  zmq_msg_t* get() { return &m_; }
  std::span<const std::byte> bytes() {
    return {static_cast<const std::byte*>(zmq_msg_data(&m_)), zmq_msg_size(&m_)};
  }
  bool more() { return zmq_msg_more(&m_) != 0; }

 private:
  zmq_msg_t m_;
};

void SetInt(void* socket, int option, int value) { zmq_setsockopt(socket, option, &value, sizeof value); }

bool HasInput(void* socket) {
  int events = 0;
  size_t size = sizeof events;
  return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN) != 0;
}

int FdOf(void* socket) {
  int fd = -1;
  size_t size = sizeof fd;
  zmq_getsockopt(socket, ZMQ_FD, &fd, &size);
  return fd;
}

Status SetKeys(void* socket, const CurveKeys& keys, const char* server_key) {
  bool ok = zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, keys.public_key.c_str(), 41) == 0 &&
            zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, keys.secret_key.c_str(), 41) == 0;
  if (server_key != nullptr) ok = ok && zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server_key, 41) == 0;
  else SetInt(socket, ZMQ_CURVE_SERVER, 1);
  return ok ? Status() : Status(Error(Errc::kInvalid, "a CURVE key is 40 characters of Z85"));
}

}  // namespace

Result<CurveKeys> MakeCurveKeys() {
  char public_key[41], secret_key[41];
  if (zmq_curve_keypair(public_key, secret_key) != 0)
    return Error(Errc::kUnsupported, std::string("CURVE: ") + zmq_strerror(errno));
  return CurveKeys{public_key, secret_key};
}

struct ZmqTransport::Sockets {
  Reactor* reactor;
  ZmqTransportOptions options;
  void* context = nullptr;
  void* router = nullptr;
  void* zap = nullptr;
  std::map<Endpoint, void*> dealers;
  std::string address;
  Receiver receiver;
  ZmqTransportStats stats;
  bool router_posted = false;
  std::set<std::string> refused;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);

  ~Sockets();
  Status Begin();
  Status BindRouter();
  Status BeginZap();
  void Tune(void* socket) const;
  void* DealerFor(const Endpoint& to);
  void DrainRouter();
  void ReceiveOne();
  void DrainZap();
  void AnswerZap();
};

Result<std::unique_ptr<ZmqTransport>> ZmqTransport::Create(Reactor* reactor, ZmqTransportOptions options) {
  std::unique_ptr<ZmqTransport> transport(new ZmqTransport());
  transport->s_ = std::make_unique<Sockets>();
  transport->s_->reactor = reactor;
  transport->s_->options = std::move(options);
  if (Status begun = transport->s_->Begin(); !begun.ok()) return begun.error();
  return transport;
}

ZmqTransport::~ZmqTransport() = default;

ZmqTransport::Sockets::~Sockets() {
  *alive = false;
  for (void* socket : {router, zap})
    if (socket != nullptr) reactor->Unwatch(FdOf(socket));
  for (auto& [endpoint, dealer] : dealers) zmq_close(dealer);
  if (router != nullptr) zmq_close(router);
  if (zap != nullptr) zmq_close(zap);
  if (context != nullptr) zmq_ctx_term(context);  // waits for the lingering ones
}

Status ZmqTransport::Sockets::Begin() {
  context = zmq_ctx_new();
  HF_CHECK(context != nullptr, "zmq_ctx_new: %s", zmq_strerror(errno));
  zmq_ctx_set(context, ZMQ_MAX_SOCKETS, 4096);
  HF_TRY(BeginZap());  // before the router: handshakes need it
  return BindRouter();
}

void ZmqTransport::Sockets::Tune(void* socket) const {
  SetInt(socket, ZMQ_SNDHWM, options.queue_frames_max);
  SetInt(socket, ZMQ_RCVHWM, options.queue_frames_max);
  SetInt(socket, ZMQ_LINGER, static_cast<int>(options.linger.ms()));
  SetInt(socket, ZMQ_HEARTBEAT_IVL, static_cast<int>(options.heartbeat.ms()));
  SetInt(socket, ZMQ_HEARTBEAT_TIMEOUT, static_cast<int>(options.heartbeat_timeout.ms()));
  SetInt(socket, ZMQ_HEARTBEAT_TTL, static_cast<int>(options.heartbeat_timeout.ms()));
  SetInt(socket, ZMQ_HANDSHAKE_IVL, static_cast<int>(options.heartbeat_timeout.ms()));
  SetInt(socket, ZMQ_CONNECT_TIMEOUT, static_cast<int>(options.heartbeat_timeout.ms()));
  SetInt(socket, ZMQ_RECONNECT_IVL, static_cast<int>(options.reconnect_min.ms()));
  SetInt(socket, ZMQ_RECONNECT_IVL_MAX, static_cast<int>(options.reconnect_max.ms()));
  zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &options.frame_bytes_max, sizeof options.frame_bytes_max);
}

Status ZmqTransport::Sockets::BindRouter() {
  router = zmq_socket(context, ZMQ_ROUTER);
  Tune(router);
  HF_TRY(SetKeys(router, options.keys, nullptr));
  zmq_setsockopt(router, ZMQ_ZAP_DOMAIN, "holdfast", 8);
  std::string where = options.bind;
  if (where.ends_with(":0")) where.replace(where.size() - 1, 1, "*");
  if (where.find('[') != std::string::npos) SetInt(router, ZMQ_IPV6, 1);
  if (zmq_bind(router, where.c_str()) != 0) {
    Errc code = errno == EADDRINUSE ? Errc::kBusy : Errc::kInvalid;
    return Error(code, options.bind + ": " + zmq_strerror(errno));
  }
  char bound[256];
  size_t size = sizeof bound;
  zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, bound, &size);
  address = bound;
  return reactor->Watch(FdOf(router), EPOLLIN, [this](uint32_t) { DrainRouter(); });
}

// ---- who may speak to us: ZAP (RFC 27) ----

Status ZmqTransport::Sockets::BeginZap() {
  zap = zmq_socket(context, ZMQ_REP);
  SetInt(zap, ZMQ_LINGER, 0);
  if (zmq_bind(zap, "inproc://zeromq.zap.01") != 0) return Error(Errc::kBusy, "ZAP: " + std::string(zmq_strerror(errno)));
  return reactor->Watch(FdOf(zap), EPOLLIN, [this](uint32_t) { DrainZap(); });
}

// ZMQ_FD tells of changes only: whatever is there must be taken, and looked for again after each answer.
void ZmqTransport::Sockets::DrainZap() {
  while (HasInput(zap)) AnswerZap();
}

void ZmqTransport::Sockets::AnswerZap() {
  std::vector<std::string> parts;  // version, request id, domain, address, identity, mechanism, credentials
  for (bool more = true; more;) {
    Message part;
    if (zmq_msg_recv(part.get(), zap, ZMQ_DONTWAIT) < 0) return;
    parts.emplace_back(AsText(part.bytes()));
    more = part.more();
  }
  // 300, not 400: after 400 the other side never tries again, but its key may be in the next configuration.
  std::string status = "300", text = "the key is not in the configuration", user;
  if (parts.size() == 7 && parts[5] == "CURVE" && parts[6].size() == 32) {
    char key[41];
    zmq_z85_encode(key, reinterpret_cast<const uint8_t*>(parts[6].data()), 32);
    auto it = options.allowed.find(key);
    if (it != options.allowed.end()) {
      status = "200";
      text = "OK";
      user = std::to_string(it->second.v);
    } else if (refused.size() < 1000 && refused.insert(key).second) {  // it will try for ever: one line per key
      HF_LOG(LogLevel::kWarn, "transport", "key_refused", {{"from", parts[3]}, {"key", key}});
    }
  }
  if (status != "200") ++stats.refused_keys;
  const std::string id = parts.size() > 1 ? parts[1] : "";
  const std::string reply[] = {"1.0", id, status, text, user, ""};
  for (size_t i = 0; i < std::size(reply); ++i)
    zmq_send(zap, reply[i].data(), reply[i].size(), ZMQ_DONTWAIT | (i + 1 < std::size(reply) ? ZMQ_SNDMORE : 0));
}

// ---- frames ----

void ZmqTransport::Sockets::DrainRouter() {
  for (int n = 0; n < kFramesPerTurn; ++n) {
    if (!HasInput(router)) return;
    ReceiveOne();
  }
  if (router_posted) return;
  router_posted = true;
  reactor->Post([this, still = alive] {
    if (!*still) return;
    router_posted = false;
    DrainRouter();
  });
}

void ZmqTransport::Sockets::ReceiveOne() {
  Message route, frame;
  if (zmq_msg_recv(route.get(), router, ZMQ_DONTWAIT) < 0) return;
  bool extra = false;
  if (!route.more() || zmq_msg_recv(frame.get(), router, ZMQ_DONTWAIT) < 0) {
    ++stats.malformed;
    return;
  }
  for (bool more = frame.more(); more;) {
    Message rest;
    extra = true;
    if (zmq_msg_recv(rest.get(), router, ZMQ_DONTWAIT) < 0) break;
    more = rest.more();
  }
  const char* user = zmq_msg_gets(frame.get(), "User-Id");
  uint32_t node = user != nullptr ? static_cast<uint32_t>(std::strtoul(user, nullptr, 10)) : 0;
  bool known = false;
  for (const auto& [key, allowed] : options.allowed) known = known || allowed.v == node;
  if (extra || node == 0 || !known) {
    ++stats.malformed;
    return;
  }
  ++stats.received;
  if (receiver) receiver(NodeId(node), frame.bytes());
}

void* ZmqTransport::Sockets::DealerFor(const Endpoint& to) {
  auto it = dealers.find(to);
  if (it != dealers.end()) return it->second;
  void* dealer = zmq_socket(context, ZMQ_DEALER);
  HF_CHECK(dealer != nullptr, "zmq_socket: %s", zmq_strerror(errno));
  Tune(dealer);
  std::string where = to.address;
  if (!options.source_address.empty() && where.starts_with("tcp://"))
    where = "tcp://" + options.source_address + ":0;" + where.substr(6);
  if (where.find('[') != std::string::npos) SetInt(dealer, ZMQ_IPV6, 1);
  Status keyed = SetKeys(dealer, options.keys, to.public_key.c_str());
  if (to.public_key.size() != 40 || !keyed.ok() || zmq_connect(dealer, where.c_str()) != 0) {
    HF_LOG(LogLevel::kError, "transport", "bad_endpoint", {{"address", to.address}, {"node", to.node}});
    zmq_close(dealer);
    dealer = nullptr;
  }
  if (dealer != nullptr) dealers.emplace(to, dealer);
  return dealer;
}

void ZmqTransport::Send(const Endpoint& to, std::vector<std::byte> frame) {
  void* dealer = s_->DealerFor(to);
  if (dealer == nullptr) {
    ++s_->stats.dropped;
    return;
  }
  zmq_msg_t message;
  if (frame.size() <= kCopyMax) {
    zmq_msg_init_size(&message, frame.size());
    if (!frame.empty()) std::memcpy(zmq_msg_data(&message), frame.data(), frame.size());
  } else {
    auto* keep = new std::vector<std::byte>(std::move(frame));
    zmq_msg_init_data(&message, keep->data(), keep->size(),
                      [](void*, void* hint) { delete static_cast<std::vector<std::byte>*>(hint); }, keep);
  }
  if (zmq_msg_send(&message, dealer, ZMQ_DONTWAIT) < 0) {
    zmq_msg_close(&message);
    ++s_->stats.dropped;
    return;
  }
  ++s_->stats.sent;
}

void ZmqTransport::SetReceiver(Receiver receiver) { s_->receiver = std::move(receiver); }

void ZmqTransport::Forget(const Endpoint& endpoint) {
  auto it = s_->dealers.find(endpoint);
  if (it == s_->dealers.end()) return;
  SetInt(it->second, ZMQ_LINGER, 0);
  zmq_close(it->second);
  s_->dealers.erase(it);
}

std::string ZmqTransport::LocalAddress() const { return s_->address; }
void ZmqTransport::SetAllowed(std::map<std::string, NodeId> allowed) { s_->options.allowed = std::move(allowed); }
const ZmqTransportStats& ZmqTransport::stats() const { return s_->stats; }

}  // namespace holdfast::io
