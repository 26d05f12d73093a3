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
    """AppArmor is on and denied nothing"""
    assert run("cat", "/sys/module/apparmor/parameters/enabled") == "Y"
    denied = [line for line in run("journalctl", "--boot", "--output=cat").splitlines() if 'apparmor="DENIED"' in line]
    assert not denied, denied
