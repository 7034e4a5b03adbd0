// The fields of every structure on disk (docs/format.md), for the generator of bad input: where each is, and whether a wrong value in it
// must be noticed. A field with a reason in `free` carries nothing that can be judged: other values of it are right as well.
#pragma once

#include <cstddef>
#include <span>

#include "fs/format.h"

namespace holdfast::fuzz {

struct Field {
  const char* name;
  size_t offset;
  size_t width;
  const char* free = nullptr;
};

// What follows the block header in a block of that type; inode and tree blocks with their nodes, slots and records.
std::span<const Field> FieldsOf(fs::BlockType type);
std::span<const Field> HeaderFields();

}  // namespace holdfast::fuzz
