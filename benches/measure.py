"""What the benchmarks share: the build, the load, and the kernel's accounts of a process."""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = ROOT / "target/release"
THEIRS = ROOT / "benches/compare/target/release"
RESOURCE = "https://storage.azure.com/"
TARGET = f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}"
CLIENT = "nobody"


def prepare(packages):
    """Debian's packages by the programs they bring, and our own programs."""
    if missing := [name for name in packages if not shutil.which(name)]:
        subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing], check=True,
                       stdout=subprocess.DEVNULL)
    for folder, what in [(ROOT, ["--bins"]), (ROOT / "benches/compare", [])]:
        subprocess.run(["cargo", "build", "--release", "--quiet", *what], cwd=folder, check=True)


def cpu(pids):
    """Seconds on a processor since the start."""
    tasks = (task for pid in pids for task in pathlib.Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident(pid):
    """Resident bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) * 1024


def wait_for(condition, what):
    for _ in range(10_000):
        if condition():
            return
        time.sleep(0.002)
    raise SystemExit(f"waited in vain for {what}")


def load(socket, mode, seconds, connections=16, target=TARGET):
    """One run of the load, by a user who is not privileged: requests, seconds, p50, p99, p99.9."""
    program = socket.parent / "load"
    if not program.exists():
        # The build's folder may be closed to other users.
        shutil.copy(THEIRS / "load", program)
        program.chmod(0o755)
    command = ["setpriv", "--reuid", CLIENT, "--regid", "nogroup", "--clear-groups", "--",
               program, socket, connections, seconds, mode, target]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{socket.name}: {done.stderr}")
    return json.loads(done.stdout)


def describe_machine():
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.split(": ")[1] for line in cpuinfo if "model name" in line)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors ({processor}), Linux {platform.release()}, {rustc}")
