"""What unmodified SDKs get through the loopback listener. Run by `run`, which gives it a network of its own."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]
import pages
from checks import checking, run
from places import REPOSITORY, open_directory
from stage import CACHE, GO, JAVA, MANAGED, PORT, SELECTORS, SYSTEM, USER, Stage, assert_token
from users import STRANGER
from visitors import Visitors

LIBRARIES = ["azure-identity", "azure-identity aio", "msal", "@azure/identity"]
# Those that are tried by sdk.env alone.
LED = GO + JAVA
# As an API that wants newer proof sends it in a WWW-Authenticate header.
CHALLENGE = json.dumps({"access_token": {"nbf": {"essential": True, "value": "1700000000"}}})


def variables(stage):
    """The three ways to lead an SDK here."""
    return {
        "IDENTITY_ENDPOINT": stage.sdk_env(),
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://127.0.0.1:{PORT}"},
        "MSI_ENDPOINT": {"MSI_ENDPOINT": f"http://127.0.0.1:{PORT}/oauth2/token"},
    }


def identities(stage):
    """ManagedIdentityCredential with each selector, and DefaultAzureCredential, by each variable: one cache for all."""
    before = stage.upstream_requests()
    for variable, environment in variables(stage).items():
        for library in LIBRARIES:
            if (variable, library) == ("MSI_ENDPOINT", "msal"):
                continue  # msal has no public way to use it
            for name, (selector, identity) in SELECTORS.items():
                if variable == "MSI_ENDPOINT" and name != "none":
                    continue  # the SDKs themselves refuse
                with checking(f"{library} by {variable}, selector: {name}"):
                    with stage.application(library, MANAGED | selector, environment) as application:
                        assert_token(application.get(), identity)
            if library != "msal":
                with checking(f"{library} by {variable}, DefaultAzureCredential"):
                    with stage.application(library, {"credential": "default"}, environment) as application:
                        assert_token(application.get(), SYSTEM)
    for library in LED:
        for name, (selector, identity) in SELECTORS.items():
            with checking(f"{library} by sdk.env, selector: {name}"):
                with stage.application(library, MANAGED | selector, stage.sdk_env()) as application:
                    assert_token(application.get(), identity)
    for library in ("azidentity for Go", "azure-identity for Java"):
        with checking(f"{library} by sdk.env, DefaultAzureCredential"):
            with stage.application(library, {"credential": "default"}, stage.sdk_env()) as application:
                assert_token(application.get(), SYSTEM)
    with checking("all of them together caused one upstream request for each selector"):
        assert stage.upstream_requests() - before == len(SELECTORS), stage.upstream_requests() - before


def challenges_and_restarts(stage):
    for library in LIBRARIES:
        with stage.application(library, MANAGED, stage.sdk_env()) as application:
            # @azure/identity does not pass claims on for managed identities: its own cache serves.
            asks = 0 if library == "@azure/identity" else 1
            with checking(f"{library}: a claims challenge is answered, by way of the daemon {asks} times"):
                assert_token(application.get(), SYSTEM)
                hits = stage.hits()
                assert_token(application.get(), SYSTEM)
                assert stage.hits() == hits, "the SDK's own cache serves when nothing is challenged"
                assert_token(application.get(claims=CHALLENGE), SYSTEM)
                assert stage.hits() == hits + asks, stage.hits() - hits
            with checking(f"{library}: the daemon stopped and started again between two calls"):
                stage.restart_daemon()
                answer = application.get(scope="https://management.azure.com/.default")
                assert_token(answer, SYSTEM, "https://management.azure.com")


def restarts(stage):
    for library in LED:
        with stage.application(library, MANAGED, stage.sdk_env()) as application:
            with checking(f"{library}: the daemon stopped and started again between two calls"):
                assert_token(application.get(), SYSTEM)
                stage.restart_daemon()
                answer = application.get(scope="https://management.azure.com/.default")
                assert_token(answer, SYSTEM, "https://management.azure.com")


def crowd(stage):
    with checking("50 processes at once cause one upstream request"):
        before, scope = stage.upstream_requests(), "https://vault.azure.net/.default"
        stage.slow_down("https://vault.azure.net")
        with contextlib.ExitStack() as stack:
            applications = [
                stack.enter_context(stage.application("msal", MANAGED, stage.sdk_env())) for _ in range(50)
            ]
            for application in applications:
                application.begin(scope=scope)
            answers = [application.end() for application in applications]
        assert len({answer.get("token") for answer in answers}) == 1, answers
        assert stage.upstream_requests() - before == 1


def strangers(stage):
    before = stage.upstream_requests()
    for variable, environment in variables(stage).items():
        for library in LIBRARIES:
            if (variable, library) == ("MSI_ENDPOINT", "msal"):
                continue
            with checking(f"{library} by {variable}: another user is refused and told what is missing"):
                with stage.application(library, MANAGED, environment, uid=STRANGER) as application:
                    error = application.get().get("error", "a token")
                    for part in (str(STRANGER), "journalctl -u msi-tokend", "msi-token explain"):
                        assert part in error, error
    for library in LED:
        with checking(f"{library} by sdk.env: another user is refused and told what is missing"):
            with stage.application(library, MANAGED, stage.sdk_env(), uid=STRANGER) as application:
                error = application.get().get("error", "a token")
                for part in (str(STRANGER), "journalctl -u msi-tokend", "msi-token explain"):
                    assert part in error, error
    with checking("no refusal reached the endpoint"):
        assert stage.upstream_requests() == before


def proxies(stage):
    proxy = Visitors(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{proxy.listener.getsockname()[1]}"
    through = {"HTTP_PROXY": url, "http_proxy": url}
    for library in LIBRARIES + LED:
        with checking(f"{library}: sdk.env keeps requests away from a proxy"):
            with stage.application(library, MANAGED, stage.sdk_env() | through) as application:
                assert_token(application.get(), SYSTEM)
            assert proxy.count == 0
    with checking("(and without its NO_PROXY the proxy would have got it)"):
        bare = {key: value for key, value in stage.sdk_env().items() if key.lower() != "no_proxy"}
        with stage.application("azure-identity", MANAGED, bare | through) as application:
            assert "error" in application.get()
        assert proxy.count > 0


def old_commands(stage):
    """The lines of the documents of 2017, as they stand."""
    for line in (
        'curl http://localhost:50342/oauth2/token --data "resource=https://storage.azure.com/" -H Metadata:true',
        "curl 'http://localhost:50342/oauth2/token?resource=https%3A%2F%2Fstorage.azure.com%2F' -H Metadata:true -s",
    ):
        with checking(line):
            answer = json.loads(stage.run(["bash", "-c", line]).stdout)
            assert_token({"token": answer["access_token"]}, SYSTEM)
            assert answer["refresh_token"] == "" and answer["resource"] == "https://storage.azure.com/", answer


def readme(stage):
    """README.md's program on the listener; those of docs/sdks.md on the Unix socket, by no variable and no port."""
    (program,) = [text for language, text in pages.blocks((REPOSITORY / "README.md").read_text()) if language == "python"]
    page = (REPOSITORY / "docs/sdks.md").read_text().replace("/run/msi-tokend/msi-tokend.sock", str(stage.daemon.socket))
    shown = dict(pages.blocks(pages.section(page, "## Azure SDKs over the Unix socket")))
    programs = {language: shown[language] for language in ("python", "js", "rust")}

    def gets_token(command, environment=None, identity=SYSTEM):
        done = stage.run(command, environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert_token({"token": done.stdout.strip()}, identity)

    with checking("README.md: Python by sdk.env"):
        (stage.directory / "readme.py").write_text(program)
        gets_token([CACHE / "python/bin/python", "readme.py"], stage.sdk_env(), USER)
    with checking("docs/sdks.md: Python over the Unix socket"):
        (stage.directory / "page.py").write_text(programs["python"])
        gets_token([CACHE / "python/bin/python", "page.py"])
    with checking("docs/sdks.md: Node.js over the Unix socket"):
        (stage.directory / "page.mjs").write_text(programs["js"])
        gets_token([next((CACHE / "node-runtime").glob("node_modules/*/bin/node"), "node"), "page.mjs"])
    with checking("docs/sdks.md: Rust over the Unix socket"):
        gets_token([build("unix-socket", programs["rust"])])
    for name, environment, identity, text in zip(("listener", "socket"), (stage.sdk_env(), None), (USER, SYSTEM), go_programs(page)):
        with checking(f"docs/sdks.md: Go over the {name}"):
            gets_token([build_go(stage.directory / f"go-{name}", text)], environment, identity)
    with checking("azure_identity for Rust by IDENTITY_ENDPOINT"):
        program = re.sub(r"    let client = .*?;\n    let options = .*?;\n", "", programs["rust"], flags=re.S)
        program = program.replace("Some(options)", "None").replace(", ManagedIdentityCredentialOptions", "")
        program = re.sub(r"use (std::sync|azure_core::http).*\n", "", program)
        done = stage.run([build("environment", program)], stage.sdk_env())
        assert done.returncode == 0, done.stderr
        assert_token({"token": done.stdout.strip()}, SYSTEM)


def go_programs(page):
    return [text for language, text in pages.blocks(pages.section(page, "## Go")) if language == "go"]


def build_go(directory, program):
    """Builds one of the Go programs with the dependencies that are there already."""
    directory.mkdir()
    for name in ["go.mod", "go.sum"]:
        shutil.copy(HERE / "go" / name, directory)
    (directory / "main.go").write_text(program)
    subprocess.run(["go", "-C", directory, "build", "-o", "program", "."], check=True, env=os.environ | {"CGO_ENABLED": "0", "GOPROXY": "off"})
    return directory / "program"


def build(name, program):
    """Builds one of the Rust programs with the dependencies that are there already."""
    package = CACHE / "rust"
    (package / f"src/bin/{name}.rs").write_text(program)
    cargo = ["cargo", "build", "--quiet", "--locked", "--offline", "--manifest-path", package / "Cargo.toml"]
    subprocess.run([*cargo, "--bin", name], check=True, env=os.environ | {"CARGO_TARGET_DIR": str(package / "target")})
    return package / "target/debug" / name


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open_directory() as directory:
        stage = Stage(directory)
        try:
            for part in (identities, challenges_and_restarts, restarts, crowd, strangers, proxies, old_commands, readme):
                part(stage)
            with checking("no token is in the daemon's log"):
                assert "eyJ" not in stage.daemon.logged()
        finally:
            stage.end()


run(main)
