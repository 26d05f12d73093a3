"""Containers and the daemon, as docs/containers.md has it."""

import re
import time

import fabric
import pages
from checks import wait_for
from engine import ASK, ASK_IMDS, IMAGES, STATUS, as_member, container, in_image, inside, prepare, refused, status
from own_package import raised
from places import REPOSITORY
from service import Callers, active, add_surroundings, configure, get, main_pid
from test_deb import apt
from unix_http import STORAGE

PAGE = (REPOSITORY / "docs/containers.md").read_text()
MAPPED = ("--uidmap", "0:200000:65536")
BARE = ("--cap-drop", "all", "--security-opt", "no-new-privileges")
SOCKET_FILE = "/run/msi-tokend/msi-tokend.sock:/run/file:ro"


def rules(machine, *allowed, root="any"):
    """Replaces the rules of these tests."""
    listed = "".join(f'[[allow]]\n{who}\nresources = ["{STORAGE}"]\ndefault_identity = true\n' for who in allowed)
    configure(machine, "50-containers", f'[access]\nroot = "{root}"\n{listed}')
    machine.run("systemctl", "reload", "msi-tokend.service")


def test_directory(machine, built):
    """root's container without a network has a token by the directory alone, mounted read-only"""
    fabric.add_network(machine)
    add_surroundings(machine)
    machine.copy_in(built.package, "/root/msi-tokend.deb", 0o644)
    apt(machine, "install", "/root/msi-tokend.deb")
    prepare(machine)
    assert status(machine) == "200"


def test_uids(machine, built):
    """uids of root's containers are the host's, by --uidmap others, and rules name them by number"""
    rules(machine, "users = [33, 200033]")
    assert [status(machine, "--user", user) for user in ("0", "33", "34")] == ["200", "200", "403"]
    assert [status(machine, *MAPPED, "--user", user) for user in ("0", "33", "34")] == ["403", "200", "403"]
    assert refused(machine, *MAPPED, "--user", "34").startswith("uid 200034 ")


def test_root(machine, built):
    """root of a container needs a rule where root does, and without capabilities it becomes nobody whom a rule names"""
    rules(machine, "users = [33]", root="rules")
    assert status(machine) == "403"
    become = ("setpriv", "--reuid=33", "--clear-groups", "id", "--user")
    assert inside(machine, *become).stdout == "33\n"
    assert inside(machine, *become, options=BARE).returncode != 0
    facts = inside(machine, "grep", "-E", "CapBnd|NoNewPrivs", "/proc/self/status", options=BARE).stdout
    assert re.findall(r"\w+", facts) == ["CapBnd", "0" * 16, "NoNewPrivs", "1"], facts
    assert [status(machine, *BARE, "--user", user) for user in ("0", "33")] == ["403", "200"]


def test_rootless(machine, built):
    """root of a user's container is that user, others are of /etc/subuid, and the user's groups come along where wanted"""
    first = int(machine.run("sh", "-c", "grep ^member: /etc/subuid").split(":")[1])
    rules(machine, 'users = ["member"]', f"users = [{first + 32}]")
    assert [status(machine, "--user", user, user="member") for user in ("0", "33", "34")] == ["200", "200", "403"]
    assert refused(machine, "--user", "34", user="member").startswith(f"uid {first + 33} ")
    uid = machine.run("id", "--user", "member")
    assert [status(machine, "--userns", "keep-id", "--user", user, user="member") for user in (uid, "0")] == ["200", "403"]
    # Before the first of its own, so that the rule of the packaged configuration is the one that counts.
    rules(machine)
    machine.run("usermod", "--append", "--groups", "msi-tokend", "member")
    assert get(machine, "member").returncode == 0
    assert [status(machine, *options, user="member") for options in ((), ("--group-add", "keep-groups"))] == ["403", "200"]
    machine.run("gpasswd", "--delete", "member", "msi-tokend")


def in_service(machine, *options):
    """The status that a container of the service app.service gets."""
    service = ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--unit=app.service", "--property=Delegate=yes")
    return machine.run(*service, *container("--user", "33", *options), *ASK, *STATUS)


def test_units(machine, built):
    """a container that a service starts has a scope that no rule can name, and with --cgroups=split the service's unit"""
    rules(machine, 'units = ["app.service"]')
    assert in_service(machine) == "403"
    assert re.fullmatch(r"www-data \(33\) in libpod-[0-9a-f]{64}\.scope", refused(machine, "--user", "33"))
    assert in_service(machine, "--cgroups=split") == "200"
    uid = machine.run("id", "--user", "member")
    assert refused(machine, user="member") == f"member ({uid}) in user@{uid}.service"


def test_quadlet(machine, built):
    """a quadlet is the unit that a rule names, where podman has quadlets"""
    if machine.run("podman", "--version").startswith("podman version 4.3"):
        return
    [text] = [text for language, text in pages.blocks(PAGE) if language == "ini"]
    text = text.replace("Image=IMAGE", f"Rootfs={IMAGES['root']}\nVolume=/usr:/usr:ro\nNetwork=none")
    machine.write("/etc/containers/systemd/app.container", text)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "app.service")
    assert machine.run("podman", "exec", "systemd-app", *ASK, *STATUS) == "200"
    machine.run("systemctl", "stop", "app.service")


def test_file(machine, built):
    """the socket's file outlives a restart of the service; where the socket is made anew, only the directory finds it"""
    start = ["podman", "run", "--detach", "--name", "both", *container("--volume", SOCKET_FILE)[3:], "sleep", "infinity"]
    machine.run(*start)

    def both():
        by_file = [argument.replace("/run/msi-tokend/msi-tokend.sock", "/run/file") for argument in ASK]
        return [machine.try_("podman", "exec", "both", *command, *STATUS).stdout for command in (ASK, by_file)]

    assert both() == ["200", "200"]
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert both() == ["200", "200"]
    machine.run("systemctl", "restart", "msi-tokend.socket")
    assert both() == ["200", "000"]
    machine.run("podman", "rm", "--force", "--time", "0", "both")


def test_client(machine, built):
    """msi-token works in a container of the host's uids, and in a user namespace refuses a server that it cannot name"""
    client = ("msi-token", "get", "--resource", STORAGE)
    done = inside(machine, *client)
    assert done.returncode == 0 and done.stdout.count(".") == 2, done
    rules(machine, 'users = ["member", 200000]')
    for where in ({"options": MAPPED}, {"user": "member"}):
        assert status(machine, *where.get("options", ()), user=where.get("user", "root")) == "200"
        done = inside(machine, *client, **where)
        assert done.returncode == 70 and "curl --unix-socket" in done.stderr, done


def loaded(machine):
    """Callers of eight kinds in one running container."""
    rules(machine, "users = [33]")
    return Callers(machine, within=container("--interactive", "--user", "33"))


def test_restarts(machine, built):
    """restarts of the service under a running container with eight clients: not one failed request"""
    pids = {main_pid(machine)}
    with loaded(machine) as callers:
        for _ in range(20):
            machine.run("systemctl", "restart", "msi-tokend.service")
            pids.add(main_pid(machine))
    served = callers.check()
    assert len(pids) == 21, len(pids)
    print(f"   20 restarts, {served} requests: {callers.answered}")


def test_upgrade(machine, built):
    """an upgrade of the package under a running container with eight clients: not one failed request"""
    pid = main_pid(machine)
    out = built.out / machine.name
    out.mkdir()
    machine.copy_in(raised(built.package, "+newer", out), "/root/newer.deb", 0o644)
    with loaded(machine) as callers:
        time.sleep(1)
        apt(machine, "install", "/root/newer.deb")
        time.sleep(1)
    served = callers.check()
    assert main_pid(machine) not in (0, pid) and active(machine)
    print(f"   {served} requests during the upgrade: {callers.answered}")


def by_networks(machine):
    """What containers get that ask the metadata service themselves, by network and by who runs them."""
    root = [status(machine, "--user", user, request=ASK_IMDS, network=network)
            for network, user in (("podman", "0"), ("host", "0"), ("host", "33"), ("host", "34"))]
    # podman 4.3 has no pasta.
    pasta = [] if machine.run("podman", "--version").startswith("podman version 4.3") else ["pasta"]
    own = {status(machine, request=ASK_IMDS, network=network, user="member") for network in ("slirp4netns", "host", *pasta)}
    return root, own


def enforced(machine):
    return "reject" in machine.try_("nft", "list", "chain", "ip", "msi_tokend", "close_forward").stdout


def test_lock(machine, built):
    """who asks the metadata service itself passes the daemon by on a bridge, and comes to it on the host's and a user's network"""
    rules(machine, 'users = [33, "member"]')
    machine.run("systemctl", "enable", "--now", "msi-tokend-lock.service")
    assert by_networks(machine) == (["200"] * 4, {"200"})
    configure(machine, "90-lock", '[lock]\nmode = "enforce"\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    wait_for("the rules of the mode", lambda: enforced(machine))
    assert by_networks(machine) == (["000", "200", "200", "403"], {"200"})
    # Again and again, since rules that are loaded anew count from 0.
    wait_for("the bridge's packets are told", lambda: status(machine, request=ASK_IMDS, network="podman") == "000"
             and re.search(r"From network bridges \d+ packets", machine.try_("msi-token", "lock", "status").stdout))
    assert status(machine, network="podman") == "200", "by the socket it has its token"
    rules(machine)
    assert by_networks(machine)[1] == {"403"}


def test_page(machine, built):
    """each command of the page works as it stands, with a directory in place of the image"""
    rules(machine, 'users = ["member", 33]')
    text = "".join(text for language, text in pages.blocks(PAGE) if language == "console")
    lines = text.replace("\\\n", "").splitlines()
    assert len(lines) == 4, lines
    for line in lines:
        user = {"#": "root", "$": "member"}[line[0]]
        command = in_image(line[2:], user)
        done = as_member(machine, *command) if user == "member" else machine.try_(*command)
        assert done.returncode == 0 and done.stdout, (line, done)
        if "oauth2/token" in line:
            assert '"token_type":"Bearer"' in done.stdout, done
