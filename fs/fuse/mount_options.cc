#include "fs/fuse/mount_options.h"

#include <set>
#include <string_view>
#include <vector>

namespace holdfast::fs::fuse {
namespace {

// Understood by mount(8) and by systemd, or meaningless here (there is no atime: it is always noatime).
bool Ignored(std::string_view name) {
  static const std::set<std::string_view> names = {"rw",       "defaults", "auto",   "noauto", "nofail",    "_netdev",
                                                   "user",     "nouser",   "users",  "owner",  "group",     "atime",
                                                   "noatime",  "relatime", "norelatime", "nodiratime", "diratime",
                                                   "strictatime", "lazytime", "nolazytime", "async", "allow_other",
                                                   "default_permissions", "suid", "dev", "exec", "lockproto=dlm"};
  return names.contains(name) || name.starts_with("x-") || name.starts_with("comment=");
}

bool KernelOption(std::string_view name) {
  static const std::set<std::string_view> names = {"nosuid", "nodev", "noexec", "sync", "dirsync"};
  return names.contains(name);
}

Status Apply(CommandLine* line, const std::string& option) {
  size_t eq = option.find('=');
  std::string name = option.substr(0, eq);
  std::string value = eq == std::string::npos ? "" : option.substr(eq + 1);
  auto path = [&](std::string* out) -> Status {
    if (value.empty()) return Error(Errc::kInvalid, "option " + name + " needs a path");
    *out = value;
    return Status();
  };
  if (option == "lockproto=nolock") line->nolock = true;
  else if (name == "lockproto" && value != "dlm") return Error(Errc::kInvalid, "lockproto is dlm or nolock, not '" + value + "'");
  else if (option == "foreground") line->foreground = true;
  else if (option == "noepoch") line->hide_epoch = true;
  else if (option == "debug") line->debug = true;
  else if (option == "force-nolock") line->force = true;
  else if (option == "ro") line->read_only = true;
  else if (name == "state-dir") return path(&line->state_dir);
  else if (name == "run-dir") return path(&line->run_dir);
  else if (name == "config") return path(&line->config);
  else if (name == "log") return path(&line->log);
  else if (name == "node") line->node = value;
  else if (KernelOption(option)) line->kernel_options += (line->kernel_options.empty() ? "" : ",") + option;
  else if (!Ignored(option) && !line->sloppy) return Error(Errc::kInvalid, "unknown mount option '" + option + "'");
  return Status();
}

Status ApplyList(CommandLine* line, const std::string& list) {
  size_t begin = 0;
  while (begin <= list.size()) {
    size_t comma = std::min(list.find(',', begin), list.size());
    if (comma > begin) HF_TRY(Apply(line, list.substr(begin, comma - begin)));
    begin = comma + 1;
  }
  return Status();
}

// A cluster of single-letter flags; false when one of them is unknown.
bool Flags(CommandLine* line, std::string_view letters) {
  for (char c : letters) {
    switch (c) {
      case 's': line->sloppy = true; break;
      case 'f': line->fake = true; break;
      case 'n': case 'v': case 'i': break;
      case 'r': line->read_only = true; break;
      case 'w': break;
      case 'h': line->help = true; break;
      case 'V': line->version = true; break;
      default: return false;
    }
  }
  return true;
}

}  // namespace

std::string UsageText() {
  return "usage: mount.holdfast VOLUME DIR [-o OPTION,...]\n"
         "  lockproto=nolock    one node alone, no cluster (default: dlm)\n"
         "  node=NAME config=FILE state-dir=DIR run-dir=DIR    this node in its cluster\n"
         "  ro nosuid nodev noexec    as for any filesystem\n"
         "  foreground log=FILE debug    where it runs and logs\n"
         "  noepoch    do not use the kernel's epoch notification (for tests)\n"
         "  force-nolock    lockproto=nolock on a volume that belongs to a cluster: only when no node has it mounted\n";
}

Result<CommandLine> ParseCommandLine(int argc, char** argv) {
  CommandLine line;
  std::vector<std::string> lists, names;
  for (int i = 1; i < argc; ++i) {
    std::string arg = argv[i];
    if (arg == "--help") line.help = true;
    else if (arg == "--version") line.version = true;
    else if (arg == "-o" || arg == "-t" || arg == "-N") {
      if (++i == argc) return Error(Errc::kInvalid, arg + " needs a value");
      if (arg == "-o") lists.push_back(argv[i]);
    } else if (arg.size() > 2 && arg.starts_with("-o")) lists.push_back(arg.substr(2));
    else if (arg.size() > 1 && arg[0] == '-') {
      if (!Flags(&line, std::string_view(arg).substr(1))) return Error(Errc::kInvalid, "unknown option " + arg);
    } else names.push_back(arg);
  }
  if (line.help || line.version) return line;
  for (const std::string& list : lists) HF_TRY(ApplyList(&line, list));
  if (names.size() != 2) return Error(Errc::kInvalid, "expected VOLUME and DIR");
  line.volume = names[0];
  line.directory = names[1];
  return line;
}

}  // namespace holdfast::fs::fuse
