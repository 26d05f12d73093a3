"""What the package says about the programs, against the programs."""

import os
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

from packages import apt_install
from places import BINARIES, CACHE, REPOSITORY

PACKAGING = REPOSITORY / "packaging"


def plain(page):
    """A manual page's text as a reader sees it, without line breaks or hyphenation."""
    done = subprocess.run(["man", "--warnings", "--local-file", page], capture_output=True, text=True, check=True,
                          env=os.environ | {"MANWIDTH": "2000", "MANROFFOPT": "-rHY=0", "LC_ALL": "C.UTF-8"})
    assert not done.stderr, done.stderr
    return re.sub(r".\x08", "", done.stdout)


def help_of(program, *command):
    return subprocess.run([BINARIES / program, *command, "--help"], capture_output=True, text=True, check=True).stdout


def options(text):
    return set(re.findall(r"--[a-z][a-z-]+", re.sub(r"(?m)^(?! +(-\w, )?--).*$", "", text)))


def options_of(*command):
    """The options of a command of msi-token and of its own commands."""
    text = help_of("msi-token", *command)
    below = subcommands(text) if "\nCommands:\n" in text else []
    return options(text).union(*(options_of(*command, name) for name in below))


def subcommands(text):
    listed = text.split("Commands:\n", 1)[1].split("\n\n", 1)[0]
    return [name for name in re.findall(r"^  ([a-z-]+)\b", listed, re.MULTILINE) if name != "help"]


def test_usermod():
    """the line that puts the reader into the group names him, typed as root, in a root shell by sudo, and after sudo"""
    for page in ["README.md", "docs/installation.md"]:
        line, = re.findall(r"^# (usermod .*)$", (REPOSITORY / page).read_text(), re.MULTILINE)
        with tempfile.TemporaryDirectory() as directory:
            for name, script in [("usermod", 'printf "%s\\n" "$@"'), ("id", "echo typist"), ("sudo", 'SUDO_USER=typist exec "$@"')]:
                Path(directory, name).write_text(f"#!/bin/sh\n{script}\n")
                Path(directory, name).chmod(0o755)
            for typed, environment, whom in [
                (line, {}, "typist"), (line, {"SUDO_USER": ""}, "typist"), (line, {"SUDO_USER": "someone"}, "someone"),
                (f"sudo {line}", {}, "typist"), (f"sudo {line}", {"USER": "other"}, "typist"),
            ]:
                for shell in ["sh", "bash"]:
                    done = subprocess.run([shell, "-c", typed], capture_output=True, text=True, check=True,
                                          env={"PATH": f"{directory}:/usr/bin:/bin"} | environment)
                    assert done.stdout.split() == ["--append", "--groups", "msi-tokend", whom], (page, typed, environment, done)


def test_daemon_page():
    """msi-tokend(8) has every option of the daemon, and no other"""
    page = plain(PACKAGING / "man/msi-tokend.8")
    section = re.search(r"^OPTIONS\n(.*?)^\w", page, re.MULTILINE | re.DOTALL)[1]
    assert options(section) == options(help_of("msi-tokend")), (options(section), options(help_of("msi-tokend")))


def test_client_page():
    """msi-token(1) has every command and option of the client, and no other"""
    page = plain(PACKAGING / "man/msi-token.1")
    commands = subcommands(help_of("msi-token"))
    described = re.search(r"^COMMANDS\n(.*?)^\w", page, re.MULTILINE | re.DOTALL)[1]
    assert set(re.findall(r"^ {7}([a-z][a-z-]*)\b", described, re.MULTILINE)) == set(commands), commands
    known = options(help_of("msi-token")).union(*map(options_of, commands))
    section = re.search(r"^OPTIONS\n(.*?)^\w", page, re.MULTILINE | re.DOTALL)[1]
    assert options(section) == known, (options(section) ^ known)


def test_file_page():
    """msi-tokend.toml(5) has every key of the configuration and no other, with the right defaults"""
    schema = (REPOSITORY / "src/config/schema.rs").read_text()
    page = plain(PACKAGING / "man/msi-tokend.toml.5")
    known = {key for key in re.findall(r'v\.value\(\s*"(\w+)"', schema)}
    said = set(re.findall(r"^ {7}(\w+) = ", page, re.MULTILINE))
    assert len(known) > 25 and said == known, said ^ known
    # The packaged file's commented settings are the defaults; tests/examples.rs holds it to that.
    defaults = re.findall(r'^#(\w+) = ("[^"]*"|\w+)', (REPOSITORY / "config/config.toml").read_text(), re.MULTILINE)
    for key, value in defaults:
        for shown in re.findall(rf"^ {{7}}{key} = (.*)$", page, re.MULTILINE):
            assert shown.replace("”", '"').replace("“", '"') in (value, '"..."'), (key, value, shown)


def test_keep_page():
    """msi-token-keep.toml(5) has every key of the settings and no other"""
    schema = (REPOSITORY / "src/config/keep.rs").read_text()
    known = set(re.findall(r'v\.value\("(\w+)", &mut self\.\w+, &Optional', schema)) - {"port"} | {"pgpass"}
    page = plain(PACKAGING / "man/msi-token-keep.toml.5")
    said = set(re.findall(r"^ {7}(\w+) = ", page, re.MULTILINE)) - {"file"}
    assert len(known) > 8 and said == known, said ^ known
    login = set(re.findall(r'v\.value\("(\w+)", &mut self\.\w+, &(?:Pattern|Optional\(Port\))', schema))
    assert login == set(re.findall(r"(\w+) = ", re.search(r"pgpass = \{(.*?)\}", page)[1])), login


def test_version():
    """all files that name the version agree on it, and on what the programs say"""
    done = subprocess.run([PACKAGING / "check-version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done
    for program in ["msi-tokend", "msi-token"]:
        said = subprocess.run([BINARIES / program, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.split()[-1] == done.stdout.strip(), said


def test_rust():
    """where a page says that building needs Rust, it says which one, and that is Cargo.toml's"""
    with open(REPOSITORY / "Cargo.toml", "rb") as file:
        version = tomllib.load(file)["package"]["rust-version"]
    for page in ["README.md", "docs/installation.md"]:
        said = re.findall(r"\bneeds Rust(?: (\d[\d.]*\d))?", (REPOSITORY / page).read_text())
        assert said and set(said) == {version}, (page, said)


def test_cloud_init():
    """cloud-init's own schema tool takes the snippet, and refuses it with a key misspelt"""
    snippet = PACKAGING / "cloud-init.yaml"
    done = cloud_init_schema(snippet)
    assert done.returncode == 0, done
    with tempfile.TemporaryDirectory() as directory:
        broken = Path(directory, "broken.yaml")
        broken.write_text(snippet.read_text().replace("permissions:", "permission:"))
        assert cloud_init_schema(broken).returncode != 0


def cloud_init_schema(path):
    """Runs `cloud-init schema` out of Debian's package, unpacked: installed, it would configure this machine."""
    unpacked = CACHE / "cloud-init"
    if not unpacked.exists():
        # What the package depends on, less what only a machine that it configures needs.
        libraries = ["configobj", "jinja2", "jsonpatch", "jsonschema", "netifaces", "oauthlib", "requests", "serial", "yaml"]
        apt_install(*(f"python3-{name}" for name in libraries))
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["apt-get", "download", "cloud-init"], cwd=directory, check=True, capture_output=True)
            [package] = Path(directory).glob("*.deb")
            CACHE.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)
    return subprocess.run(["/usr/bin/python3", "-m", "cloudinit.cmd.main", "schema", "--config-file", path],
                          env=os.environ | {"PYTHONPATH": str(unpacked / "usr/lib/python3/dist-packages")},
                          capture_output=True, text=True, check=False)
