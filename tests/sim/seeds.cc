#include "tests/sim/seeds.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>

#include "base/check.h"

namespace holdfast::sim {
namespace {

uint64_t Env(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Child {
  pid_t pid = 0;
  int fd = -1;  // its reports: "B seed\n" begun, "F seed text\n" failed
  uint64_t next = 0, end = 0, current = 0;
  time_t began = 0;
  std::string text;
};

void Say(int fd, const std::string& line) {
  size_t done = 0;
  while (done < line.size()) {
    ssize_t n = write(fd, line.data() + done, line.size() - done);
    if (n <= 0) _exit(3);
    done += static_cast<size_t>(n);
  }
}

Child Launch(uint64_t first, uint64_t end, const std::function<std::string(uint64_t)>& one) {
  int ends[2];
  HF_CHECK(pipe(ends) == 0, "pipe: %s", std::strerror(errno));
  std::fflush(nullptr);
  pid_t pid = fork();
  HF_CHECK(pid >= 0, "fork: %s", std::strerror(errno));
  if (pid == 0) {
    close(ends[0]);
    signal(SIGABRT, SIG_DFL);  // Catch2's handler would print a report of its own
    for (uint64_t seed = first; seed < end; ++seed) {
      Say(ends[1], "B " + std::to_string(seed) + "\n");
      std::string what = one(seed);
      std::replace(what.begin(), what.end(), '\n', '|');
      if (!what.empty()) Say(ends[1], "F " + std::to_string(seed) + " " + what + "\n");
    }
    Say(ends[1], "E\n");
    std::fflush(nullptr);
    _exit(0);
  }
  close(ends[1]);
  Child child;
  child.pid = pid;
  child.fd = ends[0];
  child.next = first;
  child.end = end;
  child.current = first;
  child.began = time(nullptr);
  return child;
}

// Takes the lines that arrived; false when the child has said its last.
bool Absorb(Child& child, SeedReport& report, bool* finished) {
  char buffer[4096];
  ssize_t n = read(child.fd, buffer, sizeof buffer);
  if (n <= 0) return false;
  child.text.append(buffer, static_cast<size_t>(n));
  size_t eol;
  while ((eol = child.text.find('\n')) != std::string::npos) {
    std::string line = child.text.substr(0, eol);
    child.text.erase(0, eol + 1);
    if (line[0] == 'B') {
      child.current = std::strtoull(line.c_str() + 2, nullptr, 10);
      child.next = child.current + 1;
      child.began = time(nullptr);
      ++report.runs;
    } else if (line[0] == 'F') {
      char* rest = nullptr;
      uint64_t seed = std::strtoull(line.c_str() + 2, &rest, 10);
      report.failures.push_back({seed, *rest == ' ' ? rest + 1 : rest});
    } else {
      *finished = true;
    }
  }
  return true;
}

}  // namespace

std::string SeedReport::ToString() const {
  std::string text = std::to_string(runs) + " seeds, " + std::to_string(failures.size()) + " failed";
  for (const SeedFailure& f : failures) text += "\n  seed " + std::to_string(f.seed) + ": " + f.what;
  return text;
}

SeedReport RunSeeds(SeedOptions options, const std::function<std::string(uint64_t seed)>& one) {
  SeedReport report;
  if (uint64_t single = Env("HOLDFAST_SEED", 0); single != 0) {
    report.runs = 1;
    if (std::string what = one(single); !what.empty()) report.failures.push_back({single, what});
    return report;
  }
  uint64_t share = options.failures_max > 1 ? std::max<uint64_t>(1, Env("HOLDFAST_SHARE", 1)) : 1;
  uint64_t usual = (options.count * Env("HOLDFAST_CAMPAIGN", 1) + share - 1) / share;
  uint64_t count = Env("HOLDFAST_SEEDS", usual);
  options.seconds_max *= static_cast<unsigned>(std::max<uint64_t>(1, Env("HOLDFAST_SLOWER", 1)));
  uint64_t jobs = std::max<uint64_t>(1, Env("HOLDFAST_JOBS", 2));
  std::vector<std::pair<uint64_t, uint64_t>> todo;  // taken from the back
  for (uint64_t at = options.first; at < options.first + count; at += options.batch)
    todo.push_back({at, std::min(at + options.batch, options.first + count)});
  std::reverse(todo.begin(), todo.end());
  std::vector<Child> children;
  while (!children.empty() || (!todo.empty() && report.failures.size() < options.failures_max)) {
    while (children.size() < jobs && !todo.empty() && report.failures.size() < options.failures_max) {
      auto [first, end] = todo.back();
      todo.pop_back();
      children.push_back(Launch(first, end, one));
    }
    std::vector<pollfd> fds;
    for (Child& c : children) fds.push_back({c.fd, POLLIN, 0});
    poll(fds.data(), fds.size(), 1000);
    for (size_t i = children.size(); i-- > 0;) {
      Child& c = children[i];
      bool overdue = time(nullptr) - c.began > static_cast<time_t>(options.seconds_max);
      if (overdue) kill(c.pid, SIGKILL);
      bool finished = false;
      if (!overdue && (fds[i].revents == 0 || Absorb(c, report, &finished))) continue;
      while (overdue && Absorb(c, report, &finished)) {
      }
      int status = 0;
      waitpid(c.pid, &status, 0);
      close(c.fd);
      if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
        std::string what = overdue ? "did not end in " + std::to_string(options.seconds_max) + " s"
                           : WIFSIGNALED(status) ? "died of signal " + std::to_string(WTERMSIG(status))
                                                 : "ended with status " + std::to_string(WEXITSTATUS(status));
        report.failures.push_back({c.current, what + " (its messages are above)"});
        if (c.current + 1 < c.end) todo.push_back({c.current + 1, c.end});
      }
      children.erase(children.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  std::sort(report.failures.begin(), report.failures.end(),
            [](const SeedFailure& a, const SeedFailure& b) { return a.seed < b.seed; });
  return report;
}

}  // namespace holdfast::sim
