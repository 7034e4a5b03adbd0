#!/usr/bin/env python3
"""Runs the tests that the build knows (./test starts it). Unit tests in parallel, simulations and system tests one
after the other; each with a time limit, in a process group of its own that is gone afterwards. Catch2 programs count
by test case, a program whose last line is "N passed, N failed" by that, every other one counts one. Exit status 77
means that it could not run here: not counted, but shown. The last line of all is "N passed, N failed"."""
import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUITES = ["unit", "sim", "system"]
SKIPPED = 77
CAMPAIGN = 20  # times the seeds, times the time limit
slower = 1     # times the time limit: a build with sanitizers
running = set()
lock = threading.Lock()


class Result:
    def __init__(self, name, suite):
        self.name, self.suite = name, suite
        self.passed = self.failed = 0
        self.skipped = False
        self.seconds = 0.0
        self.why = ""
        self.output = ""


def load_tests(build):
    with open(os.path.join(build, "meson-info", "intro-tests.json")) as f:
        tests = json.load(f)
    for test in tests:
        suites = [s.split(":")[-1] for s in test["suite"]]
        test["in"] = next((s for s in SUITES if s in suites), "unit")
    return sorted(tests, key=lambda t: (SUITES.index(t["in"]), t["name"]))


def count(result, output, code):
    """Reads the counts of a program that gives them; the exit code has the last word."""
    good = re.search(r"^All tests passed \(.* in (\d+) test cases?\)", output, re.M)
    mixed = re.search(r"^test cases:\s*(\d+)(.*)$", output, re.M)
    ours = re.search(r"^(\d+) passed, (\d+) failed\s*\Z", output, re.M)
    if good:
        result.passed = int(good.group(1))
    elif mixed:
        failed = re.search(r"(\d+) failed", mixed.group(2))
        result.failed = int(failed.group(1)) if failed else 0
        result.passed = int(mixed.group(1)) - result.failed
    elif ours:
        result.passed, result.failed = int(ours.group(1)), int(ours.group(2))
    elif code == 0:
        result.passed = 1
    if code != 0 and result.failed == 0:
        result.failed = 1
        result.why = result.why or (f"signal {-code}" if code < 0 else f"exit status {code}")
    if code == 0 and result.passed + result.failed == 0:
        result.failed, result.why = 1, "no test case ran"


def kill_group(process, number):
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def run_one(test, campaign, logs, scratch):
    result = Result(test["name"], test["in"])
    env = dict(os.environ, **test.get("env", {}))
    limit = test["timeout"] * slower if test["timeout"] > 0 else None
    if campaign and test["in"] == "sim":
        env["HOLDFAST_CAMPAIGN"] = str(CAMPAIGN)
        limit = limit and limit * CAMPAIGN
    env.setdefault("ASAN_OPTIONS", "detect_leaks=0")
    log = os.path.join(logs, re.sub(r"\W+", "_", test["name"]) + ".log")
    start = time.monotonic()
    with open(log, "wb") as out:
        if not os.access(test["cmd"][0], os.X_OK):
            result.failed, result.why = 1, test["cmd"][0] + " is not built"
            return result
        process = subprocess.Popen(test["cmd"], cwd=test.get("workdir") or scratch, env=env, stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        with lock:
            running.add(process)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            kill_group(process, signal.SIGTERM)  # system tests clean up on it
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            code = -signal.SIGKILL
            result.why = f"did not end in {limit} s"
        kill_group(process, signal.SIGKILL)
        process.wait()
        with lock:
            running.discard(process)
    result.seconds = time.monotonic() - start
    with open(log, errors="replace") as f:
        result.output = f.read()
    if code == SKIPPED:
        result.skipped = True
        lines = result.output.strip().splitlines()
        result.why = lines[-1] if lines else ""
    else:
        count(result, result.output, code)
    return result


def report(result):
    if result.skipped:
        print(f"SKIP  {result.suite:7} {result.name}: {result.why}", flush=True)
        return
    word = "FAIL" if result.failed else "ok  "
    line = f"{word}  {result.suite:7} {result.name:28} {result.passed:4} passed"
    if result.failed:
        line += f", {result.failed} failed"
    line += f"  {result.seconds:7.1f} s"
    if result.why:
        line += f"  ({result.why})"
    print(line, flush=True)
    if result.failed:
        lines = result.output.splitlines()
        for text in [t for t in lines if t.startswith(("FAILED", "=== "))] + lines[-120:]:
            print("      | " + text)
        sys.stdout.flush()


def run_suite(tests, jobs, campaign, logs, scratch):
    parallel = [t for t in tests if t["in"] == "unit" and t.get("is_parallel", True)]
    serial = [t for t in tests if t not in parallel]
    results = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in concurrent.futures.as_completed(
                [pool.submit(run_one, t, campaign, logs, scratch) for t in parallel]):
            results.append(future.result())
            report(results[-1])
    for test in serial:
        results.append(run_one(test, campaign, logs, scratch))
        report(results[-1])
    return results


def stop(number, _frame):
    with lock:
        for process in running:
            kill_group(process, signal.SIGTERM)
    time.sleep(1)
    with lock:
        for process in running:
            kill_group(process, signal.SIGKILL)
    os._exit(128 + number)


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument("--campaign", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--slower", type=int, default=1)  # tools/sanitize
    parser.add_argument("--also", action="append", default=[])  # beside the suites: names begin so
    parser.add_argument("--but", action="append", default=[])  # left out: exact names
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    global slower
    slower = args.slower
    suites = args.suite or ([] if args.also else SUITES)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    tests = [t for t in load_tests(args.build)
             if any(t["name"].startswith(n) for n in args.also)
             or t["in"] in suites and t["name"] not in args.but and (not args.names or any(n in t["name"] for n in args.names))]
    if args.list:
        for test in tests:
            print(f"{test['in']:7} {test['name']:28} limit {test['timeout']} s")
        return 0
    logs, scratch = os.path.join(args.build, "test-logs"), os.path.join(args.build, "test-run")
    os.makedirs(logs, exist_ok=True)
    os.makedirs(scratch, exist_ok=True)
    results = []
    for suite in SUITES:
        chosen = [t for t in tests if t["in"] == suite]
        if chosen:
            print(f"== {suite}: {len(chosen)} programs", flush=True)
            results += run_suite(chosen, args.jobs, args.campaign, logs, scratch)
    print()
    for suite in SUITES:
        of = [r for r in results if r.suite == suite]
        if of:
            skipped = sum(r.skipped for r in of)
            print(f"{suite:7} {sum(r.passed for r in of):5} passed, {sum(r.failed for r in of):3} failed"
                  + (f", {skipped} could not run here" if skipped else "") + f"  {sum(r.seconds for r in of):7.1f} s")
    passed, failed = sum(r.passed for r in results), sum(r.failed for r in results)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
