"""`systemctl restart` again and again under load."""

import os

from service import Callers, installed, main_pid

TIMES = int(os.environ.get("MSI_TEST_RESTARTS", "100"))


def test_restarts(machine):
    """restarts with eight clients in a loop: not one failed request"""
    installed(machine)
    pids = {main_pid(machine)}
    with Callers(machine) as callers:
        for _ in range(TIMES):
            machine.run("systemctl", "restart", "msi-tokend.service")
            pids.add(main_pid(machine))
    served = callers.check()
    assert len(pids) == TIMES + 1, len(pids)
    print(f"   {TIMES} restarts, {served} requests: {callers.answered}")
