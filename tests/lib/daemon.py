"""A daemon in front of the stand-in."""

import ipaddress
import shutil
import signal
import subprocess
import tomllib
import urllib.parse
from pathlib import Path

import unix_http
from checks import PATIENCE, wait_for
from places import BINARIES


def configuration(endpoint, socket, upstream="", listen="", more=""):
    """A configuration that names its endpoint and its socket. `upstream` and `listen` are more keys of these tables."""
    return (
        f'[upstream]\nendpoint = "{endpoint.url}"\n{upstream}\n'
        f'[listen]\nsocket = "{socket}"\n{listen}\n{more}\n'
    )


def read(text):
    """A configuration as tables; refused where it does not name an endpoint on loopback, since the endpoint that it would
    have by default is, on a VM, somebody's real metadata service."""
    tables = tomllib.loads(text)
    endpoint = tables.get("upstream", {}).get("endpoint")
    if endpoint is None:
        raise ValueError(f"a daemon in a test names its endpoint, and this configuration does not:\n{text}")
    if not ipaddress.ip_address(urllib.parse.urlsplit(endpoint).hostname).is_loopback:
        raise ValueError(f"the endpoint of a daemon in a test is on loopback, and {endpoint} is not")
    return tables


class Daemon:
    """A daemon with its configuration, its log and, by the configuration, its socket in `directory`. `options` are
    subprocess's: with `user` it is that user's process."""

    def __init__(self, directory, config, name="msi-tokend", binaries=BINARIES, **options):
        self.program = binaries / "msi-tokend"
        if "user" in options:
            # The build's folder may be closed to other users.
            self.program = shutil.copy(self.program, directory)
        self.config = directory / f"{name}.toml"
        self.log = directory / f"{name}.log"
        self.log.touch()
        self.options = options
        self.process = None
        self.configure(config)

    def configure(self, text):
        """Replaces the configuration at once; nobody is told."""
        self.socket = Path(read(text)["listen"]["socket"])
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self.config)

    @property
    def command(self):
        read(self.config.read_text())
        return [self.program, "--config", self.config]

    def spawn(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, **{"stderr": log} | self.options)
        return self

    def start(self):
        """Starts it and waits until it answers."""
        self.spawn()
        wait_for("the daemon answers", self._is_live)
        return self

    def _is_live(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.logged()}")
        try:
            return self.ask("/live").status == 200
        except OSError:
            return False

    def ask(self, target, **how):
        return unix_http.ask(self.socket, target, **how)

    def token(self, resource=unix_http.STORAGE, **more):
        return self.ask(unix_http.token_target(resource, **more))

    def is_ready(self):
        return self.ask("/ready").status == 200

    @property
    def pid(self):
        return self.process.pid

    def logged(self):
        return self.log.read_text(errors="replace")

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
