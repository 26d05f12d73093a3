"""Programs for another processor, which qemu runs in a process of its own."""

import subprocess
from pathlib import Path

from packages import apt_install

# What qemu and the kernel call the processors.
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}


def own_architecture():
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def other_architecture():
    """The one of the two that this machine does not have."""
    return next(architecture for architecture in PROCESSORS if architecture != own_architecture())


def enable(architecture):
    """This machine's kernel runs programs for it from here on, in other root directories, too."""
    if architecture == own_architecture():
        return
    apt_install("qemu-user-static", "binfmt-support", "arch-test")
    formats, name = Path("/proc/sys/fs/binfmt_misc"), f"qemu-{PROCESSORS[architecture]}"
    if not (formats / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", formats], check=True)
    if not (formats / name).exists():
        subprocess.run(["update-binfmts", "--enable", name], check=True)
