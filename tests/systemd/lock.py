"""The lock on a booted machine, and who asks the metadata service by itself."""

import json

from checks import wait_for
from fabric import installed_behind
from service import RESOURCE, configure

UNIT = "msi-tokend-lock.service"
SOCKET = "/run/msi-tokend/msi-tokend.sock"
TOKEN = f"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}"
# The journal's, where the rules are gone, and where they are there again.
LOST, RESTORED = "MESSAGE_ID=7117bfa0b5b8f9dc494d1fea3d240559", "MESSAGE_ID=acbb3045c2e78419181dcacae166c1c5"


def curl(seconds):
    return ["curl", "--silent", "--max-time", seconds, "--header", "Metadata: true", "--output", "/dev/null",
            "--write-out", "%{http_code}", TOKEN]


def ask(machine, user, seconds=30):
    """The status that a program gets which has the metadata service's address built in."""
    return machine.try_(*curl(seconds), user=user).stdout


def ask_in_unit(machine, user):
    """As `ask`, by a process below the machine's own cgroup."""
    return machine.try_("systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--uid={user}", *curl(30)).stdout


def state(machine):
    """What `/ready` says of the lock; None where it is off."""
    text = machine.run("curl", "--silent", "--unix-socket", SOCKET, "http://localhost/ready")
    return json.loads(text).get("lock", {}).get("state")


def table(machine):
    return machine.try_("nft", "list", "table", "ip", "msi_tokend").returncode == 0


def installed_enforcing(machine):
    """Installed and switched on; a rule is for `member` and none for `stranger`."""
    installed_behind(machine)
    configure(machine, "90-lock", '[lock]\nmode = "enforce"\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    machine.run("systemctl", "enable", "--now", UNIT)
    wait_for("it is there", lambda: state(machine) == "locked")
    assert ask(machine, "member") == "200" and ask(machine, "stranger") == "403"
