#include "fs/fuse/caller_watch.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace holdfast::fs::fuse {
namespace {

constexpr Duration kLookAgain = Milliseconds(50);

std::string ReadProc(int thread, const char* file) {
  std::string path = "/proc/" + std::to_string(thread) + "/" + file;
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  char buffer[4096];
  ssize_t n = read(fd, buffer, sizeof(buffer));
  close(fd);
  return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
}

uint64_t MaskOf(const std::string& status, const char* name) {
  size_t at = status.find(name);
  return at == std::string::npos ? 0 : std::strtoull(status.c_str() + at + std::strlen(name), nullptr, 16);
}

constexpr uint64_t Bit(int signal) { return uint64_t{1} << (signal - 1); }

// Signals that by default do nothing, stop or continue.
constexpr uint64_t kNotFatal = Bit(SIGCHLD) | Bit(SIGCONT) | Bit(SIGSTOP) | Bit(SIGTSTP) | Bit(SIGTTIN) | Bit(SIGTTOU) |
                               Bit(SIGURG) | Bit(SIGWINCH);

}  // namespace

bool FatalSignalPending(int thread) {
  if (thread <= 0) return false;
  std::string s = ReadProc(thread, "status");
  uint64_t pending = MaskOf(s, "\nSigPnd:") | MaskOf(s, "\nShdPnd:");
  uint64_t kept = MaskOf(s, "\nSigBlk:") | MaskOf(s, "\nSigIgn:") | MaskOf(s, "\nSigCgt:") | kNotFatal;
  return (pending & (~kept | Bit(SIGKILL))) != 0;
}

bool Exiting(int thread) {
  if (thread <= 0) return false;
  constexpr unsigned long kPfExiting = 0x4;
  std::string s = ReadProc(thread, "stat");
  size_t at = s.rfind(')');  // the name may have anything in it
  // state ppid pgrp session tty tpgid flags
  for (int field = 0; field < 7 && at != std::string::npos; ++field) at = s.find(' ', at + 1);
  return at != std::string::npos && (std::strtoul(s.c_str() + at, nullptr, 10) & kPfExiting) != 0;
}

CallerWatch::Call::~Call() {
  if (watched_) watch_->Remove(this);
}

void CallerWatch::Call::Signalled() {
  signalled_ = true;
  if (on_signal_) on_signal_();
  if (FatalSignalPending(thread_)) {
    interrupt_.Raise();
  } else {
    watch_->Add(this);
  }
}

void CallerWatch::Call::EndWhenExiting(Duration patience) {
  exiting_too_ = true;
  exiting_from_ = Executor::Current().clock().Now() + patience;
  watch_->Add(this);
}

bool CallerWatch::Call::Over() const {
  if (signalled_ && FatalSignalPending(thread_)) return true;
  return exiting_too_ && Executor::Current().clock().Now() >= exiting_from_ &&
         (Exiting(thread_) || FatalSignalPending(thread_));
}

CallerWatch::~CallerWatch() {
  if (timer_set_) executor_->Cancel(timer_);
}

void CallerWatch::Add(Call* call) {
  if (call->watched_) return;
  call->watched_ = true;
  calls_.push_back(call);
  if (timer_set_) return;
  executor_ = &Executor::Current();
  timer_set_ = true;
  timer_ = executor_->PostAt(executor_->clock().Now() + kLookAgain, [this] { Look(); });
}

void CallerWatch::Remove(Call* call) {
  call->watched_ = false;
  calls_.erase(std::find(calls_.begin(), calls_.end(), call));
}

void CallerWatch::Look() {
  timer_set_ = false;
  std::vector<Call*> over;
  for (Call* call : calls_) {
    if (call->Over()) over.push_back(call);
  }
  for (Call* call : over) {
    Remove(call);
    call->interrupt_.Raise();  // what it wakes runs later
  }
  if (calls_.empty()) return;
  timer_set_ = true;
  timer_ = executor_->PostAt(executor_->clock().Now() + kLookAgain, [this] { Look(); });
}

}  // namespace holdfast::fs::fuse
