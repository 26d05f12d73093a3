"""The stand-in in the metadata service's place, and a daemon behind the lock. In a network namespace of the test's own."""

import os
import socket
import subprocess
import tomllib
from pathlib import Path

from daemon import Daemon
from endpoint import Endpoint
from places import BINARIES
from users import DAEMON

ADDRESS = "169.254.169.254:80"
LISTENER = ("127.0.0.1", 169)
NETWORK = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/msi-tokend-lock
ip link set lo up
ip address add 10.0.0.4/32 dev lo
ip address add 169.254.169.254/32 dev lo
ip route replace table local local 169.254.169.254 dev lo src 10.0.0.4
"""


class AtItsAddress(Endpoint):
    """The stand-in in the metadata service's place."""

    def start(self):
        self.address = ADDRESS
        super().start()


class Locked(Daemon):
    """A daemon to which systemd has passed the lock's socket, and the lock's rules loaded. Its endpoint is the real address,
    in this network of ours."""

    def __init__(self, directory, endpoint, more, listen="", binaries=BINARIES):
        sockets = directory / "daemon"
        sockets.mkdir(exist_ok=True)
        os.chown(sockets, DAEMON, DAEMON)
        self.listener = socket.create_server(LISTENER)
        config = (f'[upstream]\nendpoint = "{endpoint.url}"\n[listen]\nsocket = "{sockets}/msi-tokend.sock"\n{listen}\n'
                  f'[lock]\nmode = "enforce"\n{more}')
        super().__init__(directory, config, binaries=binaries, user=DAEMON, group=DAEMON, extra_groups=[],
                         pass_fds=[self.listener.fileno()])
        load = [binaries / "msi-token", "lock", "load", "--user", str(DAEMON), "--config", self.config]
        subprocess.run(load, check=True)

    def configure(self, text):
        self.socket = Path(tomllib.loads(text)["listen"]["socket"])
        self.config.write_text(text)
        self.config.chmod(0o644)

    @property
    def command(self):
        passed = f"exec 3<&{self.listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=lock"
        return ["bash", "-c", f'{passed}; exec "$0" --config "$1"', self.program, self.config]

    def unlock(self):
        """As without the lock; nobody is answered any more."""
        self.kill()
        self.listener.close()
        subprocess.run(["nft", "delete", "table", "ip", "msi_tokend"], check=True)
