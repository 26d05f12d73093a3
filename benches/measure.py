"""What the benchmarks share: the build, the load, and the kernel's accounts of a process."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/lib"))
from packages import apt_install
from places import REPOSITORY
from unix_http import STORAGE, TOKEN

COMPARED = REPOSITORY / "benches/compare/target/release"
TARGET = TOKEN + STORAGE
CLIENT = "nobody"


def prepare(*packages):
    """Debian's packages, and our own programs."""
    apt_install(*packages)
    for folder, what in [(REPOSITORY, ["--bins"]), (REPOSITORY / "benches/compare", [])]:
        subprocess.run(["cargo", "build", "--release", "--quiet", *what], cwd=folder, check=True)


def load(socket, mode, seconds, connections=16, target=TARGET):
    """One run of the load, by a user who is not privileged: requests, seconds, p50, p99, p99.9."""
    program = socket.parent / "load"
    if not program.exists():
        # The build's folder may be closed to other users.
        shutil.copy(COMPARED / "load", program)
        program.chmod(0o755)
    command = ["setpriv", "--reuid", CLIENT, "--regid", "nogroup", "--clear-groups", "--",
               program, socket, connections, seconds, mode, target]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{socket.name}: {done.stderr}")
    return json.loads(done.stdout)


def describe_machine():
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.split(": ")[1] for line in cpuinfo if "model name" in line)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors ({processor}), Linux {platform.release()}, {rustc}")
