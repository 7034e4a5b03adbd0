// The reference for metadata rates: an empty FUSE server of ours, an in-memory filesystem of one flat directory on
// libfuse's low-level API with its own epoll loop and one thread. Whatever a mount costs more than this is our own doing.
// usage: empty_fuse DIRECTORY     serves until it is unmounted
#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr double kForever = 86400;

struct File {
  mode_t mode = S_IFREG | 0644;
  std::string data;
};

struct Server {
  std::unordered_map<std::string, fuse_ino_t> names;
  std::unordered_map<fuse_ino_t, File> files;
  fuse_ino_t next = 2;
};
Server server;

struct stat StatOf(fuse_ino_t ino) {
  struct stat st = {};
  st.st_ino = ino;
  st.st_nlink = 1;
  if (ino == FUSE_ROOT_ID) {
    st.st_mode = S_IFDIR | 0755;
    st.st_nlink = 2;
    return st;
  }
  const File& f = server.files[ino];
  st.st_mode = f.mode;
  st.st_size = static_cast<off_t>(f.data.size());
  return st;
}

fuse_entry_param EntryOf(fuse_ino_t ino) {
  fuse_entry_param e = {};
  e.ino = ino;
  e.generation = 1;
  e.attr_timeout = e.entry_timeout = kForever;
  if (ino != 0) e.attr = StatOf(ino);
  return e;
}

void Lookup(fuse_req_t req, fuse_ino_t, const char* name) {
  auto it = server.names.find(name);
  fuse_entry_param e = EntryOf(it == server.names.end() ? 0 : it->second);
  fuse_reply_entry(req, &e);
}

void GetAttr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  struct stat st = StatOf(ino);
  fuse_reply_attr(req, &st, kForever);
}

void SetAttr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set, fuse_file_info*) {
  if (to_set & FUSE_SET_ATTR_SIZE) server.files[ino].data.resize(static_cast<size_t>(attr->st_size));
  GetAttr(req, ino, nullptr);
}

void Create(fuse_req_t req, fuse_ino_t, const char* name, mode_t, fuse_file_info* fi) {
  fuse_ino_t ino = server.next++;
  server.names[name] = ino;
  server.files[ino];
  fi->keep_cache = 1;
  fuse_entry_param e = EntryOf(ino);
  fuse_reply_create(req, &e, fi);
}

void Unlink(fuse_req_t req, fuse_ino_t, const char* name) {
  auto it = server.names.find(name);
  if (it == server.names.end()) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  server.files.erase(it->second);
  server.names.erase(it);
  fuse_reply_err(req, 0);
}

void Open(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  fi->keep_cache = 1;
  fuse_reply_open(req, fi);
}

void Read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info*) {
  const std::string& data = server.files[ino].data;
  size_t at = static_cast<size_t>(offset);
  size_t n = at >= data.size() ? 0 : std::min(size, data.size() - at);
  fuse_reply_buf(req, data.data() + at, n);
}

void Write(fuse_req_t req, fuse_ino_t ino, const char* buf, size_t size, off_t offset, fuse_file_info*) {
  std::string& data = server.files[ino].data;
  size_t at = static_cast<size_t>(offset);
  if (data.size() < at + size) data.resize(at + size);
  std::memcpy(data.data() + at, buf, size);
  fuse_reply_write(req, size);
}

void Fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(req, 0); }
void Flush(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }
void Release(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

int Serve(fuse_session* session) {
  int fd = fuse_session_fd(session);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event = {};
  event.events = EPOLLIN;
  if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) return 1;
  fuse_buf buffer = {};
  while (!fuse_session_exited(session)) {
    if (epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR) return 1;
    int n = fuse_session_receive_buf(session, &buffer);
    if (n == -EINTR || n == -EAGAIN) continue;
    if (n <= 0) break;
    fuse_session_process_buf(session, &buffer);
  }
  std::free(buffer.mem);
  close(epoll);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: empty_fuse DIRECTORY\n");
    return 1;
  }
  fuse_lowlevel_ops ops = {};
  ops.lookup = Lookup;
  ops.getattr = GetAttr;
  ops.setattr = SetAttr;
  ops.create = Create;
  ops.unlink = Unlink;
  ops.open = Open;
  ops.read = Read;
  ops.write = Write;
  ops.fsync = Fsync;
  ops.flush = Flush;
  ops.release = Release;
  const char* words[] = {"empty_fuse", "-o", "default_permissions,allow_other,fsname=empty_fuse"};
  fuse_args args = FUSE_ARGS_INIT(3, const_cast<char**>(words));
  fuse_session* session = fuse_session_new(&args, &ops, sizeof ops, nullptr);
  if (session == nullptr || fuse_session_mount(session, argv[1]) != 0) return 1;
  int code = Serve(session);
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return code;
}
