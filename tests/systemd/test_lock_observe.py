"""The lock on a machine that runs already: observing changes nothing for anybody, and what it saw makes enforcing deny nobody
but those who were told of."""

import json
import re

from checks import wait_for
from fabric import installed_behind
from lock import SOCKET, UNIT

RULES = "/etc/msi-tokend/conf.d/50-lock.toml"
CURL = ["curl", "--silent", "--max-time", "60", "--header", "Metadata: true", "--output", "/dev/null", "--write-out", "%{http_code}"]
SERVICES = {
    # What each runs as, and what its systemd-run gets beside that.
    "billing.service": ("billing", ()),
    "backup.service": ("backupper", ("--slice=batch-nightly.slice",)),
    "worker@7.service": ("worker", ()),
    "dynamic.service": (None, ("--property=DynamicUser=yes",)),
    "web.service": ("web", ("--property=Delegate=yes",)),
    "telemetry.service": ("telemetry", ()),
}


def token(name):
    return f"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://{name.split('.')[0]}/"


def of_service(machine, name):
    user, options = SERVICES[name]
    who = [f"--uid={user}"] if user else []
    return machine.try_("systemd-run", "--quiet", "--wait", "--collect", "--pipe", *who, *options, f"--unit={name}",
                        *CURL, token(name)).stdout


def of_host_container(machine):
    """An engine makes a scope; its network is the machine's, its user is one that the machine has no account for."""
    scope = f"docker-{'0123456789abcdef' * 4}.scope"
    return machine.try_("systemd-run", "--quiet", "--scope", f"--unit={scope}", "setpriv", "--reuid=4000", "--regid=4000",
                        "--clear-groups", *CURL, token("container")).stdout


def of_bridge_container(machine):
    return machine.try_("nsenter", "--net=/run/netns/box", "setpriv", "--reuid=4001", "--regid=4001", "--clear-groups", *CURL,
                        token("bridged")).stdout


def of_cron_job(machine):
    """cron runs the jobs of all users in its own unit."""
    return machine.try_("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--unit=cron.service", "setpriv",
                        "--reuid=jobs", "--regid=jobs", "--clear-groups", *CURL, token("job")).stdout


def everybody(machine):
    """The status that each gets."""
    return {name: of_service(machine, name) for name in SERVICES} | {
        "host container": of_host_container(machine),
        "bridge container": of_bridge_container(machine),
        "cron job": of_cron_job(machine),
        "metadata": machine.try_(*CURL, "http://169.254.169.254/metadata/instance/compute?api-version=2021-02-01",
                                 user="telemetry").stdout,
        "root": machine.try_(*CURL, token("root")).stdout,
    }


def lock(machine):
    return json.loads(machine.run("curl", "--silent", "--unix-socket", SOCKET, "http://localhost/status"))["lock"]


def test_observe(machine):
    """observing changes nothing for services, containers with and without the machine's network, a cron job, and root"""
    installed_behind(machine)
    for user in [user for user, _ in SERVICES.values() if user] + ["jobs"]:
        machine.run("useradd", user)
    before = everybody(machine)
    assert set(before.values()) == {"200"}, before
    machine.run("systemctl", "enable", "--now", UNIT)
    wait_for("it is there", lambda: machine.try_("msi-token", "lock", "status").returncode == 0)
    assert everybody(machine) == before
    seen = wait_for("all are seen", lambda: len(lock(machine)["missing"]) == 8 and lock(machine))
    units = {missing["unit"] for missing in seen["missing"]}
    assert units >= set(SERVICES), units
    assert not seen["breaks"], seen
    records = machine.journal("OUTCOME=would_deny")
    assert len(records) == 8, records
    everybody(machine)
    assert len(lock(machine)["missing"]) == 8


def test_suggest(machine):
    """what is suggested passes --check, names services by their units and others by their users, and enforcing would deny nobody by it"""
    told = machine.try_("msi-token", "lock", "status")
    assert told.returncode == 0 and "From network bridges" in told.stdout, told
    refused = machine.try_("msi-token", "lock", "enforce")
    assert refused.returncode == 75 and "no rule allows these" in refused.stderr, refused
    text = machine.run("msi-token", "suggest")
    machine.write(RULES, text)
    for name in SERVICES:
        assert f'units = ["{name}"]' in text, text
    assert 'users = ["4000"]' in text and 'users = ["jobs"]' in text, text
    assert "in every container" in text and "4001" not in text and "bridged" not in text, text
    machine.run("msi-tokend", "--check")
    machine.run("systemctl", "reload", "msi-tokend.service")
    assert not lock(machine)["missing"]
    refused = machine.try_("msi-token", "lock", "enforce")
    assert refused.returncode == 75 and "no rule allows these" not in refused.stderr, refused
    assert "24 h" in refused.stderr and "From network bridges" in refused.stderr, refused


def test_enforce(machine):
    """enforcing then denies nobody but the container on the bridge, which does not hang"""
    done = machine.try_("msi-token", "lock", "enforce", "--force")
    assert done.returncode == 0, done
    after = everybody(machine)
    assert after.pop("bridge container") == "000", after
    assert set(after.values()) == {"200"}, after
    assert machine.try_("msi-token", "lock", "status").returncode == 0


def test_one_rule(machine):
    """one rule less denies exactly one"""
    blocks = machine.run("cat", RULES).split("\n\n")
    kept = [block for block in blocks if "web.service" not in block]
    assert len(kept) == len(blocks) - 1
    machine.write(RULES, "\n\n".join(kept))
    machine.run("systemctl", "reload", "msi-tokend.service")
    after = everybody(machine)
    assert {name for name, status in after.items() if status != "200"} == {"web.service", "bridge container"}, after
    assert after["web.service"] == "403"
    again = machine.run("msi-token", "suggest", "--refused")
    assert 'units = ["web.service"]' in again, again


def test_forged(machine):
    """records that another program writes suggest nothing"""
    machine.run("rm", RULES)
    record = "OUTCOME=would_deny\nVERDICT=observed\nUID=0\nUNIT=evil.service\nRESOURCE=https://evil/\nIDENTITY=default\nMESSAGE=x\n"
    machine.run("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--uid=web", "--unit=evil.service", "logger",
                "--journald", stdin=record)
    assert machine.journal("RESOURCE=https://evil/")
    assert "evil" not in machine.run("msi-token", "suggest")


def test_off(machine):
    """one command takes it away"""
    machine.run("systemctl", "disable", "--now", UNIT)
    assert machine.try_("nft", "list", "table", "ip", "msi_tokend").returncode != 0
    assert set(everybody(machine).values()) == {"200"}
    assert machine.try_("msi-token", "lock", "status").returncode == 3


def test_try(machine):
    """switched on for a while it goes away by itself, and with it its timer"""
    machine.run("rm", "/etc/msi-tokend/conf.d/90-lock.toml")
    machine.run("systemctl", "reload", "msi-tokend.service")
    said = machine.run("msi-token", "lock", "try", "--for", "5s")
    assert re.search("on for 5s", said), said
    wait_for("it ends", lambda: machine.try_("msi-token", "lock", "status").returncode == 3)
    machine.run("msi-token", "lock", "try", "--for", "1h")
    assert machine.try_("msi-token", "lock", "status").returncode in (0, 1)
    assert machine.try_("msi-token", "lock", "try").returncode == 70
    timer = "msi-tokend-lock-try.timer"
    assert machine.try_("systemctl", "is-active", timer).stdout.strip() == "active"
    machine.run("systemctl", "stop", UNIT)
    wait_for("the timer ends with it", lambda: machine.try_("systemctl", "is-active", timer).stdout.strip() != "active")
