// Encode and decode the messages of the lock manager (dlm.proto). What comes in is untrusted until Decode has checked it:
// modes, kinds, sizes and ranges in their bounds. The generation travels in the envelope.
#pragma once

#include <span>

#include "base/bytes.h"
#include "base/result.h"
#include "dlm/message.h"

namespace holdfast::dlm {

Bytes Encode(const Message& message);
// Error: kCorrupt.
Result<Message> Decode(uint32_t kind, std::span<const std::byte> body);

}  // namespace holdfast::dlm
