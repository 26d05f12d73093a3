"""What takes longer than a short run has."""

import contextlib
import os
import signal
import socket
import struct

from inside import SOCKET, curl, life, run, show, status, systemd_said
from load import callers, withstands


def test_upgrade():
    """the package installed again under callers fails no request"""
    before = show("msi-tokend.service", "MainPID")
    with callers():
        run("dpkg", "--install", "/root/msi-tokend.deb", env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    assert show("msi-tokend.service", "MainPID") != before


def test_tokens():
    """so it is with answers that hold tokens"""
    withstands("tokens, unread")


def test_sdk():
    """so it is with everything that the loopback listener answers"""
    withstands("SDK listener, unread")


def test_all():
    """so it is with everything at every listener, some of it read"""
    withstands("all at once")


def test_lingering():
    """a descriptor that takes an hour to close, which somebody sends, makes nobody wait"""
    before = life()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as attacker:
        slow = socket.create_connection(listener.getsockname())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while slow.send(bytes(16384)):
                pass
        attacker.connect(SOCKET)
        # The daemon's copy is to be the last one.
        os.kill(int(before[0]), signal.SIGSTOP)
        with contextlib.suppress(PermissionError):
            socket.send_fds(attacker, [b"GET "], [slow.fileno()])
        slow.close()
        attacker.close()
        os.kill(int(before[0]), signal.SIGCONT)
        # A daemon that waits answers nobody.
        assert status(curl(SOCKET)) == 200
    assert life() == before, systemd_said()
