"""A machine with a real systemd for a suite to use.

A suite is a module of functions named test_*, each taking a Machine and having a docstring that says what it
shows. They run in the order they are written, on one machine: later ones may build on what earlier ones did.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from packages import apt_install
from places import BINARIES, CACHE

HERE = Path(__file__).resolve().parent


class CommandFailed(AssertionError):
    """A command inside the machine that should have succeeded; its text has what it printed."""


class Machine:
    """One booted systemd; gone, with everything in it, when the `with` block ends."""

    _numbers = itertools.count(1)

    def __init__(self, systemd):
        """`systemd` names one of build-rootfs' suites; it is built if there is none."""
        self.rootfs = rootfs(systemd)
        # The process id keeps apart two runs on one host.
        self.name = f"{systemd}-{os.getpid()}-{next(self._numbers)}"

    def __enter__(self):
        self._sdboot("start", self.name, str(self.rootfs))
        return self

    def __exit__(self, *_):
        self._sdboot("stop", self.name)

    def _sdboot(self, *arguments, **options):
        options.setdefault("stdout", subprocess.PIPE)
        return subprocess.run([HERE / "sdboot", *arguments], check=True, text=True, **options)

    def reboot(self):
        self._sdboot("reboot", self.name)

    def popen(self, *command, user=None, groups=(), **options):
        """Starts a command inside: as root, or as `user` with just its own group and `groups`."""
        if user is not None:
            listed = ",".join(groups)
            command = ("setpriv", "--reuid", user, "--regid", user,
                       *(("--groups", listed) if listed else ("--clear-groups",)), *command)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([HERE / "sdboot", "exec", self.name, *map(str, command)], **options)

    def try_(self, *command, timeout=120, stdin=None, **options):
        """Runs a command to its end; returns it with returncode, stdout and stderr."""
        process = self.popen(*command, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL, **options)
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CommandFailed(f"{command} did not end in {timeout} s") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run(self, *command, **options):
        """Runs a command that has to succeed; returns its standard output without the last newline."""
        done = self.try_(*command, **options)
        if done.returncode != 0:
            raise CommandFailed(f"{command} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.rstrip("\n")

    def python(self, program, *arguments, **options):
        """Runs a Python program of the rootfs' own interpreter; returns what it printed, read as JSON."""
        return json.loads(self.run("python3", "-c", program, *arguments, **options))

    @property
    def root(self):
        """The machine's root directory as the host sees it."""
        return Path("/proc", (CACHE / "run" / self.name / "leader").read_text().strip(), "root")

    def write(self, path, text, mode=0o644):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def copy_in(self, source, path, mode=0o755):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)

    def show(self, unit, *properties):
        """Properties of a unit as a dict of strings."""
        lines = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def kill(self, signal, pid):
        self.run("sh", "-c", f"kill -{signal} {pid}")     # the shell's own: a minimal system has no other

    def journal(self, *matches):
        """Records of the journal as dicts, oldest first; matches as for journalctl."""
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "--output=json", "--all", *matches)
        return [json.loads(line) for line in text.splitlines()]


def check_prerequisites():
    """Leaves with one line where the suites cannot run at all."""
    if os.geteuid() != 0:
        sys.exit("booting a systemd needs root")
    for program in ["msi-tokend", "msi-token", "msi-emulator"]:
        if not (BINARIES / program).exists():
            sys.exit(f"no {BINARIES / program}; run `cargo build` first")


_one_build = threading.Lock()


def rootfs(systemd):
    """The root file system of this name, which stays for the next run."""
    with _one_build:
        apt_install("mmdebstrap")
        subprocess.run([HERE / "build-rootfs", systemd], check=True)
    return CACHE / "rootfs" / systemd
