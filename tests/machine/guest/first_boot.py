"""What is there after the first boot of a machine into which the package was installed before."""

from inside import is_active, journal, run, try_


def test_on():
    """the service and its socket are enabled and active"""
    for unit in ["msi-tokend.socket", "msi-tokend.service"]:
        assert try_("systemctl", "is-enabled", unit).stdout.strip() == "enabled", unit
        assert is_active(unit), run("systemctl", "--no-pager", "status", unit)


def test_early():
    """a service that asks while the machine boots gets its token"""
    assert is_active("early.service"), journal("--boot", "--unit=early.service")
