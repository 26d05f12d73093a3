"""The package in a booted system: installed, upgraded under load, removed, purged."""

import time

from checks import wait_for
from own_package import raised
from service import RESOURCE, Callers, active, add_surroundings, configure, get, main_pid

KEEP = "msi-token-keep@member.service"
# It asks for an identity that there is none of, so it never becomes ready.
KEEP_WAITING = "msi-token-keep@stranger.service"
KEEP_FAILED = "msi-token-keep@games.service"
FAULT = "/etc/msi-tokend/conf.d/90-fault.toml"
# What is off as shipped.
SWITCHES = ["msi-tokend-sdk.socket", "msi-tokend-lock.service", "msi-tokend-textfile.timer"]
METRICS = "/var/lib/prometheus/node-exporter/msi-tokend.prom"
STATE = ["find", "/etc", "/usr", "/var/lib/systemd", "/run/msi-tokend", "/run/msi-token", "-xdev", "(", "-name",
         "*msi-token*", "-o", "-lname", "*msi-token*", ")"]


def apt(machine, *arguments):
    return machine.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", *arguments)


def test_install(machine, built):
    """apt installs it, and the service runs at once and serves a member of the group"""
    machine.before = set(machine.try_(*STATE).stdout.splitlines())
    add_surroundings(machine)
    machine.copy_in(built.package, "/root/msi-tokend.deb", 0o644)
    apt(machine, "install", "/root/msi-tokend.deb")
    assert active(machine) and active(machine, "msi-tokend.socket")
    enabled = machine.try_("systemctl", "is-enabled", "msi-tokend.service", "msi-tokend.socket", "msi-tokend-sdk.socket")
    assert enabled.stdout.split() == ["enabled", "enabled", "disabled"], enabled
    machine.run("msi-tokend", "--check", "--strict")
    assert get(machine, "member").returncode == 77
    machine.run("usermod", "--append", "--groups", "msi-tokend", "member")
    assert get(machine, "member").returncode == 0
    machine.write("/etc/msi-tokend/keep/member.toml", f'[[file]]\nname = "t"\nresource = "{RESOURCE}"\n')
    machine.run("systemctl", "enable", "--now", KEEP)
    assert machine.run("msi-tokend", "--version").split()[-1] == built.fields("Version").strip()
    machine.run("journalctl", "--dump-catalog", "ecc07d5a6ac640dca10939fd8c38b120")


KEPT_CONNECTIONS = """
import socket
kept = [socket.socket(socket.AF_UNIX) for _ in range(80)]
for one in kept:
    one.connect("/run/msi-tokend/msi-tokend.sock")
for turn in range(4):
    for one in kept:
        one.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" * 64)
    # Some are read, so that the daemon goes on with them; for the others it holds what they do not read.
    for one in kept[turn::4]:
        assert one.recv(65536)
print(len(kept))
"""


def test_small_memlock(machine, built):
    """with a small limit on locked memory it locks none, says so once, and outlives eighty connections that do not read"""
    dropin = "/etc/systemd/system/msi-tokend.service.d/memlock.conf"
    machine.write(dropin, "[Service]\nLimitMEMLOCK=8M\n# So that it fits into the limit as it starts.\nEnvironment=MALLOC_ARENA_MAX=1\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "msi-tokend.service")
    pid = main_pid(machine)
    assert machine.python(KEPT_CONNECTIONS) == 80
    assert get(machine, "member").returncode == 0 and main_pid(machine) == pid
    said = [record["MESSAGE"] for record in machine.journal(f"_PID={pid}") if "RLIMIT_MEMLOCK" in record["MESSAGE"]]
    assert len(said) == 1 and "8192 kB" in said[0], said
    machine.run("rm", dropin)
    machine.run("systemctl", "daemon-reload")


def test_upgrade(machine, built):
    """an upgrade under the load of eight clients: not one failed request, and the configuration stays"""
    configure(machine, "50-mine", '[[allow]]\nusers = ["stranger"]\n')
    machine.run("sh", "-c", "echo '# changed by the administrator' >> /etc/msi-tokend/config.toml")
    pid = main_pid(machine)
    keeper = machine.show(KEEP, "MainPID")
    machine.write("/etc/msi-tokend/keep/stranger.toml",
                  f'[[file]]\nname = "t"\nresource = "{RESOURCE}"\nclient_id = "00000000-0000-0000-0000-000000000000"\n')
    machine.run("systemctl", "start", "--no-block", KEEP_WAITING)
    wait_for("a keeper that waits", lambda: machine.show(KEEP_WAITING, "ActiveState")["ActiveState"] == "activating")
    out = built.out / machine.name
    out.mkdir()
    machine.copy_in(raised(built.package, "+newer", out), "/root/newer.deb", 0o644)
    with Callers(machine) as callers:
        time.sleep(1)
        apt(machine, "install", "/root/newer.deb")
        time.sleep(1)
    served = callers.check()
    print(f"   {served} requests during the upgrade: {callers.answered}")
    assert main_pid(machine) not in (0, pid)
    wait_for("the keeper to be another", lambda: active(machine, KEEP) and machine.show(KEEP, "MainPID") != keeper)
    machine.run("systemctl", "stop", KEEP_WAITING)
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "msi-tokend").endswith("+newer")
    assert get(machine, "stranger").returncode == 0
    assert "changed by the administrator" in machine.run("cat", "/etc/msi-tokend/config.toml")


def reinstall(machine):
    """What apt says of it, which ends well."""
    done = machine.try_("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "install", "--reinstall", "/root/newer.deb")
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def test_upgrade_with_a_fault(machine, built):
    """with a configuration that it refuses, the old process goes on, and apt says why and that the next start will fail"""
    pid = main_pid(machine)
    for text, mode, fault in [
        ('[limits]\ncaller_waits = "5s"\n', 0o644, f"{FAULT}:2: "),
        ("[limits\n", 0o644, f"{FAULT}:1: "),
        ('[listen]\nsocket_mode = "0999"\n', 0o644, "listen.socket_mode"),
        ("", 0o640, FAULT),
    ]:
        machine.write(FAULT, text, mode)
        said = reinstall(machine)
        for part in [fault, "keeps running", "next start will fail"]:
            assert part in said, said
        assert main_pid(machine) == pid and get(machine, "member").returncode == 0, text
    machine.run("systemctl", "stop", "msi-tokend.socket", "msi-tokend.service")
    assert "NOT STARTED" in reinstall(machine)
    machine.run("rm", FAULT)
    said = reinstall(machine)
    assert "NOT" not in said and main_pid(machine) not in (0, pid), said
    assert get(machine, "member").returncode == 0


def test_disabled(machine, built):
    """what the administrator switched off stays off over an upgrade, and what was switched on stays on"""
    machine.run("systemctl", "disable", "--now", "msi-tokend.socket", "msi-tokend.service")
    machine.run("systemctl", "enable", "msi-tokend-sdk.socket")
    apt(machine, "install", "--reinstall", "/root/newer.deb")
    enabled = machine.try_("systemctl", "is-enabled", "msi-tokend.service", "msi-tokend.socket", "msi-tokend-sdk.socket")
    assert enabled.stdout.split() == ["disabled", "disabled", "enabled"], enabled
    machine.run("systemctl", "enable", "--now", "msi-tokend.socket", "msi-tokend.service")


def switch_all_on(machine):
    machine.run("mkdir", "--parents", METRICS.rpartition("/")[0])
    machine.run("systemctl", "enable", "--now", *SWITCHES)
    # There are no settings for it.
    assert machine.try_("systemctl", "start", KEEP_FAILED).returncode != 0
    assert all(active(machine, unit) for unit in SWITCHES), machine.try_("systemctl", "--failed")
    assert "msi_tokend" in machine.run("nft", "list", "tables")
    wait_for("the metrics are written", lambda: machine.try_("test", "-e", METRICS).returncode == 0)
    assert open_ports(machine) == [343, 169]


def open_ports(machine):
    """Of those of the listener for SDKs and of the lock."""
    listening = machine.run("ss", "--listening", "--tcp", "--numeric")
    return [port for port in (343, 169) if f"127.0.0.1:{port} " in listening]


def assert_all_off(machine):
    for unit in ["msi-tokend.service", "msi-tokend.socket", "msi-tokend-lock.socket", "msi-tokend-lock-repair.path", *SWITCHES]:
        assert not active(machine, unit), unit
    assert "msi_tokend" not in machine.run("nft", "list", "tables")
    assert machine.try_("test", "-e", METRICS).returncode != 0
    assert open_ports(machine) == []
    assert machine.run("systemctl", "--failed", "--no-legend") == ""


def test_lock_stays(machine, built):
    """a lock that is switched on stays over an upgrade, without a moment without its rules"""
    machine.run("systemctl", "enable", "--now", "msi-tokend-lock.service")
    rules = "nft list chain ip msi_tokend lock | grep --quiet 'redirect to :169'"
    watch = machine.popen("sh", "-c", f"until [ -e /run/upgraded ]; do {rules} || echo gone; done")
    apt(machine, "install", "--reinstall", "/root/newer.deb")
    machine.run("touch", "/run/upgraded")
    out, _ = watch.communicate(timeout=120)
    assert out == "" and active(machine, "msi-tokend-lock.service"), out


def test_remove(machine, built):
    """removed, nothing of it runs, also of what was switched on, and its configuration stays; installed again, it runs with that"""
    switch_all_on(machine)
    apt(machine, "remove", "msi-tokend")
    assert_all_off(machine)
    assert machine.try_("test", "-e", "/run/msi-tokend").returncode != 0
    assert not active(machine, KEEP) and machine.try_("test", "-e", "/run/msi-token").returncode != 0
    machine.run("test", "-e", "/etc/msi-tokend/conf.d/50-mine.toml")
    apt(machine, "install", "/root/newer.deb")
    wait_for("the service to run", lambda: active(machine))
    assert get(machine, "stranger").returncode == 0


def test_purge(machine, built):
    """purged with all of it switched on, nothing stays but the system user"""
    switch_all_on(machine)
    apt(machine, "purge", "msi-tokend")
    assert_all_off(machine)
    left = set(machine.try_(*STATE).stdout.splitlines()) - machine.before
    assert not left, left
    assert machine.try_("test", "-e", "/etc/msi-tokend").returncode != 0
    machine.run("id", "msi-tokend")
    assert machine.run("systemctl", "list-units", "--all", "--no-legend", "msi-tokend*") == ""
    assert "msi-tokend" not in machine.run("journalctl", "--list-catalog")
