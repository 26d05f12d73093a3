"""The loopback listener for Azure SDKs: systemd holds its port, and the package's `sdk.env` leads applications there."""

import shlex

from checks import wait_for
from places import REPOSITORY
from service import RESOURCE, Callers, active, configure, get, installed, main_pid

PORT = 343
FILE = "/usr/share/msi-tokend/sdk.env"
# What an SDK does with the environment.
ASK = (
    'curl --silent --show-error --max-time 60 --noproxy "" --header "X-IDENTITY-HEADER: $IDENTITY_HEADER"'
    f' --write-out "%{{http_code}} $NO_PROXY" "$IDENTITY_ENDPOINT?api-version=2019-08-01&resource={RESOURCE}"'
)


def environment(machine):
    return dict(line.split("=", 1) for line in machine.run("cat", FILE).splitlines())


def is_refused(machine):
    """Whether nobody listens at the port."""
    return machine.try_("curl", "--silent", "--max-time", "60", f"http://127.0.0.1:{PORT}/").returncode == 7


def switch(machine, verb):
    machine.run("systemctl", verb, "--now", "msi-tokend-sdk.socket")


def ask(machine):
    """What an application is answered that has the environment: the status is the first word after the body."""
    variables = [f"{key}={value}" for key, value in environment(machine).items()]
    return machine.run("env", *variables, "sh", "-c", ASK)


def is_served(machine):
    return ask(machine).split("}")[-1].startswith("200 ")


def application(machine, user="stranger"):
    """A service as docs/sdks.md has it, with a NO_PROXY of its own: what it was answered, once it has run."""
    machine.write("/etc/application/proxy.env", "NO_PROXY=127.0.0.1,localhost,169.254.169.254,intranet\n")
    machine.write("/etc/systemd/system/application.service", f"""
[Unit]
Wants=msi-tokend.service
After=msi-tokend.service
[Service]
Type=oneshot
User={user}
EnvironmentFile={FILE}
EnvironmentFile=/etc/application/proxy.env
ExecStart=/bin/sh -c {shlex.quote(ASK.replace("%", "%%").replace("$", "$$"))}
StandardOutput=truncate:/run/answer
[Install]
WantedBy=multi-user.target
""")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "application.service")
    return machine.run("cat", "/run/answer")


def test_switch(machine):
    """one command switches it on and one switches it off again, beside clients of whom not one has a failed request"""
    installed(machine)
    assert is_refused(machine)
    with Callers(machine) as callers:
        first = main_pid(machine)
        switch(machine, "enable")
        assert is_served(machine)
        second = wait_for("the daemon has the socket", lambda: main_pid(machine))
        assert second != first and active(machine) and active(machine, "msi-tokend-sdk.socket")
        # Nothing that wants the socket again makes a further restart.
        switch(machine, "enable")
        machine.run("systemctl", "start", "sockets.target")
        assert main_pid(machine) == second
        switch(machine, "disable")
        assert is_refused(machine)
        assert wait_for("the daemon is back", lambda: active(machine) and main_pid(machine)) != second
        switch(machine, "enable")
        assert is_served(machine)
    callers.check()
    said = [record["MESSAGE"] for record in machine.journal("UNIT=msi-tokend-sdk.socket", "+", "_PID=1")]
    bad = [message for message in said if any(word in message for word in ("refusing", "Failed", "ordering cycle"))
           and "msi-tokend" in message]
    assert not bad, bad


def test_stopped(machine):
    """a daemon that does not run is left alone, and started by the first caller of either socket"""
    switch(machine, "disable")
    machine.run("systemctl", "stop", "msi-tokend.service")
    switch(machine, "enable")
    assert not active(machine)
    assert is_served(machine)
    switch(machine, "disable")
    assert is_refused(machine) and get(machine).returncode == 0
    switch(machine, "enable")


def test_file(machine):
    """sdk.env is the package's, root's, and the same everywhere; nobody else can take its port"""
    assert machine.run("stat", "--format=%a %U %G %F", FILE) == "644 root root regular file"
    assert machine.run("cat", FILE) + "\n" == (REPOSITORY / "systemd/sdk.env").read_text()
    assert machine.try_("test", "-e", "/run/msi-tokend/sdk.env").returncode != 0
    assert machine.run("msi-token", "sdk-env", user="stranger") == machine.run("cat", FILE)
    program = f"""
import json, socket
try:
    socket.create_server(("127.0.0.1", {PORT + 1}))
except PermissionError:
    print(json.dumps("refused"))
"""
    assert machine.python(program, user="stranger") == "refused"


def test_application(machine):
    """an application whose user a rule names is served inside the sandbox's rules, and told why before"""
    answer = application(machine)
    uid = machine.run("id", "--user", "stranger")
    assert answer.endswith("403 127.0.0.1,localhost,169.254.169.254,intranet") and f"stranger ({uid})" in answer, answer
    configure(machine, "50-sdk", '[[allow]]\nusers = ["stranger"]\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    answer = application(machine)
    assert '"access_token":"ey' in answer and " 127.0.0.1," in answer, answer


def test_exec(machine):
    """a program can be led here by hand, as any user"""
    answer = machine.run("msi-token", "exec", "--", "sh", "-c", ASK, user="stranger")
    assert answer.split("}")[-1].startswith("200 "), answer


def test_restart(machine):
    """a caller that comes while the service is stopped is served by the next one"""
    machine.run("systemctl", "stop", "msi-tokend.service")
    assert is_served(machine)


def test_boot(machine):
    """the port is there in time for the applications that start with the machine"""
    machine.run("systemctl", "enable", "emulator.service", "application.service")
    machine.reboot()
    # Written by the run that the boot itself began.
    answer = wait_for("the application was answered", lambda: machine.try_("cat", "/run/answer").stdout)
    assert answer.split("}")[-1].startswith("200 "), answer
