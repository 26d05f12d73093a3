"""0.1.0 installed and used; then this version, 0.1.0 and this version again, each under callers."""

from checks import wait_for
from service import Callers, active, add_surroundings, configure, get, main_pid, upstream_requests

# The caller's own; the callers ask for another one.
VAULT = "https://vault.azure.net"
CHANGED = "# changed by the administrator"


def change_version(machine, package):
    """Installs the package under callers, none of whom has a failure. Returns what of the endpoint was asked meanwhile."""
    pid, before = main_pid(machine), upstream_requests(machine)
    with Callers(machine) as callers:
        apt(machine, f"/root/{package.name}")
        wait_for("the service runs anew", lambda: active(machine) and main_pid(machine) not in (0, pid))
        assert get(machine, "member").returncode == 0
    print(f"   {callers.check()} requests meanwhile: {callers.answered}")
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "msi-tokend") == package.name.split("_")[1]
    return upstream_requests(machine) - before


def apt(machine, package):
    # As docs/installation.md has it for where nobody can answer: both versions and the administrator have changed the file.
    machine.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--allow-downgrades",
                "-o", "Dpkg::Options::=--force-confold", "install", package)


def keeps_configuration(machine):
    """The rule of a file of its own, and the line in the file of the package."""
    assert get(machine, "stranger", VAULT).returncode == 0
    assert get(machine, "stranger").returncode == 77
    assert CHANGED in machine.run("cat", "/etc/msi-tokend/config.toml")
    machine.run("msi-tokend", "--check")


def sdk_status(machine, environment):
    """What a program of the stranger's gets that systemd leads to the loopback listener by that environment file."""
    curl = ('curl --silent --output /dev/null --write-out "%{http_code}" --header "X-IDENTITY-HEADER: $IDENTITY_HEADER" '
            f'"$IDENTITY_ENDPOINT?api-version=2019-08-01&resource={VAULT}"')
    return machine.try_("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--uid=stranger",
                        f"--property=EnvironmentFile={environment}", "sh", "-c", curl).stdout


def test_old(machine, old, new):
    """0.1.0 is installed, configured, with its loopback listener on, and has two tokens"""
    add_surroundings(machine)
    for package in [old, new]:
        machine.copy_in(package, f"/root/{package.name}", 0o644)
    apt(machine, f"/root/{old.name}")
    machine.run("usermod", "--append", "--groups", "msi-tokend", "member")
    configure(machine, "50-mine", f'[[allow]]\nusers = ["stranger"]\nresources = ["{VAULT}"]\n')
    machine.run("sh", "-c", f"echo '{CHANGED}' >> /etc/msi-tokend/config.toml")
    machine.run("systemctl", "reload", "msi-tokend.service")
    assert get(machine, "member").returncode == 0
    keeps_configuration(machine)
    machine.run("systemctl", "enable", "msi-tokend-sdk.socket")
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert sdk_status(machine, "/run/msi-tokend/sdk.env") == "200"
    assert upstream_requests(machine) == 2


def test_upgrade(machine, old, new):
    """the upgrade fails no request, keeps the configuration, and asks the endpoint for nothing: the cache is taken over. The
    loopback listener is on its new address"""
    asked = change_version(machine, new)
    keeps_configuration(machine)
    assert sdk_status(machine, "/usr/share/msi-tokend/sdk.env") == "200"
    assert asked == 0 and upstream_requests(machine) == 2, asked


def test_downgrade(machine, old, new):
    """the downgrade fails no request and keeps the configuration; 0.1.0 does not read the newer cache and asks once for each token"""
    asked = change_version(machine, old)
    keeps_configuration(machine)
    assert asked == 1 and upstream_requests(machine) == 4, (asked, upstream_requests(machine))
    # Its package does not restart the socket, whose address has changed again.
    machine.run("systemctl", "stop", "msi-tokend-sdk.socket")
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert sdk_status(machine, "/run/msi-tokend/sdk.env") == "200"
    said = [record["MESSAGE"] for record in machine.journal("-u", "msi-tokend.service")]
    assert any("the cache starts empty" in line for line in said), said[-20:]


def test_upgrade_again(machine, old, new):
    """so does the next upgrade, also while the endpoint is away"""
    machine.run("systemctl", "stop", "emulator.service")
    pid = main_pid(machine)
    with Callers(machine) as callers:
        apt(machine, f"/root/{new.name}")
        wait_for("the service runs anew", lambda: active(machine) and main_pid(machine) not in (0, pid))
        keeps_configuration(machine)
    callers.check()
