#include "cluster/keys.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/check.h"

namespace holdfast::cluster {
namespace {

// ZeroMQ RFC 32.
constexpr char kZ85[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

std::string Z85(const unsigned char* bytes, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; i += 4) {
    uint32_t value = uint32_t{bytes[i]} << 24 | uint32_t{bytes[i + 1]} << 16 | uint32_t{bytes[i + 2]} << 8 | bytes[i + 3];
    for (uint32_t divisor = 85 * 85 * 85 * 85; divisor; divisor /= 85) text += kZ85[value / divisor % 85];
  }
  return text;
}

bool IsKey(std::string_view text) {
  return text.size() == 40 && text.find_first_not_of(kZ85) == std::string_view::npos;
}

Error SystemError(const std::string& path) {
  return {errno == ENOENT ? Errc::kNotFound : errno == EACCES ? Errc::kPermission : Errc::kIo, path + ": " + std::strerror(errno)};
}

Status WriteFile(const std::string& path, const std::string& text, mode_t mode) {
  std::string fresh = path + ".new";
  ::unlink(fresh.c_str());
  int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return SystemError(fresh);
  bool ok = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::fsync(fd) == 0;
  int saved = errno;
  ::close(fd);
  errno = saved;
  if (!ok || ::rename(fresh.c_str(), path.c_str()) != 0) return SystemError(path);
  return {};
}

Result<std::string> ReadKey(const std::string& path, bool secret) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError(path);
  struct stat st {};
  ::fstat(fd, &st);
  char buffer[128];
  ssize_t n = ::read(fd, buffer, sizeof buffer);
  ::close(fd);
  if (secret && (st.st_mode & 077) != 0) return Error(Errc::kPermission, path + ": others may read it; chmod 0600");
  std::string_view text(buffer, n > 0 ? static_cast<size_t>(n) : 0);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  if (!IsKey(text)) return Error(Errc::kCorrupt, path + ": is no CURVE key");
  return Result<std::string>(std::string(text));
}

}  // namespace

KeyPair GenerateKeys() {
  HF_CHECK(sodium_init() >= 0, "libsodium does not start");
  unsigned char public_key[crypto_box_PUBLICKEYBYTES], secret_key[crypto_box_SECRETKEYBYTES];
  crypto_box_keypair(public_key, secret_key);
  KeyPair keys{Z85(public_key, sizeof public_key), Z85(secret_key, sizeof secret_key)};
  sodium_memzero(secret_key, sizeof secret_key);
  return keys;
}

Status SaveKeys(const std::string& state_dir, const KeyPair& keys, bool replace) {
  std::string secret = state_dir + "/curve.key";
  if (!replace && ::access(secret.c_str(), F_OK) == 0) return Error(Errc::kExists, secret + " exists; --replace makes a new pair");
  HF_TRY(WriteFile(secret, keys.secret_key + "\n", 0600));
  return WriteFile(state_dir + "/curve.pub", keys.public_key + "\n", 0644);
}

Result<KeyPair> LoadKeys(const std::string& state_dir) {
  auto secret = ReadKey(state_dir + "/curve.key", true);
  if (!secret.ok()) return secret.error();
  auto open = ReadKey(state_dir + "/curve.pub", false);
  if (!open.ok()) return open.error();
  return KeyPair{std::move(*open), std::move(*secret)};
}

}  // namespace holdfast::cluster
