"""The builds with sanitizers, for tools/sanitize and tools/fuzz. One build with clang serves both: AddressSanitizer and UBSan, with
the counters that libFuzzer reads (without it they count for nobody). UBSan's checks of coroutines cost g++ 12 four times as long."""
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLANG = ["clang", "libclang-rt-14-dev"]
COMMON = ["-Doptimization=1", "-Dwerror=false", "-Db_lundef=false"]
# -fsanitize=function and vptr do not work with coroutines in clang 14.
FLAGS = "-Dcpp_args=['-fsanitize=fuzzer-no-link','-fno-sanitize=vptr,function','-Wno-unknown-warning-option']"
ADDRESS = ["-Db_pch=false", "-Db_sanitize=address,undefined", "-Dfuzz=true", FLAGS]


def install_clang():
    if not shutil.which("clang++"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *CLANG], check=True)


def make(folder, compiler, options, targets, build):
    folder = os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, folder))
    if not build:
        return folder
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        env = dict(os.environ)
        env.setdefault("CXX", f"ccache {compiler}" if shutil.which("ccache") else compiler)
        subprocess.run(["meson", "setup", folder, *COMMON, *options], cwd=ROOT, env=env, check=True)
    subprocess.run(["ninja", "-C", folder, *targets], check=True)
    return folder


def address(targets, build=True):
    """Returns the folder."""
    if build and not shutil.which("clang++"):
        sys.exit("clang++ is not installed: --install does it (as root)")
    return make("build-asan", "clang++", ADDRESS, targets, build)


def thread(targets, build=True):
    return make("build-tsan", "g++", ["-Db_sanitize=thread"], targets, build)
