"""What packaging/release refuses, before it builds anything."""

import os
import re
import subprocess

from places import REPOSITORY


def git(clone, *arguments):
    command = ["git", "-C", clone, "-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def release(clone, out, key):
    # Builds are shared with those of this tree: what is built of the same sources is built already.
    environment = os.environ | {"CARGO_TARGET_DIR": str(REPOSITORY / "target/package")}
    return subprocess.run([clone / "packaging/release", "--key", key, out], capture_output=True, text=True, env=environment)


def refused(clone, directory, key):
    done = release(clone, directory / "refused", key)
    assert done.returncode == 1, done
    assert not list((directory / "refused").glob("*.deb"))
    return done.stderr


def edit(clone, name, pattern, text):
    """Commits a change."""
    path = clone / name
    before = path.read_text()
    path.write_text(re.sub(pattern, text, before, count=1, flags=re.M))
    assert path.read_text() != before, (name, pattern)
    git(clone, "commit", "--quiet", "--all", "--message", f"change {name}")


def test_clean(directory, key):
    """a checkout with changes of its own, or with a section of the changelog that is not released"""
    clone = directory / "clone"
    git(REPOSITORY, "clone", "--quiet", REPOSITORY, clone)
    if "\n## Unreleased" not in (clone / "CHANGELOG.md").read_text():
        edit(clone, "CHANGELOG.md", r"^## ", "## Unreleased\n\n## ")
    assert "Unreleased" in refused(clone, directory, key)
    # The lines below it become part of the newest version's section.
    edit(clone, "CHANGELOG.md", r"^## Unreleased.*$", "")
    (clone / "new").touch()
    assert "has changes" in refused(clone, directory, key)
    (clone / "new").unlink()


def test_versions(directory, key):
    """one in which a file that names the version has another one than Cargo.toml, or none"""
    clone = directory / "clone"
    places = [
        ("Cargo.lock", r'(?<=name = "msi-tokend"\nversion = ")[^"]*', "9.9.9"),
        ("fuzz/Cargo.lock", r'(?<=name = "msi-tokend"\nversion = ")[^"]*', "9.9.9"),
        ("packaging/debian/changelog", r"(?<=\()[^)]*", "9.9.9"),
        ("CHANGELOG.md", r"^## [\d.]+, ", "## 9.9.9, "),
        *((f"packaging/man/{page.name}", r'"msi-tokend [\d.]+"', '"msi-tokend"') for page in (clone / "packaging/man").iterdir()),
    ]
    assert len(places) == 8, places
    for name, pattern, text in places:
        edit(clone, name, pattern, text)
        said = refused(clone, directory, key)
        assert f"check-version: {name} has" in said and said.count("\n") == 1, said
        git(clone, "reset", "--quiet", "--hard", "HEAD~")


def test_key(directory, key):
    """and a key that gpg does not have"""
    assert "no secret key" in refused(directory / "clone", directory, "nobody@example.invalid")
