// The contract of BlockDevice: the same cases against every life of it. `run` runs a task on the device's executor.
#pragma once

#include <catch2/catch.hpp>

#include <cstring>
#include <memory>
#include <string>

#include "base/block_device.h"
#include "base/sync.h"

namespace holdfast::contract {

inline AlignedBuffer Pattern(char c, size_t size) {
  AlignedBuffer b(size);
  std::memset(b.data(), c, b.size());
  return b;
}

inline Task<void> OneOfMany(BlockDevice* device, uint64_t index, int* done) {
  AlignedBuffer b = Pattern(static_cast<char>('a' + index % 26), kBlockSize);
  auto wrote = co_await device->Write(index * kBlockSize, b.span(), WriteFlags::kNone);
  CHECK(wrote.ok());
  AlignedBuffer got(kBlockSize);
  auto read = co_await device->Read(index * kBlockSize, got.span());
  CHECK(read.ok());
  CHECK(std::memcmp(b.data(), got.data(), kBlockSize) == 0);
  ++*done;
}

inline Task<void> ManyAtOnce(BlockDevice* device, int count, int* done) {
  Scope scope;
  for (int i = 0; i < count; ++i) scope.Spawn(OneOfMany(device, static_cast<uint64_t>(i), done));
  co_await scope.Join();
}

// REQUIRES: a device of at least 4 MiB, writable.
template <class Run>
void BlockDeviceContract(BlockDevice* device, Run run) {
  SECTION("what was written is read") {
    AlignedBuffer out = Pattern('x', 64 << 10);
    CHECK(run(device->Write(1 << 20, out.span(), WriteFlags::kNone)).ok());
    AlignedBuffer in(64 << 10);
    CHECK(run(device->Read(1 << 20, in.span())).ok());
    CHECK(std::memcmp(in.data(), out.data(), in.size()) == 0);
  }
  SECTION("FUA and flush succeed, the last block can be written") {
    AlignedBuffer out = Pattern('y', kBlockSize);
    uint64_t last = device->info().size_bytes - kBlockSize;
    CHECK(run(device->Write(last, out.span(), WriteFlags::kFua)).ok());
    CHECK(run(device->Flush()).ok());
    AlignedBuffer in(kBlockSize);
    CHECK(run(device->Read(last, in.span())).ok());
    CHECK(std::memcmp(in.data(), out.data(), in.size()) == 0);
  }
  SECTION("misaligned and out of range is kInvalid") {
    AlignedBuffer b(kBlockSize * 2);
    CHECK(run(device->Read(512, b.span())).code() == Errc::kInvalid);
    CHECK(run(device->Read(0, b.span().first(100))).code() == Errc::kInvalid);
    CHECK(run(device->Write(device->info().size_bytes, b.span(), WriteFlags::kNone)).code() == Errc::kInvalid);
    CHECK(run(device->Write(device->info().size_bytes - kBlockSize, b.span(), WriteFlags::kNone)).code() == Errc::kInvalid);
    CHECK(run(device->Read(UINT64_MAX - kBlockSize + 1, b.span())).code() == Errc::kInvalid);
  }
  SECTION("hundreds of requests at once all complete") {
    int done = 0;
    run(ManyAtOnce(device, 500, &done));
    CHECK(done == 500);
  }
  SECTION("a discarded range reads as zeroes or as before") {
    AlignedBuffer out = Pattern('z', kBlockSize * 4);
    CHECK(run(device->Write(0, out.span(), WriteFlags::kFua)).ok());
    Status discarded = run(device->Discard(kBlockSize, kBlockSize * 2));
    CHECK((discarded.ok() || discarded.code() == Errc::kUnsupported));
    AlignedBuffer in(kBlockSize * 4);
    CHECK(run(device->Read(0, in.span())).ok());
    for (size_t i = 0; i < in.size(); i += kBlockSize) {
      bool middle = i == kBlockSize || i == 2 * kBlockSize;
      char c = static_cast<char>(in.data()[i]);
      CHECK((c == 'z' || (middle && c == 0)));
    }
  }
  SECTION("a closed device refuses") {
    run(device->Close());
    AlignedBuffer b(kBlockSize);
    CHECK(run(device->Read(0, b.span())).code() == Errc::kCancelled);
    CHECK(run(device->Write(0, b.span(), WriteFlags::kNone)).code() == Errc::kCancelled);
  }
}

}  // namespace holdfast::contract
