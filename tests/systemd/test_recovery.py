"""What kills a daemon, under load: it comes back by itself, and the socket never gives up."""

import time

from checks import wait_for
from service import Callers, active, configure, get, installed, main_pid, restarts


def back_with_another_pid(machine, pid):
    wait_for("the service to run again", lambda: active(machine) and main_pid(machine) not in (0, pid))


def only_lost_connections(callers):
    """Requests under way when the process died are lost; nothing else may be."""
    words = ("RemoteDisconnected", "ConnectionReset", "BrokenPipe", "curl exited 52", "curl exited 56", "msi-token exited 69")
    other = [line for line in callers.failures if not any(word in line for word in words)]
    assert not other, "\n".join(other[:20])
    # Each of the eight clients has one request under way at most.
    assert len(callers.failures) <= 8, "\n".join(callers.failures)


def test_kill(machine):
    """kill -9 under load: restarted by systemd, lost are only the requests under way"""
    installed(machine)
    pid = main_pid(machine)
    with Callers(machine) as callers:
        time.sleep(1)
        machine.kill("KILL", pid)
        back_with_another_pid(machine, pid)
        time.sleep(1)
    only_lost_connections(callers)
    assert restarts(machine) == 1
    assert get(machine, "member").returncode == 0


def test_stop_signal(machine):
    """kill -STOP under load: the watchdog kills and restarts the daemon within its 20 s and the restart delay"""
    pid = main_pid(machine)
    with Callers(machine) as callers:
        time.sleep(1)
        machine.kill("STOP", pid)
        began = time.monotonic()
        back_with_another_pid(machine, pid)
        took = time.monotonic() - began
        time.sleep(1)
    print(f"   back {took:.1f} s after kill -STOP")
    only_lost_connections(callers)
    said = machine.journal("_PID=1", "UNIT=msi-tokend.service")
    assert any("watchdog" in record["MESSAGE"].lower() for record in said), said[-5:]
    assert restarts(machine) == 2


def test_bad_start(machine):
    """a broken configuration under load for a while: no start-limit-hit, and callers are served once it is mended"""
    configure(machine, "50-broken", "[limits]\nmax_conections = 5\n")
    before = restarts(machine)
    machine.try_("systemctl", "--no-block", "restart", "msi-tokend.service")
    waiting = machine.popen("msi-token", "get", "--resource", "https://storage.azure.com/")
    wait_for("a few failed starts", lambda: restarts(machine) - before >= 3)
    said = [record["MESSAGE"] for record in machine.journal("UNIT=msi-tokend.service")]
    assert sum("status=78" in message for message in said) >= 3, said
    assert active(machine, "msi-tokend.socket")
    machine.run("rm", "/etc/msi-tokend/conf.d/50-broken.toml")
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and out.count(".") == 2, err
    said = [record["MESSAGE"] for record in machine.journal("_PID=1")]
    assert not any("start-limit" in message or "too quickly" in message for message in said), said
