"""What must not be in a boot; the last of it."""

from inside import run, show


def test_units():
    """no unit has failed, and the daemon was not restarted by systemd"""
    failed = run("systemctl", "--failed", "--no-legend", "--plain")
    assert not failed, failed
    assert show("msi-tokend.service", "NRestarts") == "0"


def test_order():
    """systemd found no ordering cycle"""
    assert "ordering cycle" not in run("journalctl", "--boot", "--output=cat")


def test_apparmor():
    """AppArmor is on and denied nothing, but to the program that is tried with it"""
    assert run("cat", "/sys/module/apparmor/parameters/enabled") == "Y"
    lines = run("journalctl", "--boot", "--output=cat").splitlines()
    denied = [line for line in lines if 'apparmor="DENIED"' in line and "confined-curl" not in line]
    assert not denied, denied
