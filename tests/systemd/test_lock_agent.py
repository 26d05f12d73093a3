"""Azure's guest proxy agent beside the lock, by a stand-in: a BPF program takes connections away before any firewall rule."""

from booted import HERE
from checks import wait_for
from lock import LOST, RESTORED, UNIT, ask_in_unit, installed_enforcing, state, table
from service import active

AGENT = "azure-proxy-agent.service"


def agent(machine, name):
    """Installs the stand-in under this name."""
    machine.copy_in(HERE / "proxy_agent.py", "/usr/local/lib/proxy_agent.py", 0o644)
    machine.write(f"/etc/systemd/system/{name}", "[Service]\nExecStart=/usr/bin/python3 /usr/local/lib/proxy_agent.py\n")
    machine.run("systemctl", "daemon-reload")


def said(machine):
    return machine.run("journalctl", "--unit", UNIT, "--output=cat")


def test_enforced(machine):
    """the lock enforces, and whom a rule allows gets a token"""
    installed_enforcing(machine)


def test_refused(machine):
    """where the agent runs the lock is not loaded, and that is told"""
    machine.run("systemctl", "stop", UNIT)
    agent(machine, AGENT)
    machine.run("systemctl", "start", AGENT)
    refused = machine.try_("systemctl", "start", UNIT)
    assert refused.returncode != 0 and not table(machine)
    assert f"{AGENT} runs" in said(machine), said(machine)
    assert machine.try_("msi-token", "lock", "status").returncode == 3
    told = machine.try_("msi-token", "doctor").stdout
    assert f"{UNIT} has failed" in told, told
    machine.run("systemctl", "stop", AGENT)
    machine.run("systemctl", "start", UNIT)
    wait_for("the daemon sees it", lambda: state(machine) == "locked")
    assert ask_in_unit(machine, "stranger") == "403"


def passes_by(machine, name, reason):
    """Whoever takes connections away while the lock is loaded is told, and the lock works when that has ended."""
    lost, restored = len(machine.journal(LOST)), len(machine.journal(RESTORED))
    machine.run("systemctl", "start", name)
    wait_for("no rule keeps a stranger from a token", lambda: ask_in_unit(machine, "stranger") == "200")
    wait_for("it is seen", lambda: state(machine) == "lost")
    assert len(machine.journal(LOST)) == lost + 1
    wait_for("the reason is told", lambda: reason in said(machine))
    assert table(machine), "the rules stay, for when it ends"
    wait_for("the unit has tried", lambda: active(machine, UNIT))
    status = machine.try_("msi-token", "lock", "status")
    assert status.returncode == 2, status
    told = machine.try_("msi-token", "doctor").stdout
    assert "takes connections" in told and ("Azure's guest proxy agent" in told) == (name == AGENT), told
    assert [ask_in_unit(machine, user) for user in ("member", "root")] == ["200", "200"]
    machine.run("systemctl", "stop", name)
    wait_for("the daemon sees it", lambda: state(machine) == "locked")
    assert ask_in_unit(machine, "stranger") == "403" and len(machine.journal(RESTORED)) == restored + 1


def test_starts_later(machine):
    """an agent that starts when the lock is loaded is told as a lock that is lost, with the reason, until it ends"""
    passes_by(machine, AGENT, f"{AGENT} runs")


def test_something_like_it(machine):
    """so is anything that does the same, whatever its name"""
    agent(machine, "other.service")
    passes_by(machine, "other.service", "something takes connections away before any firewall rule")
