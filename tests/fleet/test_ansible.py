"""The role for Ansible, by the real one over ssh."""

import json
import os
import re
import subprocess

from booted import HERE
from places import CACHE, REPOSITORY
from service import Callers, active, add_surroundings, get, main_pid
from test_install import ADDRESS

ANSIBLE = CACHE / "ansible"
PLAYS = REPOSITORY / "packaging/ansible"
RULES = """
[[allow]]
groups = ["member"]
resources = ["https://storage.azure.com/"]
default_identity = true
"""


def connect(machine, published):
    """A key of ours, and ssh to a server that sdboot starts, since there is no network to the machine."""
    key = published.directory / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    machine.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), 0o600)
    proxy = f"{HERE}/sdboot exec {machine.name} /usr/sbin/sshd -i"
    options = f'-o ProxyCommand="{proxy}" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
    inventory = {"azure_vms": {"hosts": {"vm": {
        "ansible_user": "root", "ansible_ssh_private_key_file": str(key), "ansible_ssh_common_args": options,
        "ansible_python_interpreter": "/usr/bin/python3",
    }}}}
    (published.directory / "inventory.yml").write_text(json.dumps(inventory))


def play(published, **variables):
    """Runs the example's playbook; gives ok, changed and failed of the machine."""
    own = {"msi_tokend_repository": ADDRESS, "msi_tokend_repository_key": str(published.public_key)}
    done = subprocess.run(
        [ANSIBLE / "bin/ansible-playbook", "--inventory", published.directory / "inventory.yml",
         "--extra-vars", json.dumps(own | variables), PLAYS / "site.yml"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"ANSIBLE_HOME": str(published.directory / "ansible"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"})
    said = done.stdout + done.stderr
    recap = re.search(r"^vm +: (.*)$", done.stdout, re.MULTILINE)
    assert recap, said
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", recap[1])}, said


def test_first_run(machine, published):
    """the first run installs the package from the repository, with the example's rule"""
    add_surroundings(machine)
    connect(machine, published)
    counts, said = play(published)
    assert counts["failed"] == counts["unreachable"] == 0 < counts["changed"], said
    assert active(machine) and active(machine, "msi-tokend.socket") and not active(machine, "msi-tokend-sdk.socket")
    assert [get(machine, user).returncode for user in ("www-data", "stranger")] == [0, 77]


def test_second_run(machine, published):
    """the second run changes nothing, and restarts nothing"""
    pid = main_pid(machine)
    counts, said = play(published)
    assert counts["failed"] == counts["changed"] == 0 < counts["ok"], said
    assert main_pid(machine) == pid


def test_change(machine, published):
    """another rule and the listener for SDKs are in effect at the end of the run, and callers lose nothing meanwhile"""
    counts, said = play(published, msi_tokend_conf={"10-site": RULES})
    assert counts["failed"] == 0 < counts["changed"], said
    with Callers(machine) as callers:
        more = RULES + RULES.replace("member", "stranger")
        counts, said = play(published, msi_tokend_conf={"10-site": more}, msi_tokend_sdk=True)
        assert counts["failed"] == 0 < counts["changed"], said
    print(f"   {callers.check()} requests meanwhile")
    assert active(machine, "msi-tokend-sdk.socket") and get(machine, "stranger").returncode == 0
    assert play(published, msi_tokend_conf={"10-site": more}, msi_tokend_sdk=True)[0]["changed"] == 0


def test_fault(machine, published):
    """with a fault in the configuration the run fails and says where, and the daemon goes on with what it had"""
    pid = main_pid(machine)
    for _ in range(2):
        counts, said = play(published, msi_tokend_conf={"10-site": RULES + "[limits]\ncaller_waits = 1\n"}, msi_tokend_sdk=True)
        assert counts["failed"] == 1 and "10-site.toml:" in said and "caller_waits" in said, said
    assert main_pid(machine) == pid and get(machine, "stranger").returncode == 0
    counts, said = play(published, msi_tokend_conf={"10-site": RULES}, msi_tokend_sdk=True)
    assert counts["failed"] == 0 and get(machine, "stranger").returncode == 77, said
