#!/usr/bin/env python3
"""Every flag of every program with nonsense, nothing, too much and huge values: a program says in a few lines on standard error what is
wrong and ends with an exit status, never by a signal, never with an internal error, never after ten seconds. Needs no root:
nothing is mounted, no volume that exists is named. The last line counts."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("HOLDFAST_BIN", os.path.join(ROOT, "build", "bin"))
HUGE = "9" * 40
LONG = "x" * 100_000
# What may be good for a flag is not tried; all of these are wrong wherever a number or a name of something is wanted.
VALUES = ["", "-1", "0x", HUGE, "-" + HUGE, "1e9", "nan", "%s%n", "../../nowhere", "\udcff\udcfe", LONG]
SUBCOMMANDS = [["status"], ["history"], ["config", "validate"], ["config", "show"], ["keys", "generate"], ["quorum", "init"], ["fence", "ack"],
               ["fence", "check"], ["node", "leave"], ["log", "level"]]
LAB = ["up", "down", "kill", "pause", "resume", "start", "stop", "cut", "heal", "target", "storage", "show", "exec"]
CWD = None  # deep in a folder of our own: what a relative path makes is made there
passed, failed = 0, []


def run(args, stdin=b""):
    try:
        return subprocess.run([os.path.join(BIN, args[0]), *args[1:]], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=10,
                              check=False, cwd=CWD)
    except subprocess.TimeoutExpired:
        return None


def judge(args, may_succeed=False, stdin=b"", words=""):
    global passed
    result = run(args, stdin)
    shown = " ".join(a if len(a) < 60 else a[:20] + f"...({len(a)})" for a in args) + (f" < {stdin[:60]!r}" if stdin else "")
    wrong = ""
    if result is None:
        wrong = "did not end in ten seconds"
    else:
        errors = result.stderr.decode(errors="replace")
        if result.returncode < 0 or result.returncode >= 128:
            wrong = f"ended by signal or abnormally ({result.returncode})"
        elif re.search(r"internal error|terminate called|AddressSanitizer|runtime error|Traceback", errors):
            wrong = "an internal error"
        elif result.returncode == 0 and not may_succeed:
            wrong = "succeeded"
        elif result.returncode != 0 and not errors.strip() and not result.stdout.strip():
            wrong = "failed without a word"
        elif words and not re.search(words, errors):
            wrong = "does not say what is wrong"
        elif len(errors.splitlines()) > 12:
            wrong = f"{len(errors.splitlines())} lines of errors"
        if wrong:
            wrong += ": " + errors[:300].replace("\n", " | ")
    if wrong:
        failed.append(f"{shown}: {wrong}")
        print(f"FAILED {failed[-1]}", flush=True)
    else:
        passed += 1


def flags_of(args):
    """(flag, takes a value) as the program's own help says."""
    help_text = run([*args, "--help"])
    found = []
    for line in (help_text.stdout.decode(errors="replace") if help_text else "").splitlines():
        match = re.match(r"\s+(-[-\w,]+(?:, -[-\w]+)*)\s?(.*)", line)
        if not match:
            continue
        takes = bool(re.match(r"[A-Z\[]{2}", match.group(2)))
        found += [(flag.strip(), takes) for flag in match.group(1).split(",") if flag.strip().startswith("-")]
    return [(flag, takes) for flag, takes in found if flag not in ("-h", "--help", "-V", "--version")]


def try_flags(args, tail, safe):
    """Each flag with each value. `safe` makes the rest of the command line harmless: it names nothing that exists."""
    flags = flags_of(args)
    if not flags:
        failed.append(f"{' '.join(args)}: no flags in its help")
    for flag, takes in flags:
        if takes:
            judge([*args, flag])
            for value in VALUES:
                judge([*args, flag, value, *safe, *tail])
        else:
            judge([*args, flag + "=nonsense", *safe, *tail])
    for bad in ["--no-such-flag", "-Z", "--=", "-", "--" + LONG]:
        judge([*args, bad, *safe, *tail])


def main():
    global CWD
    with tempfile.TemporaryDirectory(prefix="hf-flags-") as folder:
        CWD = os.path.join(folder, "a", "b", "c")
        os.makedirs(CWD)
        nowhere = os.path.join(folder, "nowhere")
        small = os.path.join(folder, "small")
        with open(small, "wb") as f:
            f.write(b"\0" * 65536)
        garbage = os.path.join(folder, "garbage")
        with open(garbage, "wb") as f:
            f.write(os.urandom(4 << 20))
        volumes = [nowhere, small, folder, "/dev/null", "", LONG, "iscsi://", "iscsi://nobody", "iscsi://127.0.0.1:1/iqn.x/0", "iscsi://127.0.0.1:99999/iqn.x/0",
                   "iscsi://127.0.0.1:1/iqn.x/70000", "https://example.org/x"]
        # mkfs and fsck
        try_flags(["mkfs.holdfast"], [nowhere], ["-q"])
        try_flags(["fsck.holdfast"], [nowhere], [])
        for volume in volumes:
            judge(["mkfs.holdfast", "-q", volume])
            judge(["fsck.holdfast", "-n", volume])
            judge(["mount.holdfast", volume, folder, "-o", "lockproto=nolock,foreground"])
        judge(["fsck.holdfast", "-n", garbage])
        judge(["fsck.holdfast", "-n", "--json", os.path.join(folder, "caf\udce9")])
        judge(["fsck.holdfast", "-y", garbage])
        judge(["mount.holdfast", garbage, folder, "-o", "lockproto=nolock,foreground"])
        for program in ["mkfs.holdfast", "fsck.holdfast", "mount.holdfast"]:
            judge([program])
            judge([program, nowhere, nowhere, nowhere, nowhere])
        for table in ["a", ":", "a:", ":b", "a:b:c", "a b:c", "a/../b:c", "x" * 33 + ":y", "x:" + "y" * 31]:
            judge(["mkfs.holdfast", "-n", "-t", table, garbage, "-f"])
        # mount options
        for option in ["nonsense", "lockproto", "lockproto=", "lockproto=" + LONG, "config", "config=", "log=", "state-dir=", "run-dir", "=", ",,=,", LONG,
                       "node=" + LONG + ",lockproto=nolock", "config=" + nowhere]:
            judge(["mount.holdfast", nowhere, folder, "-o", option])
        for word in ["-o", "-t", "-N", "-Z", "--nonsense"]:
            judge(["mount.holdfast", nowhere, folder, word])
        # the command and the daemon: no holdfastd, no files
        places = ["--run-dir", nowhere, "--config", nowhere, "--state-dir", os.path.join(nowhere, "x")]
        for sub in SUBCOMMANDS:
            known = [flag for flag, _ in flags_of(["holdfast", *sub])]
            safe = [w for i in range(0, len(places), 2) if places[i] in known for w in places[i:i + 2]]
            try_flags(["holdfast", *sub], [], safe)
            judge(["holdfast", *sub, *safe, "too", "many", "words", "here"])
        for words in [[], ["nonsense"], ["status", "status"], [LONG], ["fence"], ["config"], ["lab", "nonsense"]]:
            judge(["holdfast", *words], may_succeed=words == [])
        try_flags(["holdfastd"], [], places)
        judge(["holdfastd", *places])
        for command in LAB:
            judge(["holdfast", "lab", command, "--no-such-flag"])
            if command not in ("up",):
                judge(["holdfast", "lab", command, nowhere, "n1", "n2"])
        for flags in [["--nodes", "x"], ["--nodes", "0"], ["--nodes", HUGE], ["--nodes"], ["--size", "nonsense"]]:
            judge(["holdfast", "lab", "up", nowhere, *flags])
        # the agents, by words and by standard input
        for agent, names in [("fence_pr", ["devices", "nodeid", "keys", "passwd", "passwd_script"]),
                             ("fence_local", ["cgroup", "cgroup_root", "pidfile", "volume", "nodeid", "mounts", "agent_timeout"])]:
            for name in names:
                for value in VALUES:
                    judge([agent, "-o", "off", f"{name}={value}"])
                    if "\udcff" not in value:
                        judge([agent], stdin=f"action=off\n{name}={value}\n".encode())
            for words in [["-o"], ["-o", "nonsense"], ["-o", "off"], ["nonsense"], ["=x"], ["-o", "off", "=", "=="]]:
                judge([agent, *words])
            judge([agent], stdin=b"\0\xff=\n" * 100)
            judge([agent], stdin=b"action=off\n" + b"x" * 1_000_000)
            judge([agent, "-o", "metadata"], may_succeed=True)
        # numbers that are none must not become others
        for number in ["5x", "0", "257", "1.5", "-1", HUGE]:
            judge(["fence_pr", "-o", "off", "devices=iscsi://127.0.0.1:1/iqn.x/0", f"nodeid={number}"], words="nodeid")
            judge(["fence_local", "-o", "off", f"pidfile={nowhere}", f"volume={small}", f"nodeid={number}"], words="nodeid")
            judge(["fence_local", "-o", "off", f"pidfile={nowhere}", f"volume={small}", f"mounts={number}x"], words="mount number")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
