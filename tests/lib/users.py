"""Other users, as the kernel tells them to the daemon. Without root there is one user, who plays all parts."""

import contextlib
import json
import os
import signal
import traceback

ROOT = os.geteuid() == 0
# Of nobody on any system: the daemon, one that may have all, one that may have some, one that may have nothing.
DAEMON, FRIEND, GUEST, STRANGER = range(1918281, 1918285) if ROOT else [os.geteuid()] * 4


def as_user(uid):
    """Options for subprocess that run a program as `uid`, with no group but its own."""
    return {"user": uid, "group": uid, "extra_groups": []} if ROOT else {}


def become(uid):
    """This process is `uid`'s from here on."""
    if ROOT:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


@contextlib.contextmanager
def acting_as(uid):
    """Within the block the kernel tells others that `uid` connects to them."""
    own = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


def call_as(uid, function):
    """What `function` returns, JSON values only, in a process of `uid`. It must not import: another user may have no
    way to Python's files."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(uid)
            os.write(writer, json.dumps(function()).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


class UserProcess:
    """A process of `uid` that runs `function` with a way to tell lines, until it is ended."""

    def __init__(self, uid, function):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become(uid)
                function(lambda line: os.write(writer, f"{line}\n".encode()))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(writer)
        self.lines = os.fdopen(reader)

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.lines.close()
