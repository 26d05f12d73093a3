"""A machine that sleeps, and a wall clock that is set."""

import contextlib
import time
from pathlib import Path

from checks import wait_for
from inside import run, show, token
from unix_http import STORAGE, ask

SHORT = "https://short.example/"
LIFE, ASLEEP, HOURS = 300, 200, 2 * 3600


def test_suspend():
    """after 200 s of suspend in a token's life of 300 the token is renewed at once"""
    ask(("169.254.169.254", 80), "/emulator/script", method="PUT",
        body=f'[[fault]]\nmatch = {{ resource = "{SHORT}" }}\nlifetime = "{LIFE}s"\ntimes = 0\n')
    first = token(SHORT)
    assert int(first["expires_in"]) > LIFE - 60, first["expires_in"]
    boot, running = time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()
    print(f"   asleep for {ASLEEP} s", flush=True)
    alarm = Path("/sys/class/rtc/rtc0/wakealarm")
    alarm.write_text("0")
    alarm.write_text(f"+{ASLEEP}")
    Path("/sys/power/state").write_text("mem")
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - boot - (time.monotonic() - running)
    assert asleep > ASLEEP - 20, asleep
    woken = time.monotonic()
    at_once = token(SHORT)
    assert 0 < int(at_once["expires_in"]), at_once["expires_in"]
    renewed = wait_for("a new token", lambda: (now := token(SHORT))["access_token"] != first["access_token"] and now)
    assert int(renewed["expires_in"]) > LIFE / 2, renewed["expires_in"]
    print(f"   asleep for {asleep:.0f} s, a new token within {time.monotonic() - woken:.1f} s")


@contextlib.contextmanager
def later(seconds):
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - seconds)


def test_wall_clock():
    """with the wall clock two hours on, and back, tokens are served and no life gets longer"""
    restarts = show("msi-tokend.service", "NRestarts")
    left = int(token(STORAGE)["expires_in"])
    with later(HOURS):
        on = int(token(STORAGE)["expires_in"])
        short = token(SHORT)
        assert left - HOURS - 600 < on <= left - HOURS, (left, on)
        assert 0 < int(short["expires_in"]) <= LIFE, short["expires_in"]
    back = int(token(STORAGE)["expires_in"])
    assert left - 600 < back <= left, (left, back)
    assert 0 < int(token(SHORT)["expires_in"]) <= LIFE
    assert show("msi-tokend.service", "NRestarts") == restarts
    run("msi-token", "health", "--warning", "1m", "--critical", "30s")
