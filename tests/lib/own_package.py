"""The project's own Debian package."""

import os
import subprocess
import tempfile
from pathlib import Path

from places import REPOSITORY


def build(architecture, out, repository=REPOSITORY, **environment):
    """Builds it for an architecture; returns its path."""
    done = subprocess.run([repository / "packaging/build-deb", "--arch", architecture, out], capture_output=True, text=True,
                          env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(done.stdout.splitlines()[-1])


def raised(package, suffix, directory, change=lambda tree: None):
    """A package with a higher version, as a release to come would have, and what `change` does to its files; in `directory`."""
    version = package.name.split("_")[1]
    result = directory / package.name.replace(version, version + suffix)
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary, "tree")
        subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace(f"Version: {version}\n", f"Version: {version}{suffix}\n"))
        change(tree)
        build = ["dpkg-deb", "--build", "-Znone", "--root-owner-group", tree, result]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return result
