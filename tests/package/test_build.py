"""The package file: built twice, and looked at."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

from own_package import build
from places import REPOSITORY


PROGRAMS = ["msi-tokend", "msi-token"]
# What `readelf --file-header` calls the processor.
ELF_MACHINES = {"amd64": "Advanced Micro Devices X86-64", "arm64": "AArch64"}


class Built:
    """Where the package is, once test_build has built it."""

    def __init__(self, out, architecture):
        self.out, self.architecture = out, architecture
        self.package = None

    def fields(self, *names):
        return subprocess.run(["dpkg-deb", "--field", self.package, *names], capture_output=True, text=True, check=True).stdout


def readelf(*arguments):
    return subprocess.run(["readelf", *arguments], capture_output=True, text=True, check=True).stdout


def test_build(built):
    """packaging/build-deb prints the path of a package; it checks the glibc symbols itself"""
    built.package = build(built.architecture, built.out / "first")
    assert built.package.exists() and re.fullmatch(rf"msi-tokend_\S+_{built.architecture}\.deb", built.package.name), built.package


def test_reproducible(built):
    """built again elsewhere, from a copy of the sources, it has the same bytes"""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "elsewhere")
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for name in tracked.strip("\0").split("\0"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, copy / name)
        again = build(built.architecture, built.out / "second", repository=copy, CARGO_TARGET_DIR=str(Path(directory, "target")))
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (built.package, again)]
    assert sums[0] == sums[1], sums


def test_lintian(built):
    """lintian has neither errors nor warnings"""
    done = subprocess.run(["lintian", "--fail-on", "error,warning", "--allow-root", built.package],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout + done.stderr


def test_architecture(built):
    """the package and its programs are for the architecture that was asked for"""
    assert built.fields("Architecture").strip() == built.architecture
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "--extract", built.package, directory], check=True)
        for program in PROGRAMS:
            header = readelf("--file-header", Path(directory, "usr/bin", program))
            assert re.search(r"Machine: +(.*)", header)[1] == ELF_MACHINES[built.architecture], header


def test_glibc(built):
    """the programs need no symbol newer than glibc 2.35, Ubuntu 22.04's, and neither does the dependency"""
    depends = built.fields("Depends")
    needed = re.search(r"libc6 \(>= 2\.(\d+)\)", depends)
    assert needed and int(needed[1]) <= 35, depends
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "--extract", built.package, directory], check=True)
        for program in PROGRAMS:
            symbols = readelf("--wide", "--dyn-syms", Path(directory, "usr/bin", program))
            versions = {int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", symbols)}
            assert versions and max(versions) <= 35, (program, versions)


def test_sbom(built):
    """it lists what the programs are made of, with versions, checksums and licences, and nothing of the builder"""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "--extract", built.package, directory], check=True)
        text = Path(directory, "usr/share/doc/msi-tokend/msi-tokend.cdx.json").read_text()
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "msi-tokend"), text[:1000]
    listed = {(part["name"], part["version"]) for part in bill["components"] if part["hashes"] and part["licenses"]}
    locked = tomllib.loads(Path(REPOSITORY, "Cargo.lock").read_text())["package"]
    assert listed <= {(part["name"], part["version"]) for part in locked}, listed
    assert {"hyper", "tokio", "serde_json"} <= {name for name, _ in listed}, listed
    assert str(REPOSITORY) not in text and "serialNumber" not in bill


def test_contents(built):
    """it has what is documented and not the stand-in; configuration is marked so; no path of the builder is in it"""
    listed = subprocess.run(["dpkg-deb", "--contents", built.package], capture_output=True, text=True, check=True).stdout
    for path in ["usr/bin/msi-tokend", "usr/bin/msi-token", "etc/msi-tokend/config.toml",
                 "usr/lib/systemd/system/msi-tokend.service", "usr/lib/systemd/catalog/msi-tokend.catalog",
                 "usr/lib/sysusers.d/msi-tokend.conf", "usr/lib/systemd/system-preset/90-msi-tokend.preset",
                 "usr/share/man/man8/msi-tokend.8.gz", "usr/share/man/man1/msi-token.1.gz",
                 "usr/share/man/man5/msi-tokend.toml.5.gz", "usr/share/bash-completion/completions/msi-token",
                 "usr/share/zsh/vendor-completions/_msi-token", "usr/share/fish/vendor_completions.d/msi-token.fish",
                 "usr/share/doc/msi-tokend/examples/storage-backup.toml", "usr/share/doc/msi-tokend/changelog.gz",
                 *(f"usr/share/doc/msi-tokend/{page.name}" for page in [*REPOSITORY.glob("docs/*.md"), REPOSITORY / "CHANGELOG.md"]),
                 "usr/share/doc/msi-tokend/copyright", "usr/share/doc/msi-tokend/examples/azure-arc.conf",
                 "usr/share/doc/msi-tokend/examples/grafana-dashboard.json"]:
        assert f" ./{path}\n" in listed, path
    assert "emulator" not in listed, listed
    assert re.search(r"^-rwx--x--x (?:root/root|0/0) .* \./usr/bin/msi-tokend$", listed, re.MULTILINE), listed
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "--raw-extract", built.package, directory], check=True)
        assert "/etc/msi-tokend/config.toml\n" in Path(directory, "DEBIAN/conffiles").read_text()
        home = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo")).encode()
        for program in Path(directory, "usr/bin").iterdir():
            for path in [home, str(REPOSITORY).encode()]:
                assert path not in program.read_bytes(), (program.name, path)
