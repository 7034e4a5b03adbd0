// A real iSCSI target for tests: tgtd on a control port and loopback port of its own, over a temporary image file.
// Ends by its own process id, whatever happens (tgtd does not end on SIGTERM while a target exists).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace holdfast::fence {

class Tgt {
 public:
  struct Options {
    uint64_t size_bytes = 64 << 20;
    int slow_ms = 0;  // > 0: with the adversary preloaded (tests/system/slow_write.cc)
  };
  Tgt() : Tgt(Options{}) {}
  explicit Tgt(Options options);
  ~Tgt();
  Tgt(const Tgt&) = delete;

  std::string url(int lun = 1) const;
  const std::string& image() const { return image_; }
  // The text that starts the block at this offset of the image file, read past every cache of ours.
  std::string TextAt(uint64_t offset) const;
  // SIGKILL, and a new tgtd over the same image on the same port: all keys are lost.
  void Kill();
  void StartAgain();
  // SIGSTOP, SIGCONT: a path that is cut without a word.
  void Pause();
  void Resume();

 private:
  void Start();
  bool Admin(std::vector<std::string> words) const;
  Options options_;
  std::string directory_, image_;
  int control_ = 0, port_ = 0, pid_ = 0;
};

}  // namespace holdfast::fence
