// MountOptions of the command line: mount.holdfast VOLUME DIR [-sfnvh] [-o options] [-t type], as mount(8) calls a helper.
#pragma once

#include <string>

#include "base/result.h"

namespace holdfast::fs::fuse {

struct CommandLine {
  std::string volume;
  std::string directory;
  bool help = false;
  bool version = false;
  bool fake = false;        // -f
  bool sloppy = false;      // -s: unknown options are no error
  bool foreground = false;
  bool nolock = false;      // lockproto=nolock
  bool hide_epoch = false;  // noepoch
  bool read_only = false;
  bool debug = false;
  bool force = false;       // nolock on a volume that belongs to a cluster
  std::string state_dir = "/var/lib/holdfast";
  std::string run_dir = "/run/holdfast";
  std::string config = "/etc/holdfast/cluster.conf";
  std::string node;
  std::string log;          // file; empty: see daemon.h
  std::string kernel_options;
};

// Error kInvalid: one line.
Result<CommandLine> ParseCommandLine(int argc, char** argv);
std::string UsageText();

}  // namespace holdfast::fs::fuse
