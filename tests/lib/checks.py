"""The checks of a suite: a line for each, and the closing line `N passed, N failed`."""

import contextlib
import sys
import threading
import time
import traceback

# Seconds. Generous, since these machines are busy: only a test that fails waits so long.
PATIENCE = 60

_counts = {True: 0, False: 0}
_one_at_a_time = threading.Lock()


def check(what, good, why="", measured=""):
    """Prints and counts a check; returns whether it is good. `why` is shown where it is not, `measured` always."""
    good = bool(good)
    line = ("ok      " if good else "FAILED  ") + what
    line += f" ({measured})" if measured != "" else ""
    line += f": {why}" if not good and why != "" else ""
    with _one_at_a_time:
        _counts[good] += 1
        print(line, flush=True)
    return good


@contextlib.contextmanager
def checking(what):
    """A block as a check, which an exception fails."""
    try:
        yield
    except Exception:
        check(what, False, traceback.format_exc())
    else:
        check(what, True)


def wait_for(what, condition, seconds=PATIENCE):
    """Waits until condition() is true and returns its value; TimeoutError where that takes too long."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return value


def check_soon(what, condition, seen=lambda: ""):
    """A condition that must come true, as a check; `seen` says what was there instead."""
    try:
        wait_for(what, condition)
    except TimeoutError:
        return check(what, False, seen())
    return check(what, True)


def check_functions(title, functions, *arguments):
    """Calls functions in order, each a check that its docstring names; an exception fails it."""
    for function in functions:
        began, why = time.monotonic(), ""
        try:
            function(*arguments)
        except Exception:
            why = "\n" + traceback.format_exc()
        says = " ".join(function.__doc__.split())
        check(f"{title}: {says}", not why, why, measured=f"{time.monotonic() - began:.1f} s")


def tests_of(module):
    """The functions named test_* of a module, in the order they are written."""
    return [value for name, value in vars(module).items() if name.startswith("test_") and callable(value)]


def run(suite):
    """Runs a suite to its end, prints the closing line and exits: with 0 if there were checks and all are good."""
    try:
        suite()
    except Exception:
        check("the suite came to its end", False, "\n" + traceback.format_exc())
    print(f"{_counts[True]} passed, {_counts[False]} failed")
    sys.exit(_counts[False] > 0 or _counts[True] == 0)
