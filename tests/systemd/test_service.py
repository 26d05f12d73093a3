"""The installed service: started, used, refused, confined, stopped, booted."""

import re

from checks import wait_for
from service import RESOURCE, active, configure, get, installed, main_pid, start, upstream_requests


def test_start(machine):
    """the service starts, is ready only when it accepts, and is enabled as the preset says"""
    installed(machine)
    assert machine.show("msi-tokend.service", "ActiveState", "Type", "Result") == {
        "ActiveState": "active", "Type": "notify", "Result": "success"}
    enabled = machine.try_("systemctl", "is-enabled", "msi-tokend.service", "msi-tokend.socket", "msi-tokend-sdk.socket")
    assert enabled.stdout.split() == ["enabled", "enabled", "disabled"], enabled
    # RuntimeDirectory= gives the whole directory to the service's user, the socket's file included.
    for path, mode in [("/run/msi-tokend", "755"), ("/run/msi-tokend/msi-tokend.sock", "666")]:
        assert machine.run("stat", "--format=%U:%G %a", path) == f"msi-tokend:msi-tokend {mode}", path
    assert machine.run("systemctl", "is-system-running") == "running"


def test_member(machine):
    """a member of the group gets a token from the metadata address, through the unit's address filter"""
    done = get(machine, "member")
    assert done.returncode == 0 and re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout), done


def test_stranger(machine):
    """anyone else is refused with exit code 77 and the reason"""
    done = get(machine, "stranger")
    assert done.returncode == 77 and done.stdout == "", done
    assert "rule" in done.stderr, done


def test_status(machine):
    """systemctl status says what matters: how many tokens are served"""
    wait_for("serving 1 of 1 token", lambda: machine.show("msi-tokend.service", "StatusText") == {
        "StatusText": "serving 1 of 1 token"})


def test_confined(machine):
    """the process has no capability, no way to new ones, no core, and its /proc entries are closed to others"""
    pid = main_pid(machine)
    status = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line)
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]:
        assert int(status[name], 16) == 0, (name, status[name])
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
    limits = machine.run("cat", f"/proc/{pid}/limits")
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits
    assert re.search(r"^Max open files +8192 +8192 ", limits, re.MULTILINE), limits
    for entry in ["environ", "maps", "fd/0"]:
        assert machine.try_("cat", f"/proc/{pid}/{entry}", user="member").returncode != 0, entry


def test_closed_from_the_start(machine):
    """its own user cannot look into it even before it does anything for that: the program's mode alone sees to it"""
    mode = machine.run("stat", "--format=%a", "/usr/bin/msi-tokend")
    assert machine.run("stat", "--format=%U:%G", "/usr/bin/msi-tokend") == "root:root"
    opened = {}
    for tried in [mode, "755"]:
        # A program that asks the kernel for nothing, run as the daemon is.
        machine.run("install", "-m", tried, "/bin/sleep", "/usr/local/bin/plain")
        machine.write("/run/systemd/system/plain.service", """
[Service]
User=msi-tokend
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ExecStart=/usr/local/bin/plain infinity
""")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "plain.service")
        pid = int(machine.show("plain.service", "MainPID")["MainPID"])
        wait_for("the program to run", lambda: "plain" in machine.run("readlink", f"/proc/{pid}/exe"))
        opened[tried] = machine.try_("cat", f"/proc/{pid}/environ", user="msi-tokend").returncode == 0
        machine.run("systemctl", "stop", "plain.service")
    assert opened == {mode: False, "755": True}, opened


def test_addresses(machine):
    """an upstream at any other address is not reached before a drop-in allows it, although the machine itself reaches it"""
    machine.run("ip", "address", "add", "10.9.8.7/32", "dev", "lo")
    machine.write("/run/systemd/system/elsewhere.service", """
[Service]
ExecStart=/usr/local/bin/msi-emulator serve --listen 10.9.8.7:8080 --any-address
""")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "elsewhere.service")
    seen = ["curl", "--silent", "--fail", "--retry", "20", "--retry-connrefused", "http://10.9.8.7:8080/emulator/requests"]
    before = machine.run(*seen)
    configure(machine, "99-elsewhere", '[upstream]\nendpoint = "http://10.9.8.7:8080/metadata/identity/oauth2/token"\n'
                                       'connect_timeout = "500ms"\n')
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert get(machine, resource="https://vault.azure.net").returncode == 75
    assert machine.run(*seen) == before
    dropin = "/etc/systemd/system/msi-tokend.service.d/address.conf"
    machine.write(dropin, "[Service]\nIPAddressAllow=10.9.8.7\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert get(machine, "member", resource="https://management.azure.com/").returncode == 0
    machine.run("rm", dropin)
    machine.run("systemctl", "daemon-reload")
    machine.run("rm", "/etc/msi-tokend/conf.d/99-elsewhere.toml")
    machine.run("systemctl", "stop", "elsewhere.service")
    machine.run("systemctl", "restart", "msi-tokend.service")


def test_activation(machine):
    """a caller starts the stopped service; stopping the socket stops both, and the client says so with exit code 69"""
    machine.run("systemctl", "stop", "msi-tokend.service")
    assert not active(machine)
    assert get(machine, "member").returncode == 0
    assert active(machine)
    machine.run("systemctl", "stop", "msi-tokend.socket")
    wait_for("service stopped with its socket", lambda: not active(machine))
    done = get(machine, "member")
    assert done.returncode == 69 and "/run/msi-tokend/msi-tokend.sock" in done.stderr, done
    start(machine)


def test_stop(machine):
    """a stop is clean and leaves the socket, in which the next caller is served"""
    machine.run("systemctl", "stop", "msi-tokend.service")
    assert machine.show("msi-tokend.service", "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert active(machine, "msi-tokend.socket")
    assert get(machine, "member").returncode == 0


def test_cache_kept(machine):
    """the cached token outlives a restart while the endpoint is away, and a kill as well"""
    machine.run("systemctl", "stop", "emulator.service")
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert get(machine, "member").returncode == 0
    pid = main_pid(machine)
    machine.kill("KILL", pid)
    wait_for("the service to run again", lambda: active(machine) and main_pid(machine) not in (0, pid))
    assert get(machine, "member").returncode == 0
    machine.run("systemctl", "start", "emulator.service")


def test_reboot(machine):
    """after a reboot the service runs without anyone asking, and warm tokens are fetched"""
    configure(machine, "50-warm", f'[[warm]]\nresource = "{RESOURCE}"\n')
    machine.reboot()
    assert active(machine) and active(machine, "msi-tokend.socket")
    wait_for("the warm token to be fetched", lambda: upstream_requests(machine) == 1)
    assert get(machine, "member").returncode == 0
