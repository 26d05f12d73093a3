"""What unmodified SDKs get where the lock leads them: no variable, no change. Run by `run`, which gives it a network of its
own, in which 169.254.169.254 is the stand-in and nothing else is there."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]
from behind_lock import ADDRESS, NETWORK, AtItsAddress, Locked
from checks import check, checking, run
from places import open_directory
from stage import MANAGED, SELECTORS, SYSTEM, Stage, assert_token
from users import FRIEND, STRANGER

LIBRARIES = ["azure-identity", "azure-identity aio", "msal", "@azure/identity", "azidentity for Go", "MSAL for Go",
             "azure-identity for Java", "msal4j"]
DEFAULT = ["azure-identity", "@azure/identity", "azidentity for Go", "azure-identity for Java"]


class LockedStage(Stage):
    """As [`Stage`], with the lock in place of the loopback listener."""

    def __init__(self, directory):
        self.directory = directory
        self._place_clients()
        subprocess.run(["sh", "-c", NETWORK], check=True)
        self.endpoint = AtItsAddress("--any-address", "--identities", self._place_identities())
        self.daemon = Locked(directory, self.endpoint, f'[[allow]]\nusers = ["{FRIEND}"]\n')
        self.daemon.start()

    def refusals(self):
        """How many token requests no rule allowed."""
        text = self.daemon.ask("/metrics").text
        return int(re.search(r'^msi_tokend_denied_total\{reason="no_rule"\} (\d+)$', text, re.M)[1])


def timed(application):
    """What it says, and after how many seconds."""
    began = time.monotonic()
    return application.get(), time.monotonic() - began


def allowed(stage):
    """After how many seconds the slowest had its first token."""
    before, slowest = stage.upstream_requests(), 0
    for library in LIBRARIES:
        for name, (selector, identity) in SELECTORS.items():
            with checking(f"{library} without any variable, selector: {name}"):
                with stage.application(library, MANAGED | selector, {}) as application:
                    answer, seconds = timed(application)
                    assert_token(answer, identity)
                    slowest = max(seconds, slowest)
    for library in DEFAULT:
        with checking(f"{library} without any variable, DefaultAzureCredential"):
            with stage.application(library, {"credential": "default"}, {}) as application:
                assert_token(application.get(), SYSTEM)
    with checking("all of them together caused one upstream request for each selector"):
        assert stage.upstream_requests() - before == len(SELECTORS), stage.upstream_requests() - before
    return slowest


def denied(stage, slowest):
    """None hangs: an SDK that tries again does so for half a minute and more."""
    before = stage.upstream_requests()
    for library in LIBRARIES:
        with checking(f"{library}: another user is refused at once, and told what is missing"):
            refusals = stage.refusals()
            with stage.application(library, MANAGED, {}, uid=STRANGER) as application:
                answer, seconds = timed(application)
            error = answer.get("error", "a token")
            for part in (str(STRANGER), "journalctl -u msi-tokend", "msi-token explain"):
                assert part in error, error
            # An SDK that took it for something that passes would ask again and again.
            assert stage.refusals() - refusals == 1, stage.refusals() - refusals
        check(f"{library}: it does not hang", seconds < 3 * slowest, measured=f"{seconds:.3f} s")
    for library in DEFAULT:
        with checking(f"{library}, DefaultAzureCredential: another user is refused, and asks no more than once"):
            refusals = stage.refusals()
            with stage.application(library, {"credential": "default"}, {}, uid=STRANGER) as application:
                answer, seconds = timed(application)
            assert "error" in answer
            assert stage.refusals() - refusals <= 1, stage.refusals() - refusals
        check(f"{library}, DefaultAzureCredential: it does not hang", seconds < 3 * slowest, measured=f"{seconds:.3f} s")
    with checking("no refusal reached the endpoint"):
        assert stage.upstream_requests() == before


def with_curl(stage):
    url = f"http://{ADDRESS.split(':')[0]}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com"
    command = ["curl", "--silent", "--header", "Metadata: true", url]
    with checking("curl with the address built in"):
        assert_token({"token": json.loads(stage.run(command).stdout)["access_token"]}, SYSTEM)
    with checking("curl of another user prints who asked for what and where an administrator looks"):
        answer = json.loads(stage.run(command, uid=STRANGER).stdout)
        assert answer["error"] == "access_denied", answer
        for part in (str(STRANGER), "https://storage.azure.com", "journalctl -u msi-tokend"):
            assert part in answer["error_description"], answer


def main():
    with open_directory() as directory:
        stage = LockedStage(directory)
        try:
            slowest = allowed(stage)
            with_curl(stage)
            denied(stage, slowest)
        finally:
            stage.end()


run(main)
