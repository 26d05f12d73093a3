"""A machine of its own: a Debian system with its kernel, in qemu, without acceleration and without a network."""

import contextlib
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import foreign
from packages import apt_install
from places import CACHE, REPOSITORY

TESTS = REPOSITORY / "tests"
# What runs inside: the standard library is all that these programs need.
PROGRAMS = [
    *sorted((TESTS / "machine/guest").iterdir()),
    *(TESTS / "lib" / name for name in ["checks.py", "unix_http.py", "users.py"]),
    TESTS / "memory/attack.py",
    TESTS / "systemd/callers.py",
]
# The package that has qemu for it, what this qemu needs to be told, and the serial port. Of arm64 an older processor: the newest
# signs return addresses, which costs much without acceleration.
HARDWARE = {
    "amd64": ("qemu-system-x86", ["-cpu", "max"], "ttyS0"),
    "arm64": ("qemu-system-arm", ["-machine", "virt", "-cpu", "cortex-a72"], "ttyAMA0"),
}
END = "END "
# Of the checks' own exit codes: more after a reboot.
AGAIN = 100


class Unfinished(AssertionError):
    """The machine hung, or went down before its checks were done; the text has its last words."""


def system(suite, architecture):
    """The root file system of this name with a kernel, which stays for the next run."""
    apt_install("mmdebstrap")
    foreign.enable(architecture)
    name = f"{suite}-machine" + ("" if architecture == foreign.own_architecture() else f"-{architecture}")
    subprocess.run([TESTS / "systemd/build-rootfs", name], check=True)
    return CACHE / "rootfs" / name


def play(kernel, userland, architecture, package, stand_in, which, seconds):
    """Boots the system with the package installed before, and yields what its checks print, line by line."""
    apt_install(HARDWARE[architecture][0], "e2fsprogs")
    kernel, userland = system(kernel, architecture), system(userland, architecture)
    with tempfile.TemporaryDirectory(prefix="machine-", dir=CACHE) as directory:
        directory = Path(directory)
        root = directory / "root"
        subprocess.run(["cp", "--archive", userland, root], check=True)
        if kernel != userland:
            shutil.rmtree(root / "usr/lib/modules")
            shutil.copytree(kernel / "lib/modules", root / "usr/lib/modules", symlinks=True)
        furnish(root, package, stand_in, which)
        disk = directory / "disk"
        subprocess.run(["truncate", "--size=1500M", disk], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-d", root, disk], check=True)
        shutil.rmtree(root)
        yield from boot(directory, architecture, kernel, disk, seconds)


def furnish(root, package, stand_in, which):
    """Puts the package and the checks into the system."""
    inside = root / "opt/machine"
    inside.mkdir()
    for program in PROGRAMS:
        if program.is_file():
            shutil.copy(program, inside)
    shutil.copy(package, root / "root/msi-tokend.deb")
    shutil.copy(stand_in, root / "usr/local/bin")
    (root / "etc/fstab").write_text("/dev/vda / ext4 rw 0 1\n")
    (root / "etc/hostname").write_text("machine\n")
    # The last line has its second to get out.
    (inside / "checks").write_text(
        f"python3 /opt/machine/main.py {which} > /dev/hvc0 2>&1\n"
        "code=$?\nsync\n"
        f"if [ $code = {AGAIN} ]; then systemctl reboot; exit; fi\n"
        f'printf "\\n{END}%s\\n" $code > /dev/hvc0\nsleep 1\nsystemctl poweroff --force --force\n'
    )
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(["chroot", root, "/bin/bash", "/opt/machine/setup"], env=path, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the system cannot be set up:\n{done.stdout}{done.stderr}")


def boot(directory, architecture, kernel, disk, seconds):
    """What is printed until the end of the checks; nobody but them writes to this console."""
    serial = directory / "serial"
    _, hardware, console = HARDWARE[architecture]
    [image], [initrd] = (list((kernel / "boot").glob(f"{name}-*")) for name in ["vmlinuz", "initrd.img"])
    command = [
        "nice", f"qemu-system-{foreign.PROCESSORS[architecture]}", "-accel", "tcg,thread=multi", *hardware,
        "-smp", "2", "-m", "1500",
        "-nic", "none", "-display", "none", "-monitor", "none", "-serial", f"file:{serial}",
        "-kernel", image, "-initrd", initrd,
        "-append", f"root=/dev/vda rw console={console} quiet loglevel=3 systemd.show_status=0",
        "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe",
        "-device", "virtio-serial", "-chardev", "file,id=out,path=/dev/stdout", "-device", "virtconsole,chardev=out",
    ]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as machine, contextlib.ExitStack() as ends:
        ends.callback(machine.kill)
        limit = threading.Timer(seconds, machine.kill)
        limit.start()
        ends.callback(limit.cancel)
        ended = False
        for line in machine.stdout:
            ended = ended or line.startswith(END)
            if not ended and line.strip():
                yield line.rstrip()
        if not ended:
            # The last lines of the kernel and of qemu.
            words = "\n".join(serial.read_text(errors="replace").splitlines()[-20:]) + machine.stderr.read()
            raise Unfinished(f"the machine did not come to its end within {seconds} s, or went down:\n{words}")
