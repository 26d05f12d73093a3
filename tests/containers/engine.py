"""podman in a booted machine: root's and the user's containers, whose image is a directory."""

import json
import re
import shlex

from unix_http import STORAGE

SOCKET = "/run/msi-tokend/msi-tokend.sock"
# Where root's and the user's image are.
IMAGES = {"root": "/srv/box", "member": "/home/member/box"}
MOUNTS = ("--volume", "/usr:/usr:ro", "--volume", "/run/msi-tokend:/run/msi-tokend:ro")
CURL = ("curl", "--silent", "--max-time", "20", "--header", "Metadata: true")
# A token request over the socket, and one to the metadata service itself.
ASK = (*CURL, "--unix-socket", SOCKET, f"http://localhost/oauth2/token?resource={STORAGE}")
ASK_IMDS = (*CURL, f"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource={STORAGE}")
# Prints the status of its answer alone, 000 where there is none.
STATUS = ("--output", "/dev/null", "--write-out", "%{http_code}")

# Programs come from the machine's own /usr; the names of users are the image's own.
IMAGE = """
mkdir -p {box}/usr {box}/etc {box}/proc {box}/sys {box}/dev {box}/tmp {box}/run/msi-tokend
for directory in bin sbin lib lib64; do ln -s usr/$directory {box}/$directory; done
printf 'root:x:0:0::/:/bin/sh\\nwebsite:x:33:33::/:/bin/sh\\n' > {box}/etc/passwd
chown -R {user}: {box}
"""
# What a machine of its own has and this one does not: file systems below podman's that are no overlay, a /proc in full (or the
# kernel mounts none in a user namespace), and /dev/net/tun. It has no controllers for cgroups, and root may not lift the
# limit on locked memory, which crun does for each container of root's, and runc does where it can.
PREPARE = """
set -e
mkdir -p /var/lib/containers /run/proc /dev/net /etc/containers /home/member/.config/containers
mount -t tmpfs tmpfs /var/lib/containers
mount -t proc proc /run/proc
mknod -m 666 /dev/net/tun c 10 200
printf '[containers]\\npids_limit = 0\\n[engine]\\nruntime = "runc"\\n' > /etc/containers/containers.conf
sed s/runc/crun/ /etc/containers/containers.conf > /home/member/.config/containers/containers.conf
loginctl enable-linger member
chown -R member: /home/member/.config
"""


def prepare(machine):
    machine.run("sh", "-c", PREPARE)
    for user, box in IMAGES.items():
        machine.run("sh", "-c", IMAGE.format(box=box, user=user))
    uid = machine.run("id", "--user", "member")
    machine.run("systemctl", "start", f"user@{uid}.service")


def as_member(machine, *command):
    """A command of the user's, with the user's groups and service manager."""
    uid = machine.run("id", "--user", "member")
    session = ("env", "HOME=/home/member", f"XDG_RUNTIME_DIR=/run/user/{uid}",
               f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{uid}/bus")
    return machine.try_("env", "--chdir=/home/member", *session, *command, user="member",
                        groups=machine.run("id", "--groups", "member").split())


def container(*options, user="root", network="none"):
    """The command that runs what follows in a container."""
    return ("podman", "run", "--rm", "--network", network, *MOUNTS, *options, "--rootfs", IMAGES[user])


def inside(machine, *command, options=(), user="root", network="none"):
    """Runs a command in a container of root's or of the user's, to its end."""
    whole = (*container(*options, user=user, network=network), *command)
    return as_member(machine, *whole) if user == "member" else machine.try_(*whole)


def status(machine, *options, request=ASK, **where):
    """The status that a token request in such a container gets."""
    done = inside(machine, *request, *STATUS, options=options, **where)
    assert done.stdout.isdigit(), done
    return done.stdout


def refused(machine, *options, **where):
    """Who the daemon says it refuses in such a container."""
    text = json.loads(inside(machine, *ASK, options=options, **where).stdout)["error_description"]
    return re.match(r"No rule allows (.*?) a token ", text)[1]


def in_image(command, user):
    """A command of the page, whose IMAGE is a directory here."""
    return shlex.split(command.replace("IMAGE", f"--volume /usr:/usr:ro --rootfs {IMAGES[user]}"))
