"""A booted system that takes the package from the repository, by the `.sources` file of docs/installation.md."""

import shutil
import subprocess

from own_package import raised
from pages import blocks, section
from places import REPOSITORY
from service import active, add_surroundings, get

PLACE = "https://packages.example/msi-tokend"
ADDRESS = "http://127.0.0.1:8000"
SERVED = "/srv/apt"
SERVER = f"""
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory {SERVED} 8000
"""


class Repository:
    """A directory with the package, signed."""

    def __init__(self, directory, package, own, foreign):
        self.directory, self.own, self.foreign = directory, own, foreign
        (directory / "pool").mkdir(parents=True)
        shutil.copy(package, directory / "pool")
        self.package = directory / "pool" / package.name
        self.version = package.name.split("_")[1]
        self.sign(own)

    def sign(self, key):
        subprocess.run([REPOSITORY / "packaging/apt-repository", "--key", key, self.directory], check=True)

    def add(self, suffix):
        """The same package with a higher version, as a release to come would have. Returns its path."""
        return raised(self.package, suffix, self.package.parent)

    def publish(self, machine):
        target = machine.root / SERVED.lstrip("/")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.directory, target)


# A list that apt cannot renew is an error.
APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "-o", "APT::Update::Error-Mode=any"]


def apt(machine, *arguments):
    return machine.run(*APT, *arguments)


def fails(machine, *arguments):
    """What apt says where it has to fail."""
    done = machine.try_(*APT, *arguments)
    assert done.returncode != 0, done
    return done.stdout + done.stderr


def installed(machine):
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "msi-tokend")


def test_install(machine, repository):
    """the lines of the page make the system install from there, and the service serves a member of the group"""
    add_surroundings(machine)
    # There is no way to Debian from here.
    machine.run("sh", "-c", "rm --force /etc/apt/sources.list /etc/apt/sources.list.d/*")
    machine.write("/etc/systemd/system/repository.service", SERVER)
    repository.publish(machine)
    machine.run("systemctl", "start", "repository.service")
    machine.run("sh", "-c", f"until curl --silent --fail --output /dev/null {ADDRESS}/msi-tokend.asc; do sleep 0.1; done")
    page = section((REPOSITORY / "docs/installation.md").read_text(), "## From an apt repository")
    [lines] = [text for language, text in blocks(page) if language == "console"]
    [sources] = [text for language, text in blocks(page) if language == "text"]
    assert PLACE in sources and PLACE in lines, (sources, lines)
    machine.write("/etc/apt/sources.list.d/msi-tokend.sources", sources.replace(PLACE, ADDRESS))
    for line in lines.splitlines():
        assert line.startswith("# "), line
        machine.run("sh", "-c", f"export DEBIAN_FRONTEND=noninteractive; {line[2:].replace(PLACE, ADDRESS)} < /dev/null")
    assert installed(machine) == repository.version and active(machine)
    machine.run("usermod", "--append", "--groups", "msi-tokend", "member")
    assert get(machine, "member").returncode == 0
    assert ADDRESS in machine.run("apt-cache", "policy", "msi-tokend")


def test_upgrade(machine, repository):
    """a newer version comes with `apt upgrade`, and by its number the older one comes back"""
    repository.add("+newer")
    repository.sign(repository.own)
    repository.publish(machine)
    apt(machine, "update")
    apt(machine, "upgrade")
    assert installed(machine) == repository.version + "+newer" and get(machine, "member").returncode == 0
    apt(machine, "install", "--allow-downgrades", f"msi-tokend={repository.version}")
    assert installed(machine) == repository.version and get(machine, "member").returncode == 0
    apt(machine, "upgrade")


def test_tampered(machine, repository):
    """a package that is not what was signed is refused, and what is installed stays and serves"""
    newest = repository.add("+newest")
    repository.sign(repository.own)
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    repository.publish(machine)
    apt(machine, "update")
    said = fails(machine, "upgrade")
    assert "Hash Sum mismatch" in said, said
    assert installed(machine) == repository.version + "+newer" and get(machine, "member").returncode == 0


def update_fails(machine, repository):
    """What apt says where it has to refuse the whole repository, in a system that has seen nothing of it before."""
    repository.publish(machine)
    machine.run("sh", "-c", "rm --recursive --force /var/lib/apt/lists/*")
    said = fails(machine, "update")
    assert "cannot be downloaded" in apt(machine, "install", "--reinstall", "msi-tokend")
    assert get(machine, "member").returncode == 0
    return said


def test_tampered_index(machine, repository):
    """so is a list of packages that was made to fit it"""
    release = repository.directory / "dists/stable/InRelease"
    signed = release.read_bytes()
    repository.sign(repository.own)
    release.write_bytes(signed)
    said = update_fails(machine, repository)
    assert "mismatch" in said or "unexpected size" in said, said


def test_tampered_release(machine, repository):
    """so is a list of lists that was changed after it was signed"""
    repository.sign(repository.own)
    release = repository.directory / "dists/stable/InRelease"
    release.write_text(release.read_text().replace("Origin: msi-tokend", "Origin: somebody"))
    said = update_fails(machine, repository)
    assert "signature" in said.lower(), said


def test_foreign_key(machine, repository):
    """so is all that another key signed, also one that the system trusts for other repositories"""
    repository.sign(repository.foreign)
    assert "signature" in update_fails(machine, repository).lower()
    machine.copy_in(repository.directory / "msi-tokend.asc", "/etc/apt/trusted.gpg.d/somebody.asc", 0o644)
    assert "signature" in update_fails(machine, repository).lower()


def test_unsigned(machine, repository):
    """so is what nobody signed"""
    (repository.directory / "dists/stable/InRelease").unlink()
    assert "Release" in update_fails(machine, repository)


def test_again(machine, repository):
    """signed by its own key it is taken again"""
    next(repository.package.parent.glob("*newest*")).unlink()
    repository.sign(repository.own)
    repository.publish(machine)
    apt(machine, "update")
    apt(machine, "install", "--reinstall", "msi-tokend")
    assert get(machine, "member").returncode == 0
