"""What the kernel says of a process."""

import os
import socket
from pathlib import Path


def status(pid, field):
    """The first word of a field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def resident(pid):
    """Resident bytes."""
    return int(status(pid, "VmRSS")) * 1024


def descriptors(pid):
    """How many descriptors are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu(pids):
    """Seconds on a processor since the start, of all threads of the processes."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
