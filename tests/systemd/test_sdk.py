"""The loopback listener for Azure SDKs: systemd holds its port, and hands `sdk.env` to the applications."""

import shlex

from checks import wait_for
from service import RESOURCE, active, configure, installed

PORT = 40343
# What an SDK does with the environment.
ASK = (
    'curl --silent --show-error --max-time 60 --noproxy "" --header "X-IDENTITY-HEADER: $IDENTITY_HEADER"'
    f' --write-out "%{{http_code}} $NO_PROXY" "$IDENTITY_ENDPOINT?api-version=2019-08-01&resource={RESOURCE}"'
)


def environment(machine):
    return dict(line.split("=", 1) for line in machine.run("cat", "/run/msi-tokend/sdk.env").splitlines())


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
EnvironmentFile=/run/msi-tokend/sdk.env
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
    """it is off as shipped, and on after enabling its socket and restarting the service"""
    installed(machine)
    assert machine.try_("curl", "--silent", f"http://127.0.0.1:{PORT}/").returncode == 7
    assert machine.try_("test", "-e", "/run/msi-tokend/sdk.env").returncode != 0
    machine.run("systemctl", "enable", "msi-tokend-sdk.socket")
    machine.run("systemctl", "restart", "msi-tokend.service")
    assert active(machine, "msi-tokend-sdk.socket")
    assert environment(machine)["IDENTITY_ENDPOINT"] == f"http://127.0.0.1:{PORT}/msi/token"


def test_file(machine):
    """sdk.env is the service's own, for its group to read and nobody else"""
    assert machine.run("stat", "--format=%a %U %G %F", "/run/msi-tokend/sdk.env") == "640 msi-tokend msi-tokend regular file"
    assert machine.try_("cat", "/run/msi-tokend/sdk.env", user="stranger").returncode != 0


def test_application(machine):
    """an application whose user a rule names is served inside the sandbox's rules, and told why before"""
    answer = application(machine)
    uid = machine.run("id", "--user", "stranger")
    assert answer.endswith("403 127.0.0.1,localhost,169.254.169.254,intranet") and f"uid {uid}" in answer, answer
    configure(machine, "50-sdk", '[[allow]]\nusers = ["stranger"]\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    answer = application(machine)
    assert '"access_token":"ey' in answer and " 127.0.0.1," in answer, answer


def test_restart(machine):
    """a caller that comes while the service is stopped is served by the next one, with the secret it has"""
    before = environment(machine)
    machine.run("systemctl", "stop", "msi-tokend.service")
    variables = [f"{key}={value}" for key, value in before.items()]
    answer = machine.run("env", *variables, "sh", "-c", ASK)
    assert answer.split("}")[-1].startswith("200 "), answer
    assert environment(machine) == before


def test_boot(machine):
    """a boot makes a new secret, in time for the applications that start with it"""
    before = environment(machine)
    machine.run("systemctl", "enable", "emulator.service", "application.service")
    machine.reboot()
    # Written by the run that the boot itself began; it needs the environment file to begin at all.
    answer = wait_for("the application was answered", lambda: machine.try_("cat", "/run/answer").stdout)
    assert answer.split("}")[-1].startswith("200 "), answer
    assert environment(machine)["IDENTITY_HEADER"] != before["IDENTITY_HEADER"]
