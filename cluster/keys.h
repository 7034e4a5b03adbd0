// Keys of a node: a CURVE pair (Curve25519, Z85 text) in the state directory: curve.key (secret, 0600) and curve.pub.
// The public one also stands in cluster.conf; a node whose key is another one's is refused by everybody.
#pragma once

#include <string>

#include "base/result.h"

namespace holdfast::cluster {

struct KeyPair {
  std::string public_key;  // Z85, 40 characters
  std::string secret_key;
};

KeyPair GenerateKeys();
// Errors: kExists (and `replace` is not set), kIo.
Status SaveKeys(const std::string& state_dir, const KeyPair& keys, bool replace);
// Errors: kNotFound, kPermission (others may read the secret), kCorrupt.
Result<KeyPair> LoadKeys(const std::string& state_dir);

}  // namespace holdfast::cluster
