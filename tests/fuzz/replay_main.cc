// Runs a fuzzer's target over its kept inputs and over deterministic mutations of them, without libFuzzer:
//   TARGET [--mutations N] [--seed S] FILE-OR-FOLDER...
// HOLDFAST_SHARE=k in the environment: one in k of the mutations; HOLDFAST_SLOWER=k: k times the ten seconds (tools/sanitize).
// When the target aborts, crashes or takes longer than ten seconds, the input is left as crash-TARGET in the current folder.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;
unsigned seconds_max = 10;
constexpr size_t kInputMax = 8192;

Input current;
char crash_name[256];

void OnEnd(int number) {
  int fd = open(crash_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd >= 0 && write(fd, current.data(), current.size()) >= 0) close(fd);
  const char* words = number == SIGALRM ? "\nno end in time; the input is in " : "\nthe input is in ";
  if (write(2, words, strlen(words)) < 0 || write(2, crash_name, strlen(crash_name)) < 0 || write(2, "\n", 1) < 0) _exit(1);
  signal(number, SIG_DFL);
  raise(number);
}

uint64_t state = 1;
uint64_t Next() {  // SplitMix64
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}
size_t Below(size_t n) { return static_cast<size_t>(Next() % n); }

void Run(const Input& input) {
  current = input;
  alarm(seconds_max);
  LLVMFuzzerTestOneInput(current.data(), current.size());
  alarm(0);
}

void Mutate(Input& x, const Input& other) {
  static const uint8_t kBytes[] = {0, 1, 2, 0x10, 0x7f, 0x80, 0xfe, 0xff, '"', '<', '=', '\n'};
  switch (x.empty() ? 6 : Below(8)) {
    case 0: x[Below(x.size())] ^= static_cast<uint8_t>(1u << Below(8)); break;
    case 1: x[Below(x.size())] = static_cast<uint8_t>(Next()); break;
    case 2: x[Below(x.size())] = kBytes[Below(sizeof kBytes)]; break;
    case 3: x[Below(x.size())] += static_cast<uint8_t>(Below(2) ? 1 : -1); break;
    case 4: {  // a piece is taken out
      size_t at = Below(x.size());
      x.erase(x.begin() + static_cast<ptrdiff_t>(at), x.begin() + static_cast<ptrdiff_t>(std::min(x.size(), at + 1 + Below(8))));
      break;
    }
    case 5: {  // a piece is doubled
      size_t at = Below(x.size()), n = std::min(x.size() - at, 1 + Below(32));
      Input piece(x.begin() + static_cast<ptrdiff_t>(at), x.begin() + static_cast<ptrdiff_t>(at + n));
      x.insert(x.begin() + static_cast<ptrdiff_t>(Below(x.size())), piece.begin(), piece.end());
      break;
    }
    case 6: {  // eight bytes are put in
      Input piece(8);
      for (uint8_t& b : piece) b = static_cast<uint8_t>(Next());
      x.insert(x.begin() + static_cast<ptrdiff_t>(Below(x.size() + 1)), piece.begin(), piece.end());
      break;
    }
    default: {  // the end of another one
      if (other.empty()) break;
      x.resize(Below(x.size()));
      x.insert(x.end(), other.begin() + static_cast<ptrdiff_t>(Below(other.size())), other.end());
    }
  }
  if (x.size() > kInputMax) x.resize(kInputMax);
}

unsigned Env(const char* name) {  // 1 at least
  const char* text = getenv(name);
  return text != nullptr ? std::max(1u, static_cast<unsigned>(strtoul(text, nullptr, 10))) : 1;
}

void Load(const std::string& path, std::vector<std::string>* files) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) {
    fprintf(stderr, "%s: %s\n", path.c_str(), strerror(errno));
    exit(1);
  }
  if (!S_ISDIR(st.st_mode)) {
    files->push_back(path);
    return;
  }
  std::vector<std::string> names;
  DIR* folder = opendir(path.c_str());
  while (dirent* e = folder ? readdir(folder) : nullptr)
    if (e->d_name[0] != '.') names.push_back(path + "/" + e->d_name);
  if (folder) closedir(folder);
  std::sort(names.begin(), names.end());
  files->insert(files->end(), names.begin(), names.end());
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t mutations = 0;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--mutations" && i + 1 < argc) mutations = strtoull(argv[++i], nullptr, 10);
    else if (word == "--seed" && i + 1 < argc) state = strtoull(argv[++i], nullptr, 10);
    else Load(word, &files);
  }
  mutations /= Env("HOLDFAST_SHARE");
  seconds_max *= Env("HOLDFAST_SLOWER");
  const char* slash = strrchr(argv[0], '/');
  snprintf(crash_name, sizeof crash_name, "crash-%s", slash ? slash + 1 : argv[0]);
  for (int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM}) signal(number, OnEnd);
  std::vector<Input> corpus;
  for (const std::string& path : files) {
    std::ifstream in(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    fprintf(stderr, "%s\n", path.c_str());
    Run(corpus.back());
  }
  if (corpus.empty()) corpus.emplace_back();
  Run({});
  for (uint64_t i = 0; i < mutations; ++i) {
    Input x = corpus[Below(corpus.size())];
    for (size_t n = 1 + Below(6); n > 0; --n) Mutate(x, corpus[Below(corpus.size())]);
    Run(x);
  }
  printf("%zu kept inputs, %llu mutations: no finding\n", files.size(), static_cast<unsigned long long>(mutations));
  return 0;
}
