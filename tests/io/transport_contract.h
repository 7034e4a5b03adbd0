// The contract of Transport: a few cases that both lives must keep. Frames may be lost, so senders repeat.
#pragma once

#include <catch2/catch.hpp>

#include <string>

#include "base/bytes.h"
#include "base/sync.h"
#include "base/transport.h"

namespace holdfast::contract {

inline std::vector<std::byte> FrameOf(std::string_view text) {
  auto bytes = AsBytes(text);
  return {bytes.begin(), bytes.end()};
}

// Sends until `got` holds, at most `tries` times with 20 ms between.
inline Task<bool> SendUntil(Transport* from, Endpoint to, std::vector<std::byte> frame, std::function<bool()> got,
                            int tries = 250) {
  for (int i = 0; i < tries; ++i) {
    from->Send(to, frame);
    co_await SleepFor(Milliseconds(20));
    if (got()) co_return true;
  }
  co_return false;
}

// a and b are two nodes' transports; the endpoints name the other.
template <class Run>
void TransportContract(Transport* a, Transport* b, Endpoint to_a, Endpoint to_b, Run run) {
  std::vector<std::pair<NodeId, std::string>> at_a, at_b;
  a->SetReceiver([&](NodeId from, std::span<const std::byte> f) { at_a.push_back({from, std::string(AsText(f))}); });
  b->SetReceiver([&](NodeId from, std::span<const std::byte> f) { at_b.push_back({from, std::string(AsText(f))}); });
  SECTION("a frame arrives whole, with its sender's node") {
    CHECK(run(SendUntil(a, to_b, FrameOf("hello"), [&] { return !at_b.empty(); })));
    REQUIRE(!at_b.empty());
    CHECK(at_b[0] == std::pair{to_a.node, std::string("hello")});
    CHECK(run(SendUntil(b, to_a, FrameOf("back"), [&] { return !at_a.empty(); })));
    REQUIRE(!at_a.empty());
    CHECK(at_a[0] == std::pair{to_b.node, std::string("back")});
  }
  SECTION("empty and large frames arrive") {
    CHECK(run(SendUntil(a, to_b, {}, [&] { return !at_b.empty(); })));
    at_b.clear();
    std::string large(1 << 20, 'L');
    CHECK(run(SendUntil(a, to_b, FrameOf(large), [&] { return !at_b.empty() && at_b.back().second == large; })));
  }
  SECTION("a transport speaks to itself") {
    CHECK(run(SendUntil(a, to_a, FrameOf("me"), [&] { return !at_a.empty(); })));
    REQUIRE(!at_a.empty());
    CHECK(at_a[0].first == to_a.node);
  }
  SECTION("sending to nobody, and after Forget, does no harm") {
    Endpoint nobody = to_b;
    nobody.address = to_b.address + "1";
    a->Send(nobody, FrameOf("x"));
    a->Forget(nobody);
    a->Send(to_b, FrameOf("y"));
    a->Forget(to_b);
    CHECK(run(SendUntil(a, to_b, FrameOf("z"), [&] { return !at_b.empty() && at_b.back().second == "z"; })));
  }
  SECTION("it reports an address that others can use") { CHECK(a->LocalAddress() == to_a.address); }
  // The last frames must not find these vectors gone.
  a->SetReceiver([](NodeId, std::span<const std::byte>) {});
  b->SetReceiver([](NodeId, std::span<const std::byte>) {});
}

}  // namespace holdfast::contract
