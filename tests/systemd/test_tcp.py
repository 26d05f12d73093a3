"""Rules by unit and group over the loopback listener: what the kernel tells of a TCP socket's maker."""

import json
import subprocess

from booted import HERE
from checks import wait_for
from service import configure, installed, main_pid

CALLER = "/usr/local/lib/tcp_caller.py"
# One resource for each question, so that each has a record of its own.
RULES = """
[[allow]]
units = ["app.service", "sub.service", "worker@7.service", "dynamic.service", "maker.service"]
"""


def address(machine):
    return machine.show("msi-tokend-sdk.socket", "Listen")["Listen"].split()[0]


def command(machine, *arguments):
    return ["python3", CALLER, address(machine), *map(str, arguments)]


def unit(name, *options, user="stranger"):
    who = [f"--uid={user}"] if user else []
    return ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", *who, f"--unit={name}", *options]


def in_unit(machine, name, *arguments, options=(), user="stranger"):
    """What the caller prints when systemd runs it as that unit."""
    return json.loads(machine.run(*unit(name, *options, user=user), *command(machine, *arguments)))


def reload(machine, rules):
    configure(machine, "50-tcp", rules)
    machine.run("systemctl", "reload", "msi-tokend.service")


def recorded_unit(machine, resource):
    """The unit in the one record about this resource, which has the id of the cgroup where there is none."""
    records = wait_for("a record", lambda: machine.journal(f"RESOURCE={resource}", "VERDICT=allowed", "+",
                                                           f"RESOURCE={resource}", "VERDICT=denied"))
    assert len(records) == 1 and ("UNIT" in records[0]) != ("CGROUP" in records[0]), records
    return records[0].get("UNIT")


def test_units(machine):
    """system, DynamicUser and nested-slice units, and groups that a unit made below its own, are that unit's"""
    installed(machine)
    machine.copy_in(HERE / "tcp_caller.py", CALLER, 0o644)
    machine.run("systemctl", "enable", "--now", "msi-tokend-sdk.socket")
    reload(machine, RULES)
    for name, resource, options, user in [
        ("app.service", "https://system/", (), "stranger"),
        ("dynamic.service", "https://dynamic/", ("--property=DynamicUser=yes",), None),
        ("worker@7.service", "https://nested/", ("--slice=batch-nightly.slice",), "stranger"),
    ]:
        assert in_unit(machine, name, "ask", resource, options=options, user=user) == [200], name
        assert recorded_unit(machine, resource) == name
    below = in_unit(machine, "sub.service", "below", "worker/one", "https://below/", options=("--property=Delegate=yes",))
    assert below == 200, below
    assert recorded_unit(machine, "https://below/") == "sub.service"


def test_records(machine):
    """a refusal names the unit also where no rule knows it, and below it"""
    assert in_unit(machine, "nobodys.service", "ask", "https://nobodys/") == [403]
    assert recorded_unit(machine, "https://nobodys/") == "nobodys.service"
    delegated = ("--property=Delegate=yes",)
    assert in_unit(machine, "nobodys.service", "below", "a/b/c", "https://below-nobodys/", options=delegated) == 403
    assert recorded_unit(machine, "https://below-nobodys/") == "nobodys.service"


def test_look_alikes(machine):
    """a user's unit, a container's and a scope are not taken for the unit whose name they carry"""
    uid = machine.run("id", "--user", "stranger")
    text = " ".join(command(machine, "ask", "https://users-own/"))
    machine.write("/home/stranger/.config/systemd/user/app.service",
                  f"[Service]\nType=oneshot\nExecStart={text}\nStandardOutput=file:%t/answer\n")
    machine.run("systemctl", "start", f"user@{uid}.service")
    machine.run("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user", "start", "app.service", user="stranger")
    assert json.loads(machine.run("cat", f"/run/user/{uid}/answer")) == [403]
    assert recorded_unit(machine, "https://users-own/") == f"user@{uid}.service"
    payload = in_unit(machine, "machine-c.service", "below", "payload/system.slice/app.service", "https://payload/",
                      options=("--property=Delegate=yes",))
    assert payload == 403 and recorded_unit(machine, "https://payload/") == "machine-c.service"
    scope = machine.run("systemd-run", "--quiet", "--scope", "--uid=stranger", "--unit=docker-abc.scope",
                        *command(machine, "ask", "https://scope/"))
    assert json.loads(scope) == [403] and recorded_unit(machine, "https://scope/") == "docker-abc.scope"


def test_outside(machine):
    """a caller outside of any unit has none"""
    assert machine.python((HERE / "tcp_caller.py").read_text(), address(machine), "ask", "https://outside/",
                          user="stranger") == [403]
    assert recorded_unit(machine, "https://outside/") is None


def test_moved(machine):
    """what counts is the group in which the socket was made, wherever the process moves afterwards"""
    group = "/sys/fs/cgroup/system.slice/{}/cgroup.procs"
    machine.run("systemd-run", "--unit=other.service", "sleep", "infinity")
    machine.run("systemd-run", "--unit=app.service", "sleep", "infinity")
    for name, to, status in [("sub.service", "other.service", 200), ("mover.service", "app.service", 403)]:
        process = machine.popen(*unit(name), *command(machine, "moved", f"https://moved-to-{to}/"), stdin=subprocess.PIPE)
        assert json.loads(process.stdout.readline()) == "made"
        pid = machine.show(name, "MainPID")["MainPID"]
        machine.run("sh", "-c", f"echo {pid} > {group.format(to)}")
        assert f"/{to}\n" in machine.run("cat", f"/proc/{pid}/cgroup") + "\n"
        out, err = process.communicate(timeout=60)
        assert json.loads(out) == status, (name, out, err)
    machine.run("systemctl", "stop", "other.service", "app.service")


class Stopped:
    """The daemon stands still in the `with` block, and meets callers as they are afterwards."""

    def __init__(self, machine):
        self.machine = machine

    def __enter__(self):
        self.machine.kill("STOP", main_pid(self.machine))

    def __exit__(self, *_):
        self.machine.kill("CONT", main_pid(self.machine))


def holder(machine, path, count, resource):
    process = machine.popen(*command(machine, "hold", path, count, resource), stdin=subprocess.PIPE)
    wait_for("a place to hand sockets to", lambda: machine.try_("test", "-S", path).returncode == 0)
    return process


def answers(process):
    """All that a caller says, until it ends."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (process.returncode, out, err)
    return [json.loads(line) for line in out.splitlines()]


def start_maker(machine):
    """The unit, and the id of its group."""
    machine.run("systemd-run", "--unit=maker.service", "--uid=stranger", "sleep", "infinity")
    return machine.run("stat", "--format=%i", "/sys/fs/cgroup/system.slice/maker.service")


def hand_on(machine, path, count):
    """One more process of the unit makes sockets, hands them on and ends; the unit lives on."""
    machine.run("sh", "-c", "echo $$ > /sys/fs/cgroup/system.slice/maker.service/cgroup.procs;"
                " exec setpriv --reuid stranger --regid stranger --clear-groups "
                + " ".join(command(machine, "hand", path, count)))


def test_handed_on(machine):
    """a socket whose maker has ended is still its maker's, 200 of 200"""
    start_maker(machine)
    process = holder(machine, "/run/holder", 200, "https://handed-on/")
    with Stopped(machine):
        hand_on(machine, "/run/holder", 200)
        assert json.loads(process.stdout.readline()) == "holding"
    assert answers(process) == [[200] * 200]
    record = machine.journal("RESOURCE=https://handed-on/", "VERDICT=allowed")[0]
    assert (record["UID"], record["UNIT"]) == (machine.run("id", "--user", "stranger"), "maker.service"), record


def test_removed(machine):
    """the id outlives its group, and no new group of that name has it: only what was known before is known"""
    first = machine.run("stat", "--format=%i", "/sys/fs/cgroup/system.slice/maker.service")
    known = holder(machine, "/run/known", 1, "https://known/")
    hand_on(machine, "/run/known", 1)
    machine.run("systemctl", "stop", "maker.service")
    assert machine.try_("test", "-e", "/sys/fs/cgroup/system.slice/maker.service").returncode != 0
    assert answers(known) == ["holding", [200]]

    second = start_maker(machine)
    unknown = holder(machine, "/run/unknown", 1, "https://unknown/")
    hand_on(machine, "/run/unknown", 1)
    machine.run("systemctl", "stop", "maker.service")
    third = start_maker(machine)
    assert len({first, second, third}) == 3
    assert answers(unknown) == ["holding", [403]], "the daemon met that id only when its group was gone"
    machine.run("systemctl", "stop", "maker.service")


def test_gone(machine):
    """a process that has ended and closed its socket is nobody: not root, and not its unit"""
    with Stopped(machine):
        machine.run(*unit("app.service"), *command(machine, "gone", "https://gone/", 50))
    assert in_unit(machine, "app.service", "ask", "https://after/") == [200]
    assert machine.journal("RESOURCE=https://gone/") == []


def test_handles(machine):
    """a group cannot be opened by its id without a capability, so there is no way around looking for it"""
    program = """
import ctypes, errno, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(struct.pack("II", 128, 0) + bytes(128))
mount = ctypes.c_int()
path = b"/sys/fs/cgroup/system.slice"
assert libc.name_to_handle_at(-100, path, handle, ctypes.byref(mount), 0) == 0, os.strerror(ctypes.get_errno())
directory = os.open("/sys/fs/cgroup", os.O_RDONLY)
opened = libc.open_by_handle_at(directory, handle, os.O_RDONLY | os.O_DIRECTORY)
print(json.dumps(errno.errorcode[ctypes.get_errno()] if opened < 0 else "opened"))
"""
    assert machine.python(program, user="stranger") == "EPERM"


def test_forty(machine):
    """40 users in units of their own with 50 connections each: not one wrong answer"""
    users = range(40)
    machine.run("sh", "-c", "for n in $(seq 0 39); do useradd --uid $((20000 + n)) many-$n; done")
    rules = [f'[[allow]]\nusers = ["{20_000 + n}"]\nunits = ["many-{n}.service"]\nresources = ["https://many-{n}/"]\n'
             for n in users]
    # Whoever is taken for another user or another unit gets what only that one may have.
    rules += [f'[[allow]]\nunits = ["many-{n}.service"]\nresources = ["https://unit-{n}/"]\n' for n in users]
    rules.append("[cache]\nmax_tokens = 200\n[limits]\nmax_connections = 4000\n")
    reload(machine, "".join(rules))
    callers = [machine.popen(*unit(f"many-{n}.service", user=f"many-{n}"),
                             *command(machine, "many", 50, f"https://many-{n}/", f"https://unit-{(n + 1) % 40}/"))
               for n in users]
    found = [answers(caller) for caller in callers]
    assert found == [[{"200 403": 50}]] * 40, found


def test_groups(machine):
    """a rule with groups goes by the account: members, those who have it as their primary group, and no process's own"""
    machine.run("groupadd", "--gid", "30000", "readers")
    machine.run("useradd", "--gid", "readers", "primary")
    reload(machine, '[[allow]]\ngroups = ["readers"]\n')

    def status(user, *groups):
        return machine.python((HERE / "tcp_caller.py").read_text(), address(machine), "ask", "https://readers/",
                              user=user, groups=groups)

    assert in_unit(machine, "x.service", "ask", "https://readers/", user="primary") == [200]
    assert in_unit(machine, "x.service", "ask", "https://readers/") == [403]
    # A group that only the process has, for example by SupplementaryGroups=, does not count.
    assert status("stranger", "readers") == [403]
    # The files change, and nobody reloads.
    machine.run("usermod", "--append", "--groups", "readers", "stranger")
    wait_for("a member", lambda: status("stranger") == [200])
    machine.run("gpasswd", "--delete", "stranger", "readers")
    wait_for("no member", lambda: status("stranger") == [403])
    machine.run("usermod", "--gid", "stranger", "primary")
    wait_for("another primary group", lambda: status_of_primary(machine) == [403])


def status_of_primary(machine):
    return in_unit(machine, "x.service", "ask", "https://readers/", user="primary")
