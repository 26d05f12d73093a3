"""What the checks inside the machine share."""

import json
import os
import re
import subprocess
from pathlib import Path

from unix_http import STORAGE, TOKEN

SOCKET = "/run/msi-tokend/msi-tokend.sock"
LOOPBACK = "127.0.0.1:343"
METADATA = "169.254.169.254"
HERE = Path(__file__).resolve().parent
LINUX = tuple(int(number) for number in re.match(r"(\d+)\.(\d+)", os.uname().release).groups())
# From here on the kernel tells the process behind a Unix socket, and so its unit.
NAMES_UNITS = LINUX >= (6, 5)


def try_(*command, **options):
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
    return subprocess.run([str(part) for part in command], **options)


def run(*command, **options):
    """Runs a command that has to succeed; returns what it printed."""
    done = try_(*command, **options)
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def as_user(user, *command):
    """The command as that user, with the groups of the account."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command]


def in_unit(unit, user, *command):
    """The command as that service of systemd's."""
    return ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--uid={user}", f"--unit={unit}", *command]


def curl(place, resource=STORAGE):
    """A command that prints the status of one request for a token at a socket's path or an address."""
    where = ["--unix-socket", place, f"http://localhost{TOKEN}{resource}"] if "/" in place else [f"http://{place}{TOKEN}{resource}"]
    return ["curl", "--silent", "--max-time", "60", "--header", "Metadata: true", "--output", "/dev/null",
            "--write-out", "%{http_code}", *where]


def status(command):
    return int(try_(*command).stdout)


def show(unit, name):
    return run("systemctl", "show", "--value", f"--property={name}", unit)


def life():
    """Which process the service is, and how often systemd has started it anew."""
    return [show("msi-tokend.service", what) for what in ("MainPID", "NRestarts")]


def systemd_said():
    """What systemd told of the service since the boot."""
    return journal("--boot", "--lines=20", "UNIT=msi-tokend.service")


def is_active(unit):
    return try_("systemctl", "is-active", unit).stdout.strip() == "active"


def token(resource):
    """What root gets over the socket."""
    return json.loads(run("msi-token", "get", resource, "--output", "json", "--wait", "1m"))


def journal(*arguments):
    run("journalctl", "--sync")
    return run("journalctl", "--output=cat", *arguments)
