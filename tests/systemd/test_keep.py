"""Tokens in files: msi-token-keep@USER.service, and the units of docs/files.md that go with it."""

import json
import re

from checks import wait_for
from places import REPOSITORY
from service import active, configure, installed

UNIT = "msi-token-keep@app.service"
SETTINGS = "/etc/msi-tokend/keep/app.toml"
FILE = "/run/msi-token/app/federated.token"
RESOURCE = "api://AzureADTokenExchange"
ONE_FILE = f'[[file]]\nname = "federated.token"\nresource = "{RESOURCE}"\n'


def status_line(machine):
    return machine.show(UNIT, "StatusText")["StatusText"]


def doctor(machine):
    return machine.try_("msi-token", "doctor").stdout


def allow(machine, name, rule):
    configure(machine, name, f"[[allow]]\n{rule}\n")
    machine.run("systemctl", "reload", "msi-tokend")


def page_units(machine):
    """The units that docs/files.md shows, each written where its first line says."""
    page = (REPOSITORY / "docs/files.md").read_text()
    for block in re.findall(r"^```ini\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        path = block.splitlines()[0].removeprefix("# ")
        machine.write(path, block)
    machine.run("systemctl", "daemon-reload")


def test_waits(machine):
    """without a rule the unit waits as long as it takes, and its status line and doctor name the file and say why"""
    installed(machine)
    machine.run("useradd", "--groups", "adm", "app")
    machine.write(SETTINGS, ONE_FILE)
    machine.run("systemctl", "start", "--no-block", UNIT)
    wait_for("the status line names the file", lambda: "missing: federated.token (" in status_line(machine))
    assert "rule" in status_line(machine), status_line(machine)
    state = machine.show(UNIT, "ActiveState", "TimeoutStartUSec")
    assert state == {"ActiveState": "activating", "TimeoutStartUSec": "infinity"}, state
    assert f"{UNIT}: the file federated.token ({RESOURCE} for default) is missing" in doctor(machine), doctor(machine)


def test_starts(machine):
    """with a rule for the unit it is active, and the file is the user's alone, in a directory that nobody can list"""
    allow(machine, "60-keep", f'units = ["{UNIT}"]')
    wait_for("the unit is active", lambda: active(machine, UNIT))
    assert machine.run("stat", "--format=%a %U", FILE) == "600 app"
    assert machine.run("stat", "--format=%a %U", "/run/msi-token/app") == "711 app"
    assert machine.try_("ls", "/run/msi-token/app", user="stranger").returncode != 0
    assert machine.try_("cat", FILE, user="stranger").returncode != 0
    assert machine.run("cat", FILE, user="app") == machine.run("msi-token", "get", RESOURCE)
    assert machine.run("stat", "--file-system", "--format=%T", FILE) == "tmpfs"
    assert machine.show(UNIT, "MemorySwapMax") == {"MemorySwapMax": "0"}
    assert f"{UNIT}: 1 file kept" in doctor(machine), doctor(machine)
    assert status_line(machine) == "1 file kept"


def test_journal(machine):
    """the journal says which file could not be renewed and is kept again, with the fields of it, and never the token"""
    [record] = machine.journal(f"_SYSTEMD_UNIT={UNIT}", "MESSAGE_ID=e0de4183df173154221f5f8b6d3291e5", "FILE=federated.token")
    assert record["SYSLOG_IDENTIFIER"] == "msi-token" and record["RESOURCE"] == RESOURCE, record
    [failed] = machine.journal(f"_SYSTEMD_UNIT={UNIT}", "MESSAGE_ID=790bfcc8341ab2feefeadc9a50c83cdf")
    assert "rule" in failed["ERROR"], failed
    token = machine.run("cat", FILE)
    assert not any(part in json.dumps(machine.journal()) for part in token.split("."))


def test_exposure(machine):
    """the unit's exposure is at most 2.0"""
    machine.run("systemd-analyze", "security", "--threshold=20", UNIT)


def test_group(machine):
    """a file can be opened to one of the user's groups, and to no other"""
    machine.write(SETTINGS, ONE_FILE + f'[[file]]\nname = "shared"\nresource = "{RESOURCE}"\nmode = "0640"\ngroup = "adm"\n')
    machine.run("systemctl", "restart", UNIT)
    assert machine.run("stat", "--format=%a %U %G", "/run/msi-token/app/shared") == "640 app adm"
    machine.run("cat", "/run/msi-token/app/shared", user="stranger", groups=["adm"])


def test_bad(machine):
    """faulty settings fail the start with all their faults in the journal, and the unit is not tried again and again"""
    machine.write(SETTINGS, ONE_FILE + '[[file]]\nname = "../x"\nresource = "r"\nmode = "0640"\ngroup = "shadow"\n')
    assert machine.try_("systemctl", "restart", UNIT).returncode != 0
    state = machine.show(UNIT, "ActiveState", "ExecMainStatus", "NRestarts")
    assert state == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}, state
    said = "\n".join(record["MESSAGE"] for record in machine.journal(f"_SYSTEMD_UNIT={UNIT}"))
    assert "app.toml:5: file.name must be" in said and "file.group is none of the groups" in said, said
    assert "app.toml:5: file.name" in doctor(machine) and "is none of the groups" in doctor(machine), doctor(machine)
    machine.write(SETTINGS, ONE_FILE)
    machine.run("systemctl", "reset-failed", UNIT)
    machine.run("systemctl", "start", UNIT)


def test_restart(machine):
    """the file stays over a restart and is gone after a stop"""
    watch = "while [ -s $0 ]; do [ -e /run/over ] && exit 0; done; exit 1"
    with machine.popen("sh", "-c", watch, FILE) as watcher:
        try:
            machine.run("systemctl", "restart", UNIT)
        finally:
            machine.run("touch", "/run/over")
        assert watcher.wait(60) == 0, "there was a moment without the file"
    machine.run("systemctl", "stop", UNIT)
    assert machine.try_("test", "-e", "/run/msi-token/app").returncode != 0
    machine.run("systemctl", "start", UNIT)


def test_path(machine):
    """a path unit, as the page shows it, restarts a service when the token has changed"""
    page_units(machine)
    machine.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "app.service", "app-token.path")
    pid = machine.show("app.service", "MainPID")
    before = machine.run("cat", FILE)
    machine.run("msi-token", "refresh", RESOURCE)
    wait_for("the file has the new token", lambda: machine.run("cat", FILE) != before, seconds=90)
    wait_for("the service is restarted", lambda: machine.show("app.service", "MainPID") != pid)


def test_dynamic(machine):
    """a service with DynamicUser reads what a unit beside it keeps, as the page shows it, and another user cannot"""
    allow(machine, "61-dynamic", 'units = ["app-tokens.service"]')
    machine.write("/etc/msi-tokend/keep/app-tokens.toml", ONE_FILE)
    # One line of one process: the journal makes a record of each process's part of a line.
    script = '#!/bin/sh\necho "begins with $(head -c 2 "$AZURE_FEDERATED_TOKEN_FILE")"\nexec sleep infinity\n'
    machine.write("/opt/app/run", script, 0o755)
    machine.run("systemctl", "start", "app-dynamic.service")
    wait_for("the service has read the file", lambda: any(
        record["MESSAGE"] == "begins with ey" for record in machine.journal("_SYSTEMD_UNIT=app-dynamic.service")))
    assert machine.try_("cat", "/run/app-tokens/federated.token", user="stranger").returncode != 0
