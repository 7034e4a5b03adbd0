// The contract of Reservations: the same cases against the simulated disk and a real target. `a` and `b` are two
// sessions on one volume without keys; `write` writes a block through a session.
#pragma once

#include <catch2/catch.hpp>

#include <vector>

#include "base/reservations.h"

namespace holdfast::contract {

template <class Run, class Write>
void ReservationsContract(Reservations* a, Reservations* b, Run run, Write write) {
  const ReservationKey key_a = 0x0001'1111'1111'0000, key_b = 0x0002'2222'2222'0000, key_c = 0x0003'3333'3333'0000;
  auto state = run(a->Read());
  REQUIRE(state.ok());
  CHECK(state->keys.empty());
  CHECK_FALSE(state->reserved);
  CHECK(write(b).ok());  // nothing is reserved: everybody writes

  CHECK(run(a->Register(key_a)).ok());
  CHECK(run(a->Register(key_a)).ok());                       // repeatable
  CHECK(run(a->Register(key_c)).code() == Errc::kConflict);  // not twice with different keys
  CHECK(run(b->Reserve(key_b)).code() == Errc::kConflict);   // not registered
  CHECK(run(a->Reserve(key_a)).ok());
  CHECK(write(b).code() == Errc::kConflict);                 // registrants only
  CHECK(run(b->Preempt(key_b, key_a)).code() == Errc::kConflict);
  CHECK(run(a->Read())->keys.size() == 1);
  CHECK(run(a->Unregister(key_a)).ok());
  CHECK_FALSE(run(a->Read())->reserved);                     // type 7 goes with the last registrant
}

// From the start again, two registrants, one preempts the other.
template <class Run, class Write>
void PreemptContract(Reservations* a, Reservations* b, Run run, Write write) {
  const ReservationKey key_a = 0x0001'1111'1111'0000, key_b = 0x0002'2222'2222'0000;
  CHECK(run(a->Register(key_a)).ok());
  CHECK(run(b->Register(key_b)).ok());
  CHECK(run(a->Reserve(key_a)).ok());
  CHECK(run(a->Reserve(key_a)).ok());
  CHECK(run(b->Reserve(key_b)).ok());  // all registrants hold it
  auto state = run(b->Read());
  REQUIRE(state.ok());
  CHECK(state->keys.size() == 2);
  CHECK(state->reserved);
  CHECK(state->all_registrants_write_exclusive);
  CHECK(write(b).ok());

  CHECK(run(a->Preempt(key_a, key_b)).ok());
  CHECK(run(a->Preempt(key_a, key_b)).ok());  // repeatable
  CHECK(run(a->Drain()).ok());
  state = run(a->Read());
  REQUIRE(state.ok());
  CHECK(state->keys == std::vector<ReservationKey>{key_a});
  CHECK(state->reserved);
  CHECK(write(b).code() == Errc::kConflict);
  CHECK(write(a).ok());
  CHECK(run(a->Unregister(key_a)).ok());
  CHECK(run(a->Unregister(key_a)).ok());
}

}  // namespace holdfast::contract
