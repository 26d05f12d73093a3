"""A certificate authority that speaks ACME and takes every challenge as met: Debian's pebble, with its name server."""

import contextlib
import json
import os
import socket
import subprocess

from checks import wait_for

NAME, PORT = "acme.example.com", 14000


@contextlib.contextmanager
def acme(authority):
    """It runs, and so does the name server that programs ask whether a challenge is to be seen."""
    settings = authority.directory / "pebble.json"
    settings.write_text(json.dumps({"pebble": {
        "listenAddress": f"127.0.0.1:{PORT}", "managementListenAddress": "127.0.0.1:15000", "httpPort": 5002, "tlsPort": 5001,
        "certificate": str(authority.certificate), "privateKey": str(authority.key),
    }}))
    # Each order has to meet its challenge anew, and nothing is refused by chance.
    environment = os.environ | {"PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0",
                                "PEBBLE_WFE_NONCEREJECT": "0"}
    names = ["pebble-challtestsrv", "-dns01", "127.0.0.1:53", "-http01", "", "-https01", "", "-tlsalpn01", ""]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(["pebble", "-config", settings], env=environment, **quiet) as pebble, \
            subprocess.Popen(names, **quiet) as name_server:
        try:
            wait_for("pebble listens", lambda: pebble.poll() is not None or listens(PORT))
            yield
        finally:
            pebble.kill()
            name_server.kill()


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
