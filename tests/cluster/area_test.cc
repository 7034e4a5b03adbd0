// The quorum area's encoding: what is written is read, and nothing else is taken for it.
#include <catch2/catch.hpp>

#include "cluster/quorum_area.h"
#include "tests/sim/disk.h"

using namespace holdfast;
using namespace holdfast::cluster;

TEST_CASE("quorum area: headers and beats survive encoding, damage does not pass", "[cluster][unit]") {
  AlignedBuffer block(kBlockSize);
  CHECK(DecodeHeader(block.span(), NodeId(3)).code() == Errc::kNotFound);
  SlotHeader header;
  header.area_id = 7;
  header.node = NodeId(3);
  header.sequence = 9;
  header.nonce = 11;
  header.promised = {5, NodeId(3), 11};
  header.accepted = {4, NodeId(2), 12};
  header.value_area = 1;
  header.value_bytes = 100;
  header.value_hash = 13;
  header.storage = 14;
  EncodeHeader(header, block.span());
  auto back = DecodeHeader(block.span(), NodeId(3));
  REQUIRE(back.ok());
  CHECK(back->promised == header.promised);
  CHECK(back->accepted == header.accepted);
  CHECK(back->value_hash == 13);
  CHECK(DecodeHeader(block.span(), NodeId(4)).code() == Errc::kCorrupt);
  CHECK(DecodeBeat(block.span(), NodeId(3)).code() == Errc::kCorrupt);
  for (size_t at = 0; at < 512; ++at) {
    auto copy = block.Clone();
    copy.data()[at] ^= std::byte{1};
    CHECK(DecodeHeader(copy.span(), NodeId(3)).code() == Errc::kCorrupt);
  }
  DiskBeat beat;
  beat.area_id = 7;
  beat.node = NodeId(256);
  beat.sequence = 1;
  beat.hears = {1, 2, 3, 4};
  EncodeBeat(beat, block.span());
  CHECK(DecodeBeat(block.span(), NodeId(256))->hears == beat.hears);
}

TEST_CASE("quorum area: an area made has its id and empty slots for all nodes", "[cluster][unit]") {
  sim::World w(1);
  auto& p = w.Start(NodeId(1));
  sim::SimDisk disk(&w, kQuorumAreaBytes + 8192);
  auto device = disk.Open(p);
  CHECK(w.Run(p, ReadAreaId(device.get(), 8192)).code() == Errc::kNotFound);
  CHECK(w.Run(p, InitQuorumArea(device.get(), 16384, 99)).code() == Errc::kNoSpace);
  REQUIRE(w.Run(p, InitQuorumArea(device.get(), 8192, 99)).ok());
  CHECK(*w.Run(p, ReadAreaId(device.get(), 8192)) == 99);
  AlignedBuffer block(kBlockSize);
  REQUIRE(w.Run(p, static_cast<BlockDevice*>(device.get())->Read(8192 + HeaderOffset(NodeId(256), 1), block.span())).ok());
  auto header = DecodeHeader(block.span(), NodeId(256));
  REQUIRE(header.ok());
  CHECK(header->sequence == 0);
}
