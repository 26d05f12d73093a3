"""The other architecture."""

import subprocess

# What qemu and the kernel call the processors.
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}


def own_architecture():
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def other_architecture():
    """The one of the two that this machine does not have."""
    return next(architecture for architecture in PROCESSORS if architecture != own_architecture())
