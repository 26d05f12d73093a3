"""The stand-in for the metadata service's identity endpoint."""

import subprocess

import unix_http
from places import BINARIES


class Endpoint:
    """A running `msi-emulator serve` on loopback."""

    def __init__(self, *arguments, binaries=BINARIES):
        self.command = [binaries / "msi-emulator", "serve", *arguments]
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        """Starts it; again, on the port that it had."""
        command = [*self.command, "--listen", self.address]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{command} did not start")
        self.address = line.removeprefix("listening on ").strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @property
    def url(self):
        """What `upstream.endpoint` is set to."""
        return f"http://{self.address}/metadata/identity/oauth2/token"

    def ask(self, target, **how):
        host, port = self.address.split(":")
        reply = unix_http.ask((host, int(port)), target, **how)
        if reply.status >= 300:
            raise RuntimeError(f"{target}: {reply}")
        return reply

    def script(self, toml):
        """Makes it misbehave by `[[fault]]` steps."""
        self.ask("/emulator/script", method="PUT", body=toml)

    def count(self):
        """How many token requests there were."""
        return self.ask("/emulator/requests").json()["count"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
