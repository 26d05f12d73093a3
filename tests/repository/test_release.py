"""packaging/release to its end: what it makes of a clean clone."""

import hashlib
import json
import subprocess

from test_refusals import git, release


def test_whole(directory, key):
    """one command makes of it the packages, lists of what they are made of, sums and a repository, in which older ones stay"""
    clone = directory / "clone"
    pool = directory / "out/apt/pool"
    pool.mkdir(parents=True)
    older = tree(directory / "older", "0.0.1")
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", older, pool / "msi-tokend_0.0.1_amd64.deb"], check=True,
                   stdout=subprocess.DEVNULL)
    done = release(clone, directory / "out", key)
    assert done.returncode == 0, done.stderr[-4000:]
    version = done.stdout.splitlines()[-1]
    names = [f"msi-tokend_{version}_{arch}" for arch in ["amd64", "arm64"]]
    files = [name + ending for name in names for ending in [".deb", ".cdx.json"]]
    made = {path.name for path in (directory / "out").iterdir()}
    assert made == {*files, "SHA256SUMS", "SHA256SUMS.asc", "apt"}, made
    assert not git(clone, "status", "--porcelain"), git(clone, "status", "--porcelain")


def test_sums(directory, key):
    """the sums are those of the files, and the key signed them"""
    out = directory / "out"
    subprocess.run(["gpg", "--batch", "--quiet", "--verify", "SHA256SUMS.asc", "SHA256SUMS"], cwd=out, check=True, capture_output=True)
    said = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert said == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in said} and len(said) == 4, said


def test_bills(directory, key):
    """each list of what a package is made of names the package"""
    for path in (directory / "out").glob("*.cdx.json"):
        component = json.loads(path.read_text())["metadata"]["component"]
        assert path.name.startswith(f"{component['name']}_{component['version']}_"), component


def test_repository(directory, key):
    """the repository has for each architecture its package, and the older one"""
    apt = directory / "out/apt"
    for arch, count in [("amd64", 2), ("arm64", 1)]:
        index = (apt / f"dists/stable/main/binary-{arch}/Packages").read_text()
        stanzas = [dict(line.split(": ", 1) for line in stanza.splitlines() if line[:1].strip())
                   for stanza in index.strip().split("\n\n")]
        assert len(stanzas) == count and {stanza["Architecture"] for stanza in stanzas} == {arch}, index
        for stanza in stanzas:
            assert stanza["SHA256"] == hashlib.sha256((apt / stanza["Filename"]).read_bytes()).hexdigest(), stanza


def tree(directory, version):
    """A package of that version, with nothing in it."""
    (directory / "DEBIAN").mkdir(parents=True)
    (directory / "DEBIAN/control").write_text(
        f"Package: msi-tokend\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody <nobody@example.invalid>\nDescription: none\n")
    return directory
