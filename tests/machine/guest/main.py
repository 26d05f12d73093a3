"""The checks inside the machine, started by systemd at each boot.  main.py short|all

Its output is a check a line, as of every suite, which the host counts. Exit code 100: more after a reboot.
"""

import importlib
import sys
from pathlib import Path

from checks import check_functions, tests_of

BOOTS = {
    "short": [["first_boot", "rules", "confined", "load", "nothing_wrong"]],
    "all": [
        ["first_boot", "rules", "confined", "load", "more_load", "clocks", "without_lock", "nothing_wrong"],
        ["first_boot", "with_lock", "rules", "nothing_wrong"],
    ],
}
AGAIN = 100
DONE = Path("/var/lib/boots-done")


def main():
    boots = BOOTS[sys.argv[1]]
    number = int(DONE.read_text()) if DONE.exists() else 0
    for suite in boots[number]:
        check_functions(f"boot {number + 1}, {suite}", tests_of(importlib.import_module(suite)))
    DONE.write_text(str(number + 1))
    return AGAIN if number + 1 < len(boots) else 0


sys.exit(main())
