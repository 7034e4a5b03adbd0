// Mutants: deliberate faults that tests switch on to prove that the checkers see them. All off outside tests.
#pragma once

namespace holdfast::cluster {

struct Mutants {
  bool no_second_read = false;     // phase 2 writes its slot and does not read the others
  bool torn_is_empty = false;      // an unreadable slot counts as an empty one
  bool wiped_counts = false;       // an acceptor that lost its memory votes at once
  bool no_drain = false;           // the first slot write does not wait for what an older life sent
  bool one_copy = false;           // a slot is written over its newest copy
  bool ballot_without_nonce = false;
  bool votes_in_one_step = false;  // votes change without a joint value between (of the test's change: production has none yet)
  bool read_not_accepted = false;  // a read is believed without accepting it again
};

}  // namespace holdfast::cluster
