"""The timer that writes the metrics for node_exporter's textfile collector."""

from checks import wait_for
from service import active, installed

FILE = "/var/lib/prometheus/node-exporter/msi-tokend.prom"


def written(machine):
    return machine.try_("stat", "--format=%Y.%i", FILE).stdout


def test_off(machine):
    """it is off as shipped, and does nothing where there is no collector"""
    installed(machine)
    assert machine.try_("systemctl", "is-enabled", "msi-tokend-textfile.timer").stdout.strip() == "disabled"
    machine.run("systemctl", "start", "msi-tokend-textfile.service")
    assert machine.show("msi-tokend-textfile.service", "ConditionResult") == {"ConditionResult": "no"}
    assert machine.run("systemctl", "is-system-running") == "running"


def test_on(machine):
    """switched on, it writes the file at once, for every user to read, and again and again"""
    machine.run("mkdir", "--parents", "/var/lib/prometheus/node-exporter")
    # Not for minutes here.
    machine.write("/run/systemd/system/msi-tokend-textfile.timer.d/often.conf", "[Timer]\nOnUnitActiveSec=1s\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", "msi-tokend-textfile.timer")
    first = wait_for("the file is there", lambda: written(machine))
    text = machine.run("cat", FILE)
    assert "\nmsi_tokend_cached_tokens " in text and "process_" not in text, text
    assert machine.run("stat", "--format=%a %U", FILE) == "644 root"
    wait_for("it is written again", lambda: written(machine) != first)
    assert machine.run("ls", "-A", "/var/lib/prometheus/node-exporter") == "msi-tokend.prom"


def test_dead(machine):
    """without a daemon the file stays as it was, which is how its age tells, and goes on when there is one again"""
    machine.run("systemctl", "stop", "msi-tokend.socket", "msi-tokend.service")
    wait_for("a write has failed", lambda: machine.show("msi-tokend-textfile.service", "Result") == {"Result": "exit-code"})
    before = written(machine)
    assert before
    machine.run("systemctl", "start", "msi-tokend.socket", "msi-tokend.service")
    wait_for("it is written again", lambda: written(machine) != before)
    assert active(machine, "msi-tokend-textfile.timer")
