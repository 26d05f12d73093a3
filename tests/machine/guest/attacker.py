"""Asks the metadata service for a token again and again, from as early as systemd starts anything; counts what comes of it."""

import collections
import json
import time
from pathlib import Path

from unix_http import STORAGE, TOKEN, ask

TRIES = Path("/run/attacker/tries.json")

tries = collections.Counter()
while True:
    try:
        outcome = str(ask(("169.254.169.254", 80), TOKEN + STORAGE).status)
    except OSError as error:
        outcome = type(error).__name__ if error.errno is None else error.strerror
    except Exception as error:  # noqa: BLE001  an answer that breaks off is no token
        outcome = type(error).__name__
    tries[outcome] += 1
    new = TRIES.with_suffix(".new")
    new.write_text(json.dumps(tries))
    new.rename(TRIES)
    time.sleep(0.02)
