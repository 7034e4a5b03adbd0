#include "fs/resource.h"

namespace holdfast::fs {

const char* LockTypeName(LockType type) {
  switch (type) {
    case LockType::kNone: return "none";
    case LockType::kSuper: return "super";
    case LockType::kInode: return "inode";
    case LockType::kOpen: return "open";
    case LockType::kGroup: return "group";
    case LockType::kJournal: return "journal";
    case LockType::kRename: return "rename";
    case LockType::kFreeze: return "freeze";
    case LockType::kQuota: return "quota";
    case LockType::kRange: return "range";
  }
  return "unknown";
}

std::string ToString(Resource resource) {
  return std::string(LockTypeName(resource.type)) + " " + std::to_string(resource.number);
}

dlm::ResourceName DlmName(Resource resource) {
  char name[9];
  name[0] = static_cast<char>(resource.type);
  for (int i = 0; i < 8; ++i) name[1 + i] = static_cast<char>(resource.number >> (56 - 8 * i));
  return dlm::ResourceName(std::string_view(name, sizeof name));
}

Resource ResourceFromName(const dlm::ResourceName& name) {
  const std::string& bytes = name.bytes();
  if (bytes.size() != 9) return {};
  auto type = static_cast<uint8_t>(bytes[0]);
  if (type == 0 || type > static_cast<uint8_t>(LockType::kRange)) return {};
  Resource resource{static_cast<LockType>(type), 0};
  for (int i = 1; i < 9; ++i) resource.number = (resource.number << 8) | static_cast<uint8_t>(bytes[i]);
  return resource;
}

}  // namespace holdfast::fs
