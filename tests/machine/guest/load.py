"""A restart under callers, and floods that must not use up the memory of the service, which is enforced here."""

import contextlib
import json
import re
import subprocess
from pathlib import Path

from attack import ATTACKS, Other, flood, resource_name
from inside import HERE, LOOPBACK, SOCKET, as_user, life, run, show, systemd_said, token
from unix_http import STORAGE
from users import UserProcess

CGROUP = Path("/sys/fs/cgroup/system.slice/msi-tokend.service")
# Of nobody: the one who must be served, and the attackers; the rules of the machine are for the first two of them.
OTHER, *ATTACKERS = range(1918291, 1918296)
# Where the configuration of the machine has the monitor's listener.
MONITOR = ("127.0.0.1", 9464)


@contextlib.contextmanager
def callers():
    """Eight clients of a user in a loop meanwhile: not one request of theirs fails. They are to leave time for the rest."""
    command = as_user("anna", "nice", "python3", str(HERE / "callers.py"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield
        report = json.loads(process.communicate()[0])
    assert not report["failures"] and all(report["answered"].values()), report


def test_restart():
    """restarts under callers fail no request and keep the cache: the token is the same"""
    pids = {show("msi-tokend.service", "MainPID")}
    before = token(STORAGE)["access_token"]
    with callers():
        for _ in range(3):
            run("systemctl", "restart", "msi-tokend.service")
            pids.add(show("msi-tokend.service", "MainPID"))
    assert len(pids) == 4, pids
    assert token(STORAGE)["access_token"] == before


def held(name):
    """A number of the cgroup's events."""
    return int(re.search(rf"^{name} (\d+)$", (CGROUP / "memory.events").read_text(), re.M)[1])


def withstands(name):
    limit = 128 << 20
    assert int((CGROUP / "memory.max").read_text()) == limit
    for number in range(10):
        token(resource_name(number))
    before = life()
    host, port = LOOPBACK.split(":")
    addresses = {"socket": SOCKET, "sdk": (host, int(port)), "monitor": MONITOR}
    with contextlib.ExitStack() as ends:
        attackers = []
        for uid in ATTACKERS:
            attackers.append(UserProcess(uid, lambda tell: flood(addresses, *ATTACKS[name], tell)))
            ends.callback(attackers[-1].end)
        other = Other(OTHER, SOCKET)
        ends.callback(other.end)
        sent = sum(int(attacker.lines.readline()) for attacker in attackers)
        assert other.is_served(3), other.answers
        now = int((CGROUP / "memory.current").read_text())
    print(f"   {name}: {now / 2**20:.1f} MiB of {limit >> 20}, {sent / 2**20:.1f} MiB of requests, {len(other.answers)} answers of another")
    assert now < limit and held("oom_kill") == 0 and held("max") == 0, (CGROUP / "memory.events").read_text()
    assert life() == before, systemd_said()


def test_unread():
    """four users who do not read what they ask for get nobody killed, and another is served meanwhile"""
    withstands("documents, unread")
