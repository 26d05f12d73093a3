"""The pretend VM: the stand-in endpoint, the daemon with its loopback listener, and applications on it."""

import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
BINARIES = pathlib.Path(os.environ["MSI_BIN_DIR"])
CACHE = pathlib.Path(os.environ["MSI_TEST_CACHE"], "azure-sdks")

SYSTEM = {"client_id": "11111111-0000-4000-8000-000000000001", "resource_id": "/subscriptions/S/virtualMachines/VM"}
USER = {
    "client_id": "22222222-0000-4000-8000-000000000002",
    "resource_id": "/subscriptions/S/resourcegroups/RG/providers/Microsoft.ManagedIdentity/userAssignedIdentities/APP",
}
# Uids that no account has; a rule allows the first.
FRIEND, STRANGER = 54320, 54321
# As in 2017, so that commands from then work unchanged. The network namespace is ours, and so are its ports.
PORT = 50342
PATIENCE = 60


def until(what, condition):
    """Waits for a condition."""
    for _ in range(PATIENCE * 20):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


class Stage:
    """`directory` is open to all users and vanishes with the test."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.chmod(0o755)
        self.socket = str(self.directory / "msi-tokend.sock")
        self._place_clients()
        identities = self._write(
            "identities.toml",
            "".join(
                f'[[identity]]\nclient_id = "{identity["client_id"]}"\nobject_id = "{identity["client_id"][::-1]}"\n'
                f'resource_id = "{identity["resource_id"]}"\nsystem_assigned = {json.dumps(identity is SYSTEM)}\n'
                for identity in (SYSTEM, USER)
            ),
        )
        self.emulator = subprocess.Popen(
            [BINARIES / "msi-emulator", "serve", "--identities", identities], stdout=subprocess.PIPE, text=True
        )
        self.endpoint = self.emulator.stdout.readline().removeprefix("listening on ").strip()
        assert self.endpoint.startswith("127.0.0.1:"), self.endpoint
        self.config = self._write(
            "config.toml",
            f'[upstream]\nendpoint = "http://{self.endpoint}/metadata/identity/oauth2/token"\n'
            f'[listen]\nsocket = "{self.socket}"\nsdk = "127.0.0.1:{PORT}"\n'
            f'[[allow]]\nusers = ["{FRIEND}"]\n',
        )
        self.start_daemon()

    def _write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def _place_clients(self):
        """Other users need not be able to read the repository."""
        for name in ("client.py", "client.mjs"):
            shutil.copy(HERE / name, self.directory)
            (self.directory / name).chmod(0o644)
        (self.directory / "node_modules").symlink_to(CACHE / "node/node_modules")

    def start_daemon(self):
        self.daemon = subprocess.Popen(
            [BINARIES / "msi-tokend", "--config", self.config], stderr=open(self.directory / "log", "a")
        )
        until("the daemon serves", self._is_live)

    def stop_daemon(self):
        self.daemon.terminate()
        assert self.daemon.wait(PATIENCE) == 0

    def _is_live(self):
        assert self.daemon.poll() is None, (self.directory / "log").read_text()
        try:
            return self.ask("/live")["live"]
        except OSError:
            return False

    def ask(self, path):
        """A document from the daemon's Unix socket, as root."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        connection.request("GET", path, headers={"Connection": "close"})
        return json.load(connection.getresponse())

    def upstream_requests(self):
        """How many token requests the endpoint has had."""
        connection = http.client.HTTPConnection(self.endpoint)
        connection.request("GET", "/emulator/requests", headers={"Connection": "close"})
        return json.load(connection.getresponse())["count"]

    def slow_down(self, resource):
        """The endpoint takes its time over the next request for this resource."""
        connection = http.client.HTTPConnection(self.endpoint)
        script = f'[[fault]]\nmatch = {{ resource = "{resource}" }}\ndelay = "3s"\n'
        connection.request("PUT", "/emulator/script", script, headers={"Connection": "close"})
        assert connection.getresponse().status < 300

    def hits(self):
        """How many requests the daemon has answered from its cache."""
        return sum(token["hits"] for token in self.ask("/status")["tokens"])

    def sdk_env(self):
        """What systemd would read for an application."""
        lines = (self.directory / "sdk.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def run(self, command, environment=None, uid=FRIEND):
        """Runs a program to its end, as an application's unit would have it run."""
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **self._as(uid, environment))

    def application(self, library, options, environment, uid=FRIEND):
        return Application(library, self.directory, options, self._as(uid, environment))

    def _as(self, uid, environment):
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | (environment or {})
        return {"env": environment, "cwd": self.directory, "user": uid, "group": uid, "extra_groups": []}


class Application:
    """A program with an SDK that runs on and asks when told to."""

    def __init__(self, library, directory, options, surroundings):
        if library == "@azure/identity":
            runtime = next((CACHE / "node-runtime").glob("node_modules/*/bin/node"), "node")
            command = [runtime, directory / "client.mjs"]
        else:
            command = [CACHE / "python/bin/python", "-W", "ignore", directory / "client.py"]
        self.process = subprocess.Popen(
            [*command, library, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **surroundings,
        )

    def begin(self, scope="https://storage.azure.com/.default", claims=None):
        self.process.stdin.write(json.dumps({"scope": scope, "claims": claims}) + "\n")
        self.process.stdin.flush()

    def end(self):
        line = self.process.stdout.readline()
        assert line, f"the application broke down: {self.process.stderr.read()[-2000:]}"
        return json.loads(line)

    def get(self, *arguments, **keywords):
        """{"token": …} or {"error": …}"""
        self.begin(*arguments, **keywords)
        return self.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
