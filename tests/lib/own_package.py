"""The project's own Debian package."""

import os
import subprocess
from pathlib import Path

from places import REPOSITORY


def build(architecture, out, repository=REPOSITORY, **environment):
    """Builds it for an architecture; returns its path."""
    done = subprocess.run([repository / "packaging/build-deb", "--arch", architecture, out], capture_output=True, text=True,
                          env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(done.stdout.splitlines()[-1])
