// RegisterStorm: the register alone (node acceptors, the disk acceptor, proposers that all want to change it) in bad times:
// far more ballots per second than whole clusters make. A value is the list of applied change ids; all values told to
// anybody must form one chain, and what a proposer was told is done must stay done.
#pragma once

#include <cstdint>
#include <string>

#include "cluster/mutants.h"

namespace holdfast::cluster {

struct RegisterStormResult {
  std::string wrong;  // empty: all well
  uint64_t decided = 0;
  uint64_t trace = 0;
};

RegisterStormResult RegisterStorm(uint64_t seed, Mutants mutants);

// A life whose promise was not yet durable dies; the next one begins with the same counter; then the first one's ACCEPT
// arrives. "" or what went wrong. The nonces of the two lives, in either order.
std::string SameCounterTwice(uint64_t first_nonce, uint64_t second_nonce, Mutants mutants);

}  // namespace holdfast::cluster
