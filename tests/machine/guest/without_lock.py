"""The last of a boot without the lock: what the next boot, with it, is compared with."""

import json
from pathlib import Path

from inside import run

TRIES = Path("/run/attacker/tries.json")


def test_attacker():
    """without the lock a user without a rule gets tokens from the first moment on"""
    tries = json.loads(TRIES.read_text())
    print(f"   {tries}")
    assert tries["200"] > 0, tries


def test_enforce():
    """the lock is enabled, to be enforced from the next boot on"""
    Path("/etc/msi-tokend/conf.d/90-lock.toml").write_text('[lock]\nmode = "enforce"\n')
    run("systemctl", "enable", "msi-tokend-lock.service")
    # Callers at the moment of the reboot.
    run("systemd-run", "--unit=callers.service", "--uid=anna", "sh", "-c", "while msi-token get https://storage.azure.com/ > /dev/null; do :; done")
