"""The units under a systemd older than any that is supported, on which the binary itself does not run."""

import shutil

from places import REPOSITORY
from service import TEMPLATES, UNITS


def test_verify(machine):
    """systemd 247 knows every key of the units"""
    for unit in [*UNITS, *TEMPLATES]:
        machine.copy_in(REPOSITORY / "systemd" / unit, f"/usr/lib/systemd/system/{unit}", 0o644)
    for program in ["msi-tokend", "msi-token"]:
        shutil.copyfile(machine.root / "bin/true", machine.root / "usr/bin" / program)
        (machine.root / "usr/bin" / program).chmod(0o755)
    machine.run("systemctl", "daemon-reload")
    done = machine.try_("systemd-analyze", "verify", "--man=no", *UNITS, *TEMPLATES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
