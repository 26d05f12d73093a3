"""The lock: systemd switches it on and off, and puts it back when its firewall rules are lost."""

from checks import wait_for
from lock import LOST, UNIT, ask, state, table
from service import active, configure, installed, main_pid, upstream_requests


def test_off(machine):
    """it is off as shipped"""
    installed(machine)
    assert not active(machine, UNIT) and not table(machine)
    assert ask(machine, "stranger") == "200"
    assert state(machine) is None


def test_on(machine):
    """one command switches it on: the daemon answers in the metadata service's place, and denies nobody while observing"""
    before, pid = upstream_requests(machine), main_pid(machine)
    machine.run("systemctl", "enable", "--now", UNIT)
    assert active(machine, UNIT) and active(machine, "msi-tokend-lock.socket") and table(machine)
    assert main_pid(machine) != pid, "the daemon has taken the socket over"
    assert [ask(machine, "stranger") for _ in range(3)] == ["200"] * 3
    assert upstream_requests(machine) == before + 1
    wait_for("the daemon sees it", lambda: state(machine) == "locked")
    wait_for("the status line says so",
             lambda: "lock observing: nothing is denied" in machine.show("msi-tokend.service", "StatusText")["StatusText"])
    [record] = machine.journal("OUTCOME=would_deny")
    assert record["UID"] == machine.run("id", "--user", "stranger")
    assert "lock observing" in machine.run("msi-token", "doctor")


def test_enforce(machine):
    """a reload of the daemon with another mode has the rules of that mode loaded"""
    configure(machine, "90-lock", '[lock]\nmode = "enforce"\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    assert ask(machine, "stranger") == "403"
    assert ask(machine, "member") == "200"
    wait_for("the rules of the mode", lambda: machine.run("cat", "/run/msi-tokend-lock/mode") == "enforce")
    wait_for("the rules", lambda: "reject" in machine.run("nft", "list", "chain", "ip", "msi_tokend", "close_forward"))


def test_lost(machine):
    """rules that another program flushes are put back, and the journal has a record that the catalog explains"""
    machine.run("nft", "flush", "ruleset")
    wait_for("the rules are there again", lambda: table(machine))
    wait_for("the daemon sees it", lambda: state(machine) == "locked")
    records = machine.journal(LOST)
    assert len(records) == 1, records
    shown = machine.run("journalctl", "--catalog", LOST)
    assert "The lock of the metadata service is lost" in shown
    assert ask(machine, "stranger") == "403"


def test_typo(machine):
    """a reload with a fault in a file loads the strictest rules and says so"""
    configure(machine, "95-typo", "[lock]\nmod = 1\n")
    machine.run("systemctl", "reload", UNIT)
    assert active(machine, UNIT) and table(machine)
    said = machine.run("journalctl", "--unit", UNIT, "--output=cat")
    assert "95-typo.toml:2" in said and "strictest" in said, said
    machine.run("rm", "/etc/msi-tokend/conf.d/95-typo.toml")
    machine.run("systemctl", "reload", UNIT)


def test_daemon_away(machine):
    """while the daemon is away callers wait, and root asks the metadata service itself"""
    machine.run("systemctl", "stop", "msi-tokend.service", "msi-tokend.socket")
    assert ask(machine, "root") == "200"
    assert ask(machine, "stranger") == "403", "the socket starts the daemon"
    machine.run("systemctl", "stop", "msi-tokend.service", "msi-tokend.socket", "msi-tokend-lock.socket")
    assert ask(machine, "stranger") == "000", "refused"
    assert ask(machine, "root") == "200"
    machine.run("systemctl", "start", "msi-tokend.socket", "msi-tokend-lock.socket", "msi-tokend.service")
    assert ask(machine, "stranger") == "403"


def test_reboot(machine):
    """after a boot it is there before anybody can ask"""
    machine.reboot()
    wait_for("the daemon runs", lambda: active(machine))
    assert active(machine, UNIT) and table(machine)
    assert ask(machine, "stranger") == "403"


def test_killed(machine):
    """a loader that is killed, as for want of memory or time, is started again until the rules are there"""
    machine.run("systemctl", "stop", UNIT)
    machine.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.real")
    machine.write("/usr/sbin/nft", '#!/bin/sh\n[ -e /etc/let-it-load ] || [ "$(cat /proc/$PPID/comm)" != msi-token ] || { kill -KILL $PPID; exit 1; }\nexec nft.real "$@"\n', mode=0o755)
    assert machine.try_("systemctl", "start", UNIT).returncode and not table(machine)
    machine.write("/etc/let-it-load", "")
    wait_for("the rules are there", lambda: active(machine, UNIT) and table(machine))
    machine.run("mv", "/usr/sbin/nft.real", "/usr/sbin/nft")
    assert ask(machine, "stranger") == "403"


def test_stopped(machine):
    """stopped by the administrator it leaves nothing behind, and stays off"""
    machine.run("systemctl", "disable", "--now", UNIT)
    assert not table(machine) and ask(machine, "stranger") == "200"
    wait_for("the daemon knows", lambda: state(machine) is None)
    machine.run("touch", "/run/msi-tokend/lock-lost")
    machine.run("systemctl", "start", "msi-tokend-lock-repair.service")
    assert not table(machine) and not active(machine, UNIT)


def test_exposure(machine):
    """systemd rates its sandbox with 2.5 at most"""
    text = machine.run("systemd-analyze", "security", "--no-pager", UNIT).splitlines()[-1]
    rating = float(text.split(":")[1].split()[0])
    assert rating <= 2.5, text
