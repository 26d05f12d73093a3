"""The lock in enforce, enabled before this boot."""

import json

from checks import wait_for
from inside import METADATA, as_user, curl, in_unit, is_active, journal, status, try_
from without_lock import TRIES


def test_attacker():
    """who tries from the first moment of the network on gets no token"""
    wait_for("a refusal", lambda: json.loads(TRIES.read_text()).get("403"))
    tries = json.loads(TRIES.read_text())
    print(f"   {tries}")
    assert "200" not in tries, tries


def test_rules():
    """rules by user, group and unit hold at the metadata service's own address, and root asks the service itself"""
    assert is_active("msi-tokend-lock.service")
    seen = [status(as_user(user, *curl(METADATA))) for user in ["anna", "bert", "carl", "root"]]
    assert seen == [200, 200, 403, 200], seen
    seen = [status(in_unit(unit, "carl", *curl(METADATA))) for unit in ["app.service", "other.service"]]
    assert seen == [200, 403], seen


def test_flushed():
    """`nft flush ruleset` is noticed and mended"""
    table = ["nft", "list", "table", "ip", "msi_tokend"]
    assert try_("nft", "flush", "ruleset").returncode == 0 and try_(*table).returncode != 0
    wait_for("the rules are there again", lambda: try_(*table).returncode == 0, 180)
    assert status(as_user("carl", *curl(METADATA))) == 403


def test_ended_well():
    """at the reboot before, under callers, the service ended in order"""
    said = journal("--boot=-1", "--unit=msi-tokend.service")
    assert "Deactivated successfully" in said and "Failed with result" not in said, said
