// The reference for message round trips: a bare ZeroMQ DEALER/ROUTER ping-pong of 64 bytes between two processes over TCP
// loopback. Prints the median of several rounds in microseconds.
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr int kMessages = 4000;
constexpr int kRounds = 5;

void Echo(int ready_fd) {
  void* context = zmq_ctx_new();
  void* router = zmq_socket(context, ZMQ_ROUTER);
  zmq_bind(router, "tcp://127.0.0.1:*");
  char address[128];
  size_t size = sizeof address;
  zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, address, &size);
  if (write(ready_fd, address, size) < 0) std::exit(1);
  char identity[256], text[256];
  for (;;) {
    int n = zmq_recv(router, identity, sizeof identity, 0);
    int m = zmq_recv(router, text, sizeof text, 0);
    if (n < 0 || m < 0) break;
    zmq_send(router, identity, static_cast<size_t>(n), ZMQ_SNDMORE);
    zmq_send(router, text, static_cast<size_t>(m), 0);
    if (m == 1) break;  // the end
  }
  zmq_close(router);
  zmq_ctx_term(context);
}

double Round(void* dealer) {
  char text[64] = {};
  auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < kMessages; ++i) {
    zmq_send(dealer, text, sizeof text, 0);
    zmq_recv(dealer, text, sizeof text, 0);
  }
  std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begun;
  return took.count() / kMessages;
}

}  // namespace

int main() {
  int pipe_fds[2];
  if (pipe(pipe_fds) != 0) return 1;
  pid_t child = fork();
  if (child == 0) {
    Echo(pipe_fds[1]);
    return 0;
  }
  char address[128] = {};
  if (read(pipe_fds[0], address, sizeof address - 1) <= 0) return 1;
  void* context = zmq_ctx_new();
  void* dealer = zmq_socket(context, ZMQ_DEALER);
  zmq_connect(dealer, address);
  std::vector<double> rounds;
  Round(dealer);  // warm
  for (int i = 0; i < kRounds; ++i) rounds.push_back(Round(dealer));
  std::sort(rounds.begin(), rounds.end());
  std::printf("%.2f\n", rounds[kRounds / 2]);
  zmq_send(dealer, "", 1, 0);
  char last[8];
  zmq_recv(dealer, last, sizeof last, 0);
  zmq_close(dealer);
  zmq_ctx_term(context);
  waitpid(child, nullptr, 0);
  return 0;
}
