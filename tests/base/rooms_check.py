#!/usr/bin/env python3
"""Refuses what core code must not do: threads, clocks, randomness, system calls and third-party I/O outside io/ and the
FUSE glue, and includes against the arrows of docs/decisions/0001. An exception is a line below, with its reason.
It first shows on samples that it can fail (`--self-test` does only that)."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# room -> rooms whose headers it may include. Programs (mkfs, tools, holdfastd, mount.holdfast) assemble and see all.
ARROWS = {
    "base": {"base"},
    "io": {"io", "base"},
    "dlm": {"dlm", "base"},
    "cluster": {"cluster", "base"},
    "fence": {"fence", "base"},
    "fs": {"fs", "dlm", "base"},
}
ROOMS = set(ARROWS) | {"mkfs", "tools", "tests", "benchmarks"}
CORE = {"base", "dlm", "cluster", "fence", "fs"}

STANDARD = set("""algorithm any array bit bitset cassert cctype charconv cinttypes climits cmath compare concepts
coroutine cstdarg cstddef cstdint cstdio cstdlib cstring cwchar deque exception forward_list functional initializer_list
iomanip ios iosfwd iterator limits list map memory new numbers numeric optional ostream queue ranges set span sstream
stack stdexcept string string_view tuple type_traits typeindex typeinfo unordered_map unordered_set utility variant
vector atomic cerrno""".split())

MODE_BITS = {"sys/stat.h"}  # S_IFREG and friends, which inodes store

CALLS = re.compile(r"\b(std::(thread|jthread|mutex|condition_variable|async|random_device|mt19937\w*)|"
                   r"std::chrono::\w*_clock|clock_gettime|gettimeofday|getrandom|"
                   r"(?<![\w.:>])(s?rand|drand48|time|usleep|nanosleep|sleep|fork|system|popen|getenv|signal)\s*\()")

# What is assembled around the cores, or wraps one library, and why it may. A trailing / or . = everything that begins so.
EXCEPTIONS = {
    "base/log.cc": "writes the log: spdlog, a mutex",
    "base/crc32c.cc": "ISA-L",
    "fs/fuse/": "the kernel's side",
    "cluster/daemon/": "the program holdfastd",
    "cluster/client.": "a mount's side of the line to its daemon: it speaks of lockspaces",
    "cluster/client_socket.": "the same over io's control socket",
    "cluster/control_codec.": "carries the lock manager's view of a lockspace between daemon and mount",
    "cluster/config_load.cc": "reads files: part of starting a program, before any core runs",
    "cluster/config_schema.": "libxml2",
    "cluster/keys.cc": "key files, libsodium: part of starting a program",
    "cluster/lease_page.cc": "maps the shared page",
    "fence/local_fence.cc": "isolates processes of this machine: signals, cgroups, pidfds",
}


def strip(text):
    """Without comments and the insides of strings."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r'"(\\.|[^"\\\n])*"', lambda m: m.group(0) if "/" in m.group(0) or ".h" in m.group(0) else '""', text)
    return re.sub(r"//[^\n]*", "", text)


def complaints(path, text):
    room = path.split("/")[0]
    found = []
    includes = re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.M)
    for kind, name in includes:
        if kind == '"':
            target = name.split("/")[0]
            if target in ROOMS and room in ARROWS and target not in ARROWS[room]:
                found.append(f"includes {name}: {room} may see {', '.join(sorted(ARROWS[room]))}")
        elif room in CORE and name not in STANDARD and not (room == "fs" and name in MODE_BITS):
            found.append(f"includes <{name}>")
    if room in CORE:
        for number, line in enumerate(strip(text).split("\n"), 1):
            match = CALLS.search(line)
            if match and not line.lstrip().startswith("#"):
                found.append(f"line {number}: {match.group(0).rstrip('( ')}")
    return found


def exception_for(path):
    if path.endswith("main.cc"):
        return "main.cc"  # a program: it assembles
    for name in EXCEPTIONS:
        if path == name or (name[-1] in "/." and path.startswith(name)):
            return name
    return None


def check():
    bad, used, files = [], set(), 0
    for room in sorted(ARROWS):
        for folder, folders, names in os.walk(os.path.join(ROOT, room)):
            folders.sort()
            for name in sorted(names):
                if not name.endswith((".h", ".cc")):
                    continue
                path = os.path.relpath(os.path.join(folder, name), ROOT)
                with open(os.path.join(ROOT, path)) as f:
                    found = complaints(path, f.read())
                files += 1
                excused = exception_for(path)
                if excused and found:
                    used.add(excused)
                elif found:
                    bad += [f"{path}: {c}" for c in found]
    for name in EXCEPTIONS:
        if name not in used:
            print(f"note: the exception for {name} is not needed")
    return bad, files


def self_test():
    cases = {
        "dlm/x.cc": '#include <thread>\n', "fs/a.h": '#include "cluster/state.h"\n', "dlm/y.cc": "int x = rand();\n",
        "base/z.cc": "auto t = std::chrono::steady_clock::now();\n", "cluster/q.cc": "#include <sys/socket.h>\n",
        "io/i.cc": '#include "dlm/lockspace.h"\n', "fs/t.cc": "long t = time(nullptr);\n",
    }
    fine = {"dlm/x.cc": '#include <map>\n#include "base/ids.h"\n// rand() and std::thread are forbidden\n',
            "fs/y.cc": "auto n = mtime(x); wait_time(3); a.time(1); Sleep(2);\n", "io/z.cc": "#include <thread>\n"}
    missed = [p for p, text in cases.items() if not complaints(p, text)]
    wrong = [p for p, text in fine.items() if complaints(p, text)]
    return [f"self-test: {p} was not refused" for p in missed] + [f"self-test: {p} was refused" for p in wrong]


def main():
    bad = self_test()
    files = 0
    if "--self-test" not in sys.argv:
        more, files = check()
        bad += more
    for line in bad:
        print(line)
    print(f"{files} files, {len(bad)} complaints")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
