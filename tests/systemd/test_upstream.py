"""A boot at which the metadata endpoint is not there for three minutes."""

import time

from checks import wait_for
from service import RESOURCE, active, configure, get, installed, upstream_requests

DOWN = 180


def test_down_at_boot(machine):
    """the service is ready at once, says why it has no token, and serves within a back-off of the endpoint's return"""
    installed(machine)
    configure(machine, "50-warm", f'[[warm]]\nresource = "{RESOURCE}"\n')
    machine.run("systemctl", "disable", "emulator.service")
    machine.reboot()
    booted = time.monotonic()
    assert active(machine)
    done = get(machine, "member")
    assert done.returncode == 75 and "identity endpoint" in done.stderr, done
    # At first there was no way to the address; for the rest of the time it is there, and nobody listens.
    machine.run("ip", "address", "add", "169.254.169.254/32", "dev", "lo")
    time.sleep(max(0.0, booted + DOWN - time.monotonic()))
    assert active(machine)
    assert machine.show("msi-tokend.service", "NRestarts")["NRestarts"] == "0"
    machine.run("systemctl", "start", "emulator.service")
    began = time.monotonic()
    wait_for("a token", lambda: get(machine, "member").returncode == 0, seconds=120)
    print(f"   a token {time.monotonic() - began:.1f} s after the endpoint came back; it had been down for {DOWN} s")
    assert upstream_requests(machine) == 1
