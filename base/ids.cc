#include "base/ids.h"

#include <cstdio>

namespace holdfast {

std::string ToString(const MemberId& member) {
  char text[64];
  std::snprintf(text, sizeof text, "n%u.%llu/%llx", member.node.v, static_cast<unsigned long long>(member.incarnation.v),
                static_cast<unsigned long long>(member.nonce));
  return text;
}

}  // namespace holdfast
