"""Rules by user, group and unit, on the Unix socket and on the loopback listener."""

import json

from inside import LOOPBACK, NAMES_UNITS, SOCKET, as_user, curl, in_unit, journal, run, status, try_
from unix_http import STORAGE

GET = ["msi-token", "get", STORAGE]
REFUSED = 77


def test_users_and_groups():
    """users and groups are told apart on both"""
    for place in [SOCKET, LOOPBACK]:
        seen = [status(as_user(user, *curl(place))) for user in ["anna", "bert", "carl"]]
        assert seen == [200, 200, 403], (place, seen)


def test_units_on_loopback():
    """on the loopback listener a unit is known on every kernel, and another unit of the same user is not it"""
    seen = [status(in_unit(unit, "carl", *curl(LOOPBACK))) for unit in ["app.service", "other.service"]]
    assert seen == [200, 403], seen


def test_units_on_the_socket():
    """on the socket it is known from Linux 6.5 on; before, the refusal says so"""
    seen = [status(in_unit(unit, "carl", *curl(SOCKET))) for unit in ["app.service", "other.service"]]
    assert seen == [200 if NAMES_UNITS else 403, 403], seen
    refusal = ["curl", "--silent", "--unix-socket", SOCKET, "--header", "Metadata: true",
               f"http://localhost/oauth2/token?resource={STORAGE}"]
    cause = json.loads(run(*as_user("carl", *refusal))).get("cause")
    assert cause == (None if NAMES_UNITS else "unit_unknown"), cause


def test_the_same_command():
    """the same commands get the token by the same rule on every kernel"""
    done = try_(*in_unit("app.service", "carl", *GET))
    assert done.returncode == 0 and done.stdout.count(".") == 2, done
    assert try_(*in_unit("other.service", "carl", *GET)).returncode == REFUSED
    led = ["msi-token", "exec", "--", "sh", "-c",
           'curl --silent --fail --header "X-IDENTITY-HEADER: $IDENTITY_HEADER" '
           f'"$IDENTITY_ENDPOINT?api-version=2019-08-01&resource={STORAGE}"']
    assert "access_token" in run(*in_unit("app.service", "carl", *led))


def test_keep():
    """so does what keeps tokens in files"""
    run("systemctl", "start", "msi-token-keep@carl.service", timeout=120)
    assert run("cat", "/run/msi-token/carl/storage.token").count(".") == 2
    run("systemctl", "stop", "msi-token-keep@carl.service")


def test_explain():
    """explain judges as this kernel does, for each listener; doctor says what it cannot tell"""
    def judged(listener):
        return try_("msi-token", "explain", STORAGE, "--uid", "carl", "--unit", "app.service", "--listener", listener).returncode

    assert [judged("socket"), judged("sdk")] == [0 if NAMES_UNITS else REFUSED, 0]
    for said in [try_("msi-token", "doctor").stdout, try_("msi-tokend", "--check").stderr, journal("--boot", "--unit=msi-tokend.service")]:
        assert ("SO_PEERPIDFD" in said) != NAMES_UNITS, said
