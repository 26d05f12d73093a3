"""What unattended-upgrades and needrestart do to the service, under callers."""

import re
import subprocess
import time

import pages
from checks import wait_for
from own_package import raised
from places import REPOSITORY
from service import RESOURCE, Callers, active, add_surroundings, get, main_pid, upstream_requests
from test_install import ADDRESS, PLACE

APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes")
KEEP = "msi-token-keep@member.service"


def block(page, heading):
    """What a page says that a file has."""
    return [text for language, text in pages.blocks(pages.section((REPOSITORY / page).read_text(), heading)) if language == "text"]


def version(machine):
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "msi-tokend")


def to_be_restarted(machine):
    """The services of ours that needrestart lists."""
    return re.findall(r"^NEEDRESTART-SVC: (msi-token.*)$", machine.run("needrestart", "-b", "-r", "l"), re.MULTILINE)


def upgrade(machine):
    """What the timer apt-daily-upgrade starts."""
    machine.run("apt-get", "update")
    return machine.run("unattended-upgrade", "--verbose", timeout=300)


def test_unattended(machine, published):
    """unattended-upgrades takes a newer version under eight callers: not one failed request, and none to the endpoint"""
    add_surroundings(machine)
    machine.copy_in(published.public_key, "/etc/apt/keyrings/msi-tokend.asc", 0o644)
    [sources] = block("docs/installation.md", "## From an apt repository")
    machine.write("/etc/apt/sources.list.d/msi-tokend.sources", sources.replace(PLACE, ADDRESS))
    [origin] = block("docs/fleet.md", "## Unattended upgrades")
    machine.write("/etc/apt/apt.conf.d/52msi-tokend", origin)
    machine.run(*APT, "update")
    machine.run(*APT, "install", "msi-tokend")
    machine.run("usermod", "--append", "--groups", "msi-tokend", "member")
    machine.write("/etc/msi-tokend/keep/member.toml", f'[[file]]\nname = "t"\nresource = "{RESOURCE}"\n')
    machine.run("systemctl", "enable", "--now", KEEP)
    published.release("+first")
    pid, asked = main_pid(machine), upstream_requests(machine)
    with Callers(machine) as callers:
        said = upgrade(machine)
        wait_for("the keeper runs again", lambda: active(machine, KEEP))
    print(f"   {callers.check()} requests meanwhile")
    assert version(machine).endswith("+first"), said
    assert main_pid(machine) not in (0, pid) and upstream_requests(machine) == asked
    assert to_be_restarted(machine) == []


def test_library(machine, published):
    """needrestart restarts the service for a library that is newer, under eight callers: not one failed request"""
    machine.write("/etc/needrestart/conf.d/automatic.conf", "$nrconf{restart} = 'a';\n")
    out = published.directory / "library"
    out.mkdir()
    subprocess.run(["apt-get", "download", "libgcc-s1"], cwd=out, check=True, capture_output=True)
    [package] = out.glob("*.deb")
    machine.copy_in(raised(package, "+newer", out), "/root/library.deb", 0o644)
    pid, asked = main_pid(machine), upstream_requests(machine)
    with Callers(machine) as callers:
        time.sleep(1)
        said = machine.run(*APT, "install", "/root/library.deb")
        time.sleep(1)
    print(f"   {callers.check()} requests meanwhile")
    assert "systemctl restart" in said and "msi-tokend.service" in said, said
    assert main_pid(machine) not in (0, pid)
    assert to_be_restarted(machine) == []


def test_manager(machine, published):
    """a systemd that is executed anew, as for its own upgrade, keeps sockets and cache"""
    asked = upstream_requests(machine)
    with Callers(machine) as callers:
        machine.run("systemctl", "daemon-reexec")
        machine.run("systemctl", "restart", "msi-tokend.service")
    print(f"   {callers.check()} requests meanwhile")
    assert upstream_requests(machine) == asked


def test_conffile(machine, published):
    """a config.toml that was changed on both sides keeps the version down, and the log says so; what is in conf.d does not"""
    def other_comment(tree):
        config = tree / "etc/msi-tokend/config.toml"
        config.write_text(config.read_text() + "# Of the new version.\n")

    machine.write("/etc/msi-tokend/conf.d/50-mine.toml", '[[allow]]\nusers = ["stranger"]\n')
    published.release("+second", other_comment)
    upgrade(machine)
    assert version(machine).endswith("+second") and get(machine, "stranger").returncode == 0
    machine.run("sh", "-c", "echo '# Of the administrator.' >> /etc/msi-tokend/config.toml")
    published.release("+third", lambda tree: (other_comment(tree), other_comment(tree)))
    said = upgrade(machine)
    assert version(machine).endswith("+second") and "conffile prompt" in said, said
