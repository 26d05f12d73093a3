"""The cache outlives the process in systemd's descriptor store, and nothing else keeps it."""

import time

from checks import wait_for
from service import Callers, active, get, installed, main_pid, upstream_requests
from test_recovery import back_with_another_pid, only_lost_connections

RESOURCES = [f"https://vault-{n}.example/" for n in range(10)]
MEMFD = "/memfd:msi-tokend (deleted)"


def carried(machine):
    """What the daemon's current memfd holds, as root reads it; empty if there is none."""
    script = ('for fd in /proc/"$1"/fd/*; do [ "$(readlink "$fd")" = "$2" ] && cat "$fd"; done; true')
    return machine.run("sh", "-c", script, "sh", main_pid(machine), MEMFD)


def held(machine):
    """How many descriptors systemd holds for the service."""
    return int(machine.show("msi-tokend.service", "NFileDescriptorStore")["NFileDescriptorStore"])


def fill(machine):
    """Ten tokens in the cache, and in the store."""
    for resource in RESOURCES:
        answer = get(machine, "member", resource)
        assert answer.returncode == 0, answer.stderr
    wait_for("the cache to be in the store", lambda: all(resource in carried(machine) for resource in RESOURCES))
    assert held(machine) == 1


def all_served(machine):
    return all(get(machine, "member", resource).returncode == 0 for resource in RESOURCES)


def upstream(machine, verb):
    machine.run("systemctl", verb, "emulator.service")
    if verb == "start":
        answers = ("curl", "--silent", "--fail", "http://169.254.169.254/emulator/peak")
        wait_for("the endpoint to answer", lambda: machine.try_(*answers).returncode == 0)


def test_restart_without_upstream(machine):
    """the endpoint dead, ten tokens cached: restarts under eight clients lose no request, and all ten are served"""
    installed(machine)
    get(machine, "member")
    fill(machine)
    upstream(machine, "stop")
    with Callers(machine) as callers:
        for _ in range(5):
            machine.run("systemctl", "restart", "msi-tokend.service")
            assert all_served(machine)
    print(f"   5 restarts without an endpoint, {callers.check()} requests")
    said = [record["MESSAGE"] for record in machine.journal("_SYSTEMD_UNIT=msi-tokend.service")]
    assert any("cache restored from the previous process" in message for message in said), said[-10:]


def test_kill_without_upstream(machine):
    """kill -9 under eight clients: lost are only the requests under way, and all ten tokens are served"""
    pid = main_pid(machine)
    with Callers(machine) as callers:
        time.sleep(1)
        machine.kill("KILL", pid)
        back_with_another_pid(machine, pid)
        assert all_served(machine)
    only_lost_connections(callers)


def test_crash_without_upstream(machine):
    """a crash (SIGABRT) loses no token either"""
    pid = main_pid(machine)
    machine.kill("ABRT", pid)
    back_with_another_pid(machine, pid)
    assert all_served(machine)


def test_no_request_more(machine):
    """with the endpoint there, neither a restart nor a kill asks it again for a fresh token"""
    upstream(machine, "start")
    before = upstream_requests(machine)
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert all_served(machine)
    pid = main_pid(machine)
    machine.kill("KILL", pid)
    back_with_another_pid(machine, pid)
    assert all_served(machine)
    assert upstream_requests(machine) == before


def test_not_readable_by_others(machine):
    """the memory that is carried over is closed to other users, to the service's own too"""
    pid = main_pid(machine)
    wait_for("the cache to be in the store", lambda: RESOURCES[0] in carried(machine))
    fds = machine.run("ls", f"/proc/{pid}/fd").split()
    for user in ["member", "msi-tokend"]:
        for fd in fds:
            assert machine.try_("cat", f"/proc/{pid}/fd/{fd}", user=user).returncode != 0, (user, fd)


def test_stop_and_start(machine):
    """a stop ends what systemd holds, so a later start has an empty cache"""
    machine.run("systemctl", "stop", "msi-tokend.service", "msi-tokend.socket")
    assert held(machine) == 0
    upstream(machine, "stop")
    machine.run("systemctl", "start", "msi-tokend.socket", "msi-tokend.service")
    assert not all_served(machine)
    upstream(machine, "start")


def test_preserved_over_a_stop(machine):
    """from systemd 254 on, FileDescriptorStorePreserve=yes carries the cache over a stop, too"""
    version = int(machine.run("systemctl", "--version").split()[1])
    if version < 254:
        print(f"   systemd {version} does not know it")
        return
    machine.write("/etc/systemd/system/msi-tokend.service.d/preserve.conf", "[Service]\nFileDescriptorStorePreserve=yes\n")
    machine.run("systemctl", "daemon-reload")
    fill(machine)
    machine.run("systemctl", "stop", "msi-tokend.service", "msi-tokend.socket")
    assert held(machine) == 1
    upstream(machine, "stop")
    machine.run("systemctl", "start", "msi-tokend.socket", "msi-tokend.service")
    assert all_served(machine)
    upstream(machine, "start")


def test_without_the_store(machine):
    """with the store off, the same restart is an outage: the store is what carried the tokens"""
    fill(machine)
    machine.write("/etc/systemd/system/msi-tokend.service.d/off.conf", "[Service]\nFileDescriptorStoreMax=0\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "msi-tokend.service")
    wait_for("the service to run", lambda: active(machine))
    machine.run("systemctl", "restart", "msi-tokend.service")
    upstream(machine, "stop")
    assert not all_served(machine)
