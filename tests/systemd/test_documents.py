"""What README.md and docs/*.md tell an administrator to type: the lines of each ```console block, in their order, on a machine
where the package is installed; `#` as root, `$` as a user in the group msi-tokend."""

import re

import pages
from checks import wait_for
from places import REPOSITORY
from service import RESOURCE, get, installed

PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))]
# What runs these, or why nothing does.
ELSEWHERE = {
    "cargo build --release --bins && target/release/msi-emulator demo": "tests/run --all",
    "packaging/build-deb .": "tests/package/test_build.py",
    "apt install ./msi-tokend_*.deb": "tests/package/test_deb.py",
    'usermod --append --groups msi-tokend "${SUDO_USER:-$(id -un)}"': "tests/package/test_texts.py",
    "curl --fail --silent --show-error --output /etc/apt/keyrings/msi-tokend.asc": "tests/repository/test_install.py",
    "apt-get update": "tests/repository/test_install.py",
    "apt-get install msi-tokend": "tests/repository/test_install.py",
    "cloud-init schema": "tests/package/test_texts.py",
    "ansible-playbook": "tests/fleet/test_ansible.py",
    "podman run": "tests/containers/test_podman.py",
    "msi-token explain --uid 33": "tests/containers/test_podman.py",
    "/usr/lib/nagios/plugins/check_http": "tests/monitoring-plugins/run",
    "az vm extension set": "nothing: it wants a subscription",
}
# It never ends by itself.
FOLLOWS = "journalctl -u msi-tokend -f"
# What these exit with, where it is not 0: the lock has not observed for a day.
CODES = {FOLLOWS: 124, "msi-token lock enforce": 75}
# The page says that it takes some seconds.
TAKES_SECONDS = "msi-token lock status"


def commands(page):
    """Who types it, and what."""
    for language, block in pages.blocks(page.read_text()):
        if language == "console":
            for line in block.replace("\\\n", " ").splitlines():
                who, command = re.fullmatch(r"([#$]) (.*?)(?:  +# .*)?", line).groups()
                yield who, command


def typed(machine, who, command):
    if command == FOLLOWS:
        command = f"timeout 1 {command}"
    command = f"cd /srv; {command}"
    if who == "#":
        return machine.try_("bash", "-c", command)
    group = machine.run("getent", "group", "msi-tokend").split(":")[2]
    return machine.try_("bash", "-c", command, user="member", groups=[group])


def test_console(machine):
    """each command does what it is there for"""
    installed(machine)
    # What the pages speak of: the rule of the README, a refusal, the group of the Azure Arc agent, an application.
    rule, = [text for language, text in pages.blocks(PAGES[0].read_text()) if language == "toml"]
    machine.write("/etc/msi-tokend/conf.d/storage.toml", rule)
    assert get(machine, user="stranger").returncode == 77
    machine.run("groupadd", "himds")
    machine.write("/srv/app.py", 'import os\nassert os.environ["IDENTITY_ENDPOINT"]\n')
    skipped = set()
    for page in PAGES:
        for who, command in commands(page):
            elsewhere = next((start for start in ELSEWHERE if command.startswith(start)), None)
            if elsewhere:
                skipped.add(elsewhere)
                continue
            if command == TAKES_SECONDS:
                wait_for(command, lambda: typed(machine, who, command).returncode == 0)
            done = typed(machine, who, command)
            assert done.returncode == CODES.get(command, 0), (page.name, command, done)
            wait_for("the daemon is there", lambda: get(machine).returncode == 0)
    assert skipped == set(ELSEWHERE), set(ELSEWHERE) - skipped


def test_units(machine):
    """the lines for a program's unit lead it to the listener, where it gets its token"""
    machine.run("systemctl", "enable", "--now", "msi-tokend-sdk.socket")
    machine.run("useradd", "--groups", "msi-tokend", "reports")
    ask = f'curl --silent --fail --header "X-IDENTITY-HEADER: $$IDENTITY_HEADER" "$$IDENTITY_ENDPOINT?api-version=2019-08-01&resource={RESOURCE}"'
    for name in ["docs/first-blob.md", "docs/sdks.md"]:
        block, = [text for language, text in pages.blocks((REPOSITORY / name).read_text()) if language == "ini"]
        user = "" if "User=" in block else "User=reports\n"
        machine.write("/etc/systemd/system/documented.service",
                      f"[Unit]\nStartLimitIntervalSec=0\n{block}{user}Type=oneshot\nExecStart=/bin/sh -c '{ask}'\nStandardOutput=truncate:/run/answer\n")
        machine.run("systemctl", "daemon-reload")
        # Over the listener a group counts by its account, a second or two after it was changed.
        wait_for(name, lambda: machine.try_("systemctl", "start", "documented.service").returncode == 0)
        assert '"access_token":"eyJ' in machine.run("cat", "/run/answer"), name
