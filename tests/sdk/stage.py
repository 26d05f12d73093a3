"""The pretend VM: the stand-in endpoint, the daemon with its loopback listener, and applications on it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import places
from checks import PATIENCE
from daemon import Daemon, configuration
from endpoint import Endpoint
from tokens import claims_of
from users import FRIEND, as_user

HERE = Path(__file__).resolve().parent
CACHE = places.CACHE / "azure-sdks"

SYSTEM = {"client_id": "11111111-0000-4000-8000-000000000001", "resource_id": "/subscriptions/S/virtualMachines/VM"}
USER = {
    # The one that README.md's program names.
    "client_id": "73444643-8088-4d70-9532-c3a0fdc190fa",
    "resource_id": "/subscriptions/S/resourcegroups/RG/providers/Microsoft.ManagedIdentity/userAssignedIdentities/APP",
}
MANAGED = {"credential": "managed"}
SELECTORS = {
    "none": ({}, SYSTEM),
    "client id": ({"client_id": USER["client_id"]}, USER),
    "resource id": ({"resource_id": USER["resource_id"]}, USER),
}
# As in 2017, so that commands from then work unchanged. The network namespace is ours, and so are its ports.
PORT = 50342


GO = ["azidentity for Go", "MSAL for Go", "adal"]
JAVA = ["azure-identity for Java", "msal4j", "the JDK's HttpClient"]


def assert_token(answer, identity, resource="https://storage.azure.com"):
    """The answer is a token of this identity for this resource."""
    assert "token" in answer, answer
    claims = claims_of(answer["token"])
    assert claims["appid"] == identity["client_id"], claims
    assert claims["aud"].rstrip("/") == resource, claims


class Stage:
    """`directory` is open to all users and vanishes with the test. A rule allows FRIEND."""

    def __init__(self, directory):
        self.directory = directory
        self._place_clients()
        self.endpoint = Endpoint("--identities", self._place_identities())
        listen, more = f'sdk = "127.0.0.1:{PORT}"', f'[[allow]]\nusers = ["{FRIEND}"]\n'
        self.daemon = Daemon(directory, configuration(self.endpoint, directory / "msi-tokend.sock", listen=listen, more=more))
        self.daemon.start()

    def restart_daemon(self):
        """Stopped and started again: what running programs were given stays good."""
        self.daemon.stop()
        self.daemon.start()

    def end(self):
        self.daemon.kill()
        self.endpoint.kill()

    def _place_clients(self):
        """Other users need not be able to read the repository."""
        for name in ("client.py", "client.mjs"):
            shutil.copy(HERE / name, self.directory)
            (self.directory / name).chmod(0o644)
        (self.directory / "node_modules").symlink_to(CACHE / "node/node_modules")

    def _place_identities(self):
        identities = self.directory / "identities.toml"
        identities.write_text(
            "".join(
                f'[[identity]]\nclient_id = "{identity["client_id"]}"\nobject_id = "{identity["client_id"][::-1]}"\n'
                f'resource_id = "{identity["resource_id"]}"\nsystem_assigned = {json.dumps(identity is SYSTEM)}\n'
                for identity in (SYSTEM, USER)
            )
        )
        return identities

    def upstream_requests(self):
        """How many token requests the endpoint has had."""
        return self.endpoint.count()

    def slow_down(self, resource):
        """The endpoint takes its time over the next request for this resource."""
        self.endpoint.script(f'[[fault]]\nmatch = {{ resource = "{resource}" }}\ndelay = "3s"\n')

    def hits(self):
        """How many requests the daemon has answered from its cache."""
        return sum(token["hits"] for token in self.daemon.ask("/status").json()["tokens"])

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
        return {"env": environment, "cwd": self.directory} | as_user(uid)


class Application:
    """A program with an SDK that runs on and asks when told to."""

    def __init__(self, library, directory, options, surroundings):
        if library == "@azure/identity":
            runtime = next((CACHE / "node-runtime").glob("node_modules/*/bin/node"), "node")
            command = [runtime, directory / "client.mjs"]
        elif library in GO:
            command = [CACHE / "go/client"]
        elif library in JAVA:
            command = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{CACHE / 'java'}:{CACHE / 'java/lib'}/*", "Client"]
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
