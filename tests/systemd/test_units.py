"""The units as systemd itself judges them: no unknown key, no loose end in the sandbox."""

import json
import re

from places import REPOSITORY
from service import TEMPLATES, UNITS, install

# Every directive the units use, all of which systemd 249 (Ubuntu 22.04) knows: its manual's "Added in version" is at
# most 249, or missing because it is older than those notes. A directive gets in here only after looking there.
KNOWN_TO_249 = set("""
    AccuracySec After Also AmbientCapabilities Backlog Before CapabilityBoundingSet ConditionPathIsDirectory Conflicts
    DefaultDependencies Description DevicePolicy DirectoryMode Documentation Environment ExecCondition ExecReload ExecStart
    ExecStartPre ExecStop ExecStopPost FileDescriptorName FileDescriptorStoreMax Group IPAddressAllow IPAddressDeny KeyringMode LimitCORE LimitMEMLOCK LimitNOFILE
    ListenStream LockPersonality MemoryDenyWriteExecute MemoryMax MemorySwapMax NoNewPrivileges OnActiveSec
    OnUnitActiveSec PartOf PathChanged PrivateDevices PrivateMounts PrivateNetwork PrivateTmp ProcSubset ProtectClock
    ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules
    ProtectKernelTunables ProtectProc ProtectSystem ReadWritePaths ReceiveBuffer ReloadPropagatedFrom
    RemainAfterExit RemoveIPC Requires Restart
    RestartPreventExitStatus RestartSec RestrictAddressFamilies RestrictNamespaces RestrictRealtime
    RestrictSUIDSGID RuntimeDirectory RuntimeDirectoryMode RuntimeDirectoryPreserve SendBuffer Service
    SocketMode StartLimitIntervalSec SystemCallArchitectures SystemCallErrorNumber SystemCallFilter TasksMax
    TimeoutStartSec TimeoutStopSec TriggerLimitIntervalSec Type UMask User WantedBy Wants WatchdogSec
    WatchdogSignal
""".split())

ALL = [*UNITS, "msi-tokend-sdk-pause.service", *TEMPLATES]


def test_verify(machine):
    """systemd-analyze verify has nothing to say about the units"""
    install(machine)
    done = machine.try_("systemd-analyze", "verify", "--man=no", *ALL)
    # It exits 0 for an unknown key and only prints it.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def test_old_systemd(_):
    """no directive is newer than systemd 249"""
    used = set()
    for unit in ALL:
        text = (REPOSITORY / "systemd" / unit).read_text()
        used |= set(re.findall(r"^(\w+)=", text, re.MULTILINE))
    assert used == KNOWN_TO_249, f"not in the list: {used - KNOWN_TO_249}; no longer used: {KNOWN_TO_249 - used}"


def test_calls(machine):
    """what the daemon asks of the kernel for each connection passes the service's filter"""
    service = (REPOSITORY / "systemd/msi-tokend.service").read_text()
    allowed, refused = re.findall(r"^SystemCallFilter=(.*)", service, re.MULTILINE)
    used = set("accept4 poll getsockopt setsockopt recvfrom sendto ioctl epoll_ctl epoll_wait close".split())
    allowed, refused = calls(machine, allowed.split()), calls(machine, refused.removeprefix("~").split())
    assert used <= allowed - refused, used - (allowed - refused)


def calls(machine, groups):
    """Those of systemd's groups of system calls, and of the groups in them."""
    lines = [line.strip() for line in machine.run("systemd-analyze", "syscall-filter", *groups).splitlines()]
    names = {line for line in lines if re.fullmatch(r"@?[a-z_0-9-]+", line)} - set(groups)
    inner = {name for name in names if name.startswith("@")}
    return names - inner | (calls(machine, sorted(inner)) if inner else set())


def test_exposure(machine):
    """the service's exposure is at most 1.4, and the unit gives a reason for each point that is left"""
    machine.run("systemd-analyze", "security", "--threshold=14", "msi-tokend.service")
    points = json.loads(machine.run("systemd-analyze", "security", "--json=short", "msi-tokend.service"))
    left = {point["name"] for point in points if not point["set"] and point["exposure"]}
    comments = "\n".join(re.findall("^#.*", (REPOSITORY / "systemd/msi-tokend.service").read_text(), re.MULTILINE))
    for name in left:
        # Such as PrivateNetwork=, RootDirectory=/RootImage=, RestrictAddressFamilies=~AF_(INET|INET6).
        terms = [name.split("=")[0] + "="] if "~" not in name else re.findall(r"[A-Z][A-Z_0-9]+", name.split("~")[1])
        terms = ["IPAddressAllow=" if term == "IPAddressDeny=" else term for term in terms]
        assert all(term.removeprefix("AF_") in comments for term in terms), f"no reason given in the unit for {name}"
