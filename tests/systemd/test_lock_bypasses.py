"""Ways around the lock, as an ordinary user that no rule is for, and what other programs and failures do to it."""

from booted import HERE
from checks import wait_for
from lock import LOST, UNIT, ask, installed_enforcing, table
from service import main_pid, upstream_requests

# What a token request got, or why it was not even made. None of them is a token, and none hangs but what is said to.
REFUSED = {403, "ECONNREFUSED", "ECONNRESET", "EPERM", "EACCES", "ENETUNREACH", "EHOSTUNREACH", "failed", "closed"}
# Kernels need not have these.
MAY_BE_MISSING = {"MPTCP": {"EPROTONOSUPPORT", "ENOPROTOOPT", "EINVAL"}, "SMC": {"EAFNOSUPPORT", "EPROTONOSUPPORT"}}


def test_enforced(machine):
    """the lock enforces, and whom a rule allows gets a token"""
    installed_enforcing(machine)


def test_systemd_imds(machine):
    """systemd's own client of the metadata service is exempt where it has a user"""
    assert not uses_the_service(machine, "systemd-imds")
    machine.run("useradd", "--system", "systemd-imds")
    machine.run("systemctl", "reload", UNIT)
    assert uses_the_service(machine, "systemd-imds") and not uses_the_service(machine, "stranger")
    machine.run("userdel", "systemd-imds")
    machine.run("systemctl", "reload", UNIT)


def uses_the_service(machine, user):
    """Whether it asks the metadata service itself."""
    before = upstream_requests(machine)
    return ask(machine, user) == "200" and upstream_requests(machine) > before


def test_bypasses(machine):
    """no way that an unprivileged user has leads to a token, and the metadata service hears of none"""
    # A gateway that follows source routes, and one that does not.
    for follows in (0, 1):
        for where in ("all", "eth0", "lo"):
            machine.run("nsenter", "--net=/run/netns/fabric", "sh", "-c",
                        f"echo {follows} > /proc/sys/net/ipv4/conf/{where}/accept_source_route;"
                        "echo 1 > /proc/sys/net/ipv4/ip_forward")
        before = upstream_requests(machine)
        came_to = machine.python((HERE / "bypasses.py").read_text(), user="stranger")
        for name, outcome in came_to.items():
            good = outcome in REFUSED | MAY_BE_MISSING.get(name, set())
            # A redirected connection cannot be made through an interface that it is tied to.
            good = good or name.startswith("bound to") and outcome == "hangs"
            good = good or name.endswith("namespace") and outcome == "403"
            assert good, (name, outcome, came_to)
        assert upstream_requests(machine) == before, came_to
    assert table(machine) and ask(machine, "stranger") == "403"


def test_other_programs(machine):
    """a start, reload or restart of nftables loads the lock with it, and what flushes the rules is made up for"""
    for verb in ("start", "reload", "restart"):
        machine.run("systemctl", verb, "nftables.service")
        wait_for(f"they survive a {verb}", lambda: table(machine))
        assert ask(machine, "stranger") == "403"
    assert not machine.journal(LOST), "the daemon has not missed them"
    machine.run("nft", "-f", "/etc/nftables.conf")
    assert not table(machine)
    wait_for("the rules are there again", lambda: table(machine))
    assert ask(machine, "stranger") == "403" and len(machine.journal(LOST)) == 1


def test_killed(machine):
    """who asks while the daemon is killed waits, and none is lost"""
    for _ in range(5):
        machine.kill("KILL", main_pid(machine))
        assert [ask(machine, user) for user in ("member", "stranger")] == ["200", "403"]


def test_reloaded(machine):
    """a reload of the rules breaks no answer that is under way"""
    emulator = "http://169.254.169.254/emulator/script"
    fault = '[[fault]]\nmatch = { resource = "https://slow/" }\ndelay = "3s"\n'
    machine.run("curl", "--silent", "--fail", "--request", "PUT", "--data-binary", fault, emulator)
    url = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://slow/"
    waits = machine.popen("curl", "--silent", "--max-time", "60", "--header", "Metadata: true", "--output", "/dev/null",
                          "--write-out", "%{http_code}", url, user="member")
    for _ in range(3):
        machine.run("systemctl", "reload", UNIT)
    out, _ = waits.communicate(timeout=90)
    assert out == "200", out
