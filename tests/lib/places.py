"""Where things are."""

import contextlib
import os
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# The programs under test.
BINARIES = Path(os.environ.get("MSI_BIN_DIR", REPOSITORY / "target/debug")).resolve()
RELEASE = REPOSITORY / "target/release"
# What suites install and build, and keep for the next run.
CACHE = Path(os.environ.get("MSI_TEST_CACHE", "/var/tmp/msi-tokend-test"))


@contextlib.contextmanager
def open_directory():
    """A temporary directory that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="msi-test-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
