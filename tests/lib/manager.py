"""The part of systemd that a daemon's cache needs: it takes the memory that a daemon hands over by sd_notify(3) and passes it
to the next one by sd_listen_fds(3)."""

import array
import os
import socket
import time

from checks import PATIENCE, wait_for
from daemon import Daemon


class Managed(Daemon):
    """A daemon that is passed what the one before it left, as descriptor 3. `LISTEN_PID` is its own, which exec keeps."""

    held = None

    @property
    def command(self):
        if self.held is None:
            return super().command
        listen = f'exec 3<&{self.held}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=tokens exec "$@"'
        return ["sh", "-c", listen, "sh", *super().command]


class Manager:
    def __init__(self, directory, name="notify"):
        self.directory, self.held = directory, None
        self.path = directory / name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(0.05)

    def daemon(self, binaries, config, **options):
        """A daemon, not started, that gets what the one before left."""
        environment = {"NOTIFY_SOCKET": str(self.path), "PATH": os.environ["PATH"]}
        passed = [] if self.held is None else [self.held]
        daemon = Managed(self.directory, config, binaries=binaries, env=environment, pass_fds=passed, **options)
        daemon.held = self.held
        return daemon

    def stop(self, daemon):
        """Ends a daemon and keeps what it hands over last."""
        daemon.process.terminate()
        wait_for("the daemon ends", lambda: self.read() or daemon.process.poll() is not None)
        wait_for("its last message is read", lambda: not self.read() and daemon.process.poll() is not None)

    def read(self):
        """One message; nothing if there was none for a moment."""
        try:
            data, control, *_ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        except (TimeoutError, BlockingIOError):
            return b""
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and b"FDSTORE=1" in data:
                if self.held is not None:
                    os.close(self.held)
                [self.held] = array.array("i", payload)
        return data

    def read_until(self, message):
        end = time.monotonic() + PATIENCE
        while message not in self.read():
            if time.monotonic() > end:
                raise TimeoutError(f"{message} did not come")
