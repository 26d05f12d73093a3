"""cloud-init's first boot with the shipped snippet."""

import textwrap

from checks import wait_for
from places import REPOSITORY
from service import active, add_surroundings, get, upstream_requests
from test_install import ADDRESS, PLACE

SEED = "/var/lib/cloud/seed/nocloud"
# It must not look for another source of settings, nor for networks that are none of its own; and there are no locales to make.
ONLY = "datasource_list: [NoCloud]\nnetwork: {config: disabled}\nlocale: false\n"
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nTHE KEY OF THE REPOSITORY\n-----END PGP PUBLIC KEY BLOCK-----\n"


def snippet(published):
    """As an administrator fills it in."""
    text = (REPOSITORY / "packaging/cloud-init.yaml").read_text()
    indented = textwrap.indent(KEY, " " * 6)
    assert indented in text and PLACE in text
    return text.replace(indented, textwrap.indent(published.public_key.read_text(), " " * 6)).replace(PLACE, ADDRESS)


def test_first_boot(machine, published):
    """the first boot installs the package from the repository with its rule; www-data has a token, and nobody else"""
    add_surroundings(machine)
    machine.write(f"{SEED}/user-data", snippet(published))
    machine.write(f"{SEED}/meta-data", "instance-id: first\n")
    machine.write("/etc/cloud/cloud.cfg.d/99-test.cfg", ONLY)
    machine.run("cloud-init", "schema", "--config-file", f"{SEED}/user-data")
    machine.reboot()
    done = machine.try_("cloud-init", "status", "--wait", "--long")
    assert "status: done" in done.stdout, (done, machine.run("cat", "/var/log/cloud-init-output.log")[-3000:])
    assert active(machine) and active(machine, "msi-tokend.socket")
    wait_for("the warm token", lambda: upstream_requests(machine) == 1)
    assert [get(machine, user).returncode for user in ("www-data", "stranger")] == [0, 77]
    machine.run("msi-tokend", "--check", "--strict")


def test_later_boot(machine, published):
    """a later boot installs nothing anew, and keeps what the administrator has changed since"""
    rule = "/etc/msi-tokend/conf.d/10-site.toml"
    machine.run("sed", "-i", "s/www-data/stranger/", rule)
    machine.reboot()
    machine.run("cloud-init", "status", "--wait")
    wait_for("the service runs", lambda: active(machine))
    assert [get(machine, user).returncode for user in ("www-data", "stranger")] == [77, 0]
