"""Debian's firewalls beside the lock while it enforces: ufw, firewalld, and rules in the kernel's older tables (iptables-legacy).
Whatever is done to them, the lock holds or is put back, what is said of it is true, and they keep their rules."""

import json

from checks import wait_for
from lock import LOST, RESTORED, SOCKET, UNIT, ask, installed_enforcing, state, table
from service import active, configure

# As administrators have it: what comes in is closed but for one port, a container's port is led on, and a rule on the way out.
LEGACY_RULES = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A OUTPUT -d 169.254.169.254/32 -p tcp -m owner --uid-owner stranger -m tcp --dport 80 -j REDIRECT --to-ports 8181
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -j DROP
-A OUTPUT -p tcp -m tcp --dport 25 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""
# What version 0.1.0's SECURITY.md would have been with iptables.
CLOSED = ["-d", "169.254.169.254", "-m", "owner", "!", "--uid-owner", "0", "-j", "REJECT"]


def holds(machine):
    """Now, by what callers get, and by what the daemon says when it has looked again."""
    assert table(machine)
    got = {user: ask(machine, user) for user in ("member", "stranger", "root")}
    assert got == {"member": "200", "stranger": "403", "root": "200"}, got
    wait_for("the daemon sees it", lambda: state(machine) == "locked")


def is_put_back(machine, *command):
    """What the command takes away comes again, and it is told as what it was."""
    lost, restored = len(machine.journal(LOST)), len(machine.journal(RESTORED))
    machine.run(*command)
    assert not table(machine)
    wait_for("it is told", lambda: len(machine.journal(RESTORED)) == restored + 1)
    assert len(machine.journal(LOST)) == lost + 1
    holds(machine)


def keeps(machine, theirs):
    """Their rules are the same after the lock is loaded again, is off, and is on."""
    before = theirs()
    for verb in ("reload", "stop", "start"):
        machine.run("systemctl", verb, UNIT)
        assert table(machine) == (verb != "stop")
        assert theirs() == before, verb
    holds(machine)


def test_enforced(machine):
    """the lock enforces, and whom a rule allows gets a token"""
    installed_enforcing(machine)


def saved(machine):
    lines = machine.run("iptables-legacy-save").splitlines()
    return [line.split(" [")[0] for line in lines if not line.startswith("#")]


def test_legacy(machine):
    """rules in the kernel's older tables and the lock leave each other alone, also a redirect of the same address"""
    machine.run("iptables-legacy-restore", stdin=LEGACY_RULES)
    assert "REDIRECT --to-ports 8181" in "\n".join(saved(machine))
    holds(machine)
    keeps(machine, lambda: saved(machine))
    for command in ("iptables-legacy -F", "iptables-legacy -t nat -F", "iptables-legacy -X", "iptables-nft -F"):
        machine.run(*command.split())
        holds(machine)
    machine.run("iptables-legacy-restore", stdin=LEGACY_RULES)
    holds(machine)
    is_put_back(machine, "nft", "flush", "ruleset")
    assert "-A INPUT -i lo -j ACCEPT" in saved(machine)


def test_legacy_closed(machine):
    """where a rule of the older tables closes the address, observing is refused, which would open it, and enforcing goes on"""
    machine.run("iptables-legacy", "-I", "OUTPUT", *CLOSED)
    configure(machine, "95-observe", '[lock]\nmode = "observe"\n')
    refused = machine.try_("systemctl", "reload", UNIT)
    said = machine.run("journalctl", "--unit", UNIT, "--output=cat")
    assert refused.returncode != 0 and "iptables-legacy closes 169.254.169.254 already" in said, said
    assert active(machine, UNIT)
    machine.run("rm", "/etc/msi-tokend/conf.d/95-observe.toml")
    machine.run("systemctl", "reload", UNIT)
    machine.run("iptables-legacy", "-D", "OUTPUT", *CLOSED)
    holds(machine)
    for table_ in ("filter", "nat"):
        machine.run("iptables-legacy", "-t", table_, "-F")
    machine.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")


def ufw(machine, *arguments):
    return machine.run("ufw", *arguments)


def test_ufw(machine):
    """ufw is switched on, loaded again, off and on, with either kind of iptables"""
    for kind in ("legacy", "nft"):
        for name in ("iptables", "ip6tables"):
            machine.run("update-alternatives", "--set", name, f"/usr/sbin/{name}-{kind}")
        ufw(machine, "allow", "22/tcp")
        ufw(machine, "--force", "enable")
        holds(machine)
        keeps(machine, lambda: ufw(machine, "status") + "\n".join(
            line for line in machine.run("iptables-save").splitlines() if line.startswith("-A")))
        for change in (["reload"], ["deny", "out", "25/tcp"], ["disable"], ["--force", "enable"]):
            ufw(machine, *change)
            holds(machine)
        is_put_back(machine, "nft", "flush", "ruleset")
        ufw(machine, "reload")
        holds(machine)
        assert "Status: active" in ufw(machine, "status")
        ufw(machine, "--force", "reset")
        holds(machine)


def test_ufw_closes(machine):
    """where ufw denies what goes out, callers hang until it lets them through, and doctor says so"""
    ufw(machine, "--force", "enable")
    ufw(machine, "default", "deny", "outgoing")
    # What the daemon and root need with and without the lock.
    ufw(machine, "allow", "out", "to", "169.254.169.254", "port", "80", "proto", "tcp")
    assert ask(machine, "member", seconds=2) == "000"
    said = machine.try_("msi-token", "doctor").stdout
    assert "ufw allow out to 127.0.0.1 port 169 proto tcp" in said, said
    ufw(machine, "allow", "out", "to", "127.0.0.1", "port", "169", "proto", "tcp")
    holds(machine)


def test_ufw_boots(machine):
    """after a boot with ufw both are there"""
    machine.run("systemctl", "enable", "ufw.service")
    machine.reboot()
    wait_for("the daemon runs", lambda: active(machine))
    holds(machine)
    assert "Status: active" in ufw(machine, "status")
    ufw(machine, "--force", "reset")
    machine.run("systemctl", "disable", "ufw.service")


def theirs_of_firewalld(machine):
    """Its rules, which it loads after systemd is told that it runs."""
    listed = ("nft", "--stateless", "list", "table", "inet", "firewalld")
    return wait_for("firewalld's rules", lambda: "8443" in (rules := machine.try_(*listed).stdout) and rules)


def test_firewalld(machine):
    """firewalld is started, loaded again, restarted, stopped and started"""
    machine.run("systemctl", "enable", "--now", "firewalld.service")
    machine.run("firewall-cmd", "--permanent", "--add-port=8443/tcp")
    holds(machine)
    for command in ("firewall-cmd --reload", "firewall-cmd --complete-reload", "systemctl restart firewalld.service",
                    "systemctl stop firewalld.service", "systemctl start firewalld.service"):
        machine.run(*command.split())
        holds(machine)
    keeps(machine, lambda: theirs_of_firewalld(machine))


def test_firewalld_loses(machine):
    """what flushes firewalld's rules with those of the lock is made up for"""
    is_put_back(machine, "nft", "flush", "ruleset")
    machine.run("systemctl", "restart", "firewalld.service")
    holds(machine)
    theirs_of_firewalld(machine)


def test_firewalld_boots(machine):
    """after a boot with firewalld both are there"""
    machine.reboot()
    wait_for("the daemon runs", lambda: active(machine) and active(machine, "firewalld.service"))
    holds(machine)
    theirs_of_firewalld(machine)
    ready = json.loads(machine.run("curl", "--silent", "--unix-socket", SOCKET, "http://localhost/ready"))
    assert ready["state"] == "ok", ready
