"""Puts the service on a booted machine, as the package would, and the metadata endpoint's address beside it."""

import json
import subprocess
import tomllib
from pathlib import Path

import unix_http
from booted import HERE
from places import BINARIES, REPOSITORY
from unix_http import STORAGE as RESOURCE

UNITS = [
    "msi-tokend.service", "msi-tokend.socket", "msi-tokend-sdk.socket",
    "msi-tokend-lock.service", "msi-tokend-lock.socket", "msi-tokend-lock-repair.path", "msi-tokend-lock-repair.service",
    "msi-tokend-textfile.service", "msi-tokend-textfile.timer",
]
TEMPLATES = ["msi-token-keep@.service"]
# The real address, in the machine's own network namespace, which has no way out of it. Set explicitly all the same.
ENDPOINT = "http://169.254.169.254/metadata/identity/oauth2/token"
DEFAULT_RULE = '[[allow]]\ngroups = ["msi-tokend"]\n'


def install(machine):
    """What the package's files and its postinst do, with the binaries under test."""
    with open(REPOSITORY / "Cargo.toml", "rb") as file:
        assets = tomllib.load(file)["package"]["metadata"]["deb"]["assets"]
    for asset in assets:
        for source in sorted(REPOSITORY.glob(asset["source"])) or [REPOSITORY / asset["source"]]:
            if source.name == "msi-tokend.cdx.json":
                continue  # the list of what the programs are made of, which only build-deb makes
            if source.parent.name == "release":
                source = BINARIES / source.name
            target = asset["dest"] + (source.name if asset["dest"].endswith("/") else "")
            machine.copy_in(source, target, int(asset["mode"], 8))
    machine.run("systemd-sysusers", "msi-tokend.conf")
    machine.run("journalctl", "--update-catalog")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "preset", *UNITS)


def add_surroundings(machine):
    """A stand-in for the metadata endpoint, and two users of whom one is in the daemon's group."""
    machine.copy_in(BINARIES / "msi-emulator", "/usr/local/bin/msi-emulator")
    machine.write("/etc/systemd/system/emulator.service", f"""
[Service]
ExecStartPre=-/usr/sbin/ip address add 169.254.169.254/32 dev lo
ExecStart=/usr/local/bin/msi-emulator serve --listen 169.254.169.254:80 --any-address
[Install]
WantedBy=multi-user.target
""")
    machine.run("systemctl", "enable", "--now", "emulator.service")
    configure(machine, "00-test", f'[upstream]\nendpoint = "{ENDPOINT}"\n')
    for user in ["member", "stranger"]:
        machine.run("useradd", "--create-home", user)


def start(machine):
    """Starts what is enabled, as a boot would, and lets `member` be one."""
    machine.run("systemctl", "start", "msi-tokend.socket", "msi-tokend.service")
    machine.run("usermod", "--append", "--groups", "msi-tokend", "member")


def installed(machine):
    add_surroundings(machine)
    install(machine)
    start(machine)


def configure(machine, name, text):
    """Writes a file of conf.d; nobody is told."""
    machine.write(f"/etc/msi-tokend/conf.d/{name}.toml", text)


def get(machine, user=None, resource=RESOURCE, **options):
    """`msi-token get` as root or as a user, with the groups that user has; returns the finished process."""
    groups = machine.run("id", "--groups", user).split() if user else ()
    return machine.try_("msi-token", "get", "--resource", resource, user=user, groups=groups, **options)


def main_pid(machine):
    return int(machine.show("msi-tokend.service", "MainPID")["MainPID"])


def restarts(machine):
    return int(machine.show("msi-tokend.service", "NRestarts")["NRestarts"])


def active(machine, unit="msi-tokend.service"):
    return machine.try_("systemctl", "is-active", unit).stdout.strip() == "active"


def upstream_requests(machine):
    """How many token requests the stand-in has seen since it started."""
    return json.loads(machine.run("curl", "--silent", "--fail", "http://169.254.169.254/emulator/requests"))["count"]


class Callers:
    """The eight clients of callers.py, running as `member` while the `with` block lasts, or in what `within` starts."""

    def __init__(self, machine, within=None):
        self.machine = machine
        self.within = within
        self.failures = []
        self.answered = {}

    def __enter__(self):
        for program in [HERE / "callers.py", Path(unix_http.__file__)]:
            self.machine.copy_in(program, f"/usr/local/lib/{program.name}", 0o644)
        program = ("python3", "/usr/local/lib/callers.py")
        if self.within:
            self.process = self.machine.popen(*self.within, *program, stdin=subprocess.PIPE)
        else:
            group = self.machine.run("getent", "group", "msi-tokend").split(":")[2]
            self.process = self.machine.popen(*program, user="member", groups=[group], stdin=subprocess.PIPE)
        return self

    def __exit__(self, *_):
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        report = json.loads(out)
        self.failures, self.answered = report["failures"], report["answered"]

    def check(self):
        """Not one failed request, and every kind of client had answers."""
        assert not self.failures, "\n".join(self.failures[:20])
        assert all(self.answered.values()), self.answered
        return sum(self.answered.values())
