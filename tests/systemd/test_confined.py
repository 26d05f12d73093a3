"""Programs that are confined, by their own unit: what docs/troubleshooting.md, "The program that asks is confined", says of
each."""

from places import REPOSITORY
from service import RESOURCE, configure, installed

PAGE = REPOSITORY / "docs/troubleshooting.md"
SOCKET = "/run/msi-tokend/msi-tokend.sock"
ASK = ["msi-token", "get", RESOURCE]
ASK_LISTENER = ["curl", "--silent", "--show-error", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}",
                "--header", "Metadata: true", f"http://127.0.0.1:343/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}"]


def confined(machine, properties, command=ASK, user="member"):
    """What a program of a unit with these properties is told."""
    who = [f"--property=User={user}"] if user else []
    return machine.try_("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit=confined.service", *who,
                        *(f"--property={each}" for each in properties), *command)


def assert_named(*names):
    """The page's section has each of these."""
    section = PAGE.read_text().split("\n## The program that asks is confined\n")[1].split("\n## ")[0]
    for name in names:
        assert name in section, name


def test_served(machine):
    """what leaves the socket and the address family alone is served over the Unix socket"""
    installed(machine)
    configure(machine, "10-confined", '[[allow]]\nusers = ["member"]\n')
    machine.run("systemctl", "reload", "msi-tokend")
    for name in ["ProtectSystem=strict", "PrivateTmp=yes", "ProtectHome=yes", "NoNewPrivileges=yes", "PrivateUsers=yes",
                 "PrivateNetwork=yes", "IPAddressDeny=any"]:
        assert_named(name)
        done = confined(machine, [name])
        assert done.returncode == 0 and done.stdout.startswith("eyJ"), (name, done)
    everything = confined(machine, ["ProtectSystem=strict", "PrivateTmp=yes", "ProtectHome=yes", "PrivateUsers=yes", "PrivateNetwork=yes"])
    assert everything.returncode == 0, everything


def test_listener(machine):
    """over the loopback listener a unit without the machine's network is not, and one with an address filter by an exception"""
    machine.run("systemctl", "enable", "--now", "msi-tokend-sdk.socket")
    assert confined(machine, [], ASK_LISTENER).stdout == "200"
    assert confined(machine, ["PrivateNetwork=yes"], ASK_LISTENER).returncode == 7, "connection refused"
    denied = confined(machine, ["IPAddressDeny=any"], ASK_LISTENER)
    excepted = confined(machine, ["IPAddressDeny=any", "IPAddressAllow=localhost"], ASK_LISTENER)
    assert denied.returncode == 28 and excepted.stdout == "200", (denied, excepted)
    assert_named("IPAddressAllow=localhost")
    machine.run("systemctl", "disable", "--now", "msi-tokend-sdk.socket")


def test_families(machine):
    """without AF_UNIX nothing is asked, and the message is in the page"""
    done = confined(machine, ["RestrictAddressFamilies=AF_INET"])
    assert done.returncode == 69 and "Address family not supported by protocol" in done.stderr, done
    assert confined(machine, ["RestrictAddressFamilies=AF_INET AF_UNIX"]).returncode == 0
    assert_named("RestrictAddressFamilies=", "Address family not supported by protocol")


def test_hidden(machine):
    """where /run is hidden there is no socket, unless its directory is bound into the unit"""
    for name, code, message in [("TemporaryFileSystem=/run", 69, "there is no socket"), ("InaccessiblePaths=/run/msi-tokend", 77, "permission denied")]:
        done = confined(machine, [name])
        assert done.returncode == code and message in done.stderr, (name, done)
        assert_named(name, message)
    assert confined(machine, ["TemporaryFileSystem=/run", "BindReadOnlyPaths=/run/msi-tokend"]).returncode == 0
    assert_named("BindReadOnlyPaths=/run/msi-tokend")


def test_dynamic_user(machine):
    """a user that is there only while its unit runs is known by the unit, and a rule with its name matches nobody"""
    configure(machine, "20-dynamic", '[[allow]]\nusers = ["confined"]\n')
    machine.run("systemctl", "reload", "msi-tokend")
    refused = confined(machine, ["DynamicUser=yes"], user=None)
    assert refused.returncode == 77 and "in confined.service" in refused.stderr, refused
    configure(machine, "20-dynamic", '[[allow]]\nunits = ["confined.service"]\n')
    machine.run("systemctl", "reload", "msi-tokend")
    assert confined(machine, ["DynamicUser=yes"], user=None).returncode == 0
    assert_named("DynamicUser=yes")
