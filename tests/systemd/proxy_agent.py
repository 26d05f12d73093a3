"""What Azure's guest proxy agent does, as far as others have to do with it: a BPF program at connect() sends whoever means
the metadata service to a proxy on loopback, before any firewall rule sees a packet. The proxy asks as root. Ends with the
process."""

import ctypes
import os
import platform
import socket
import struct
import threading

SERVICE, PROXY = ("169.254.169.254", 80), ("127.0.0.1", 3080)
CGROUPS = "/sys/fs/cgroup"
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
# <linux/bpf.h>
PROG_LOAD, LINK_CREATE, CGROUP_SOCK_ADDR, INET4_CONNECT, GET_CURRENT_CGROUP_ID = 5, 28, 18, 10, 80
USER_IP4, USER_PORT = 4, 24

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    """The new descriptor."""
    buffer = ctypes.create_string_buffer(attributes, 128)
    if (made := libc.syscall(SYS_BPF, command, buffer, len(attributes))) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return made


def instruction(code, to=0, of=0, offset=0, value=0):
    return struct.pack("=BBhI", code, to | of << 4, offset, value & 0xFFFFFFFF)


def address(name):
    """As the kernel has it, in the network's order."""
    return struct.unpack("=I", socket.inet_aton(name))[0]


def program(own_group):
    """All but the proxy's own connections."""
    return b"".join([
        instruction(0xBF, to=6, of=1),                                             # r6 = r1, the context
        instruction(0x61, to=2, of=6, offset=USER_IP4),                            # the address
        instruction(0x56, to=2, offset=10, value=address(SERVICE[0])),             # if another: let it be
        instruction(0x61, to=2, of=6, offset=USER_PORT),                           # the port
        instruction(0x56, to=2, offset=8, value=socket.htons(SERVICE[1])),
        instruction(0x85, value=GET_CURRENT_CGROUP_ID),
        instruction(0x18, to=1, value=own_group), instruction(0, value=own_group >> 32),
        instruction(0x1D, to=0, of=1, offset=4),                                   # if the proxy's: let it be
        instruction(0xB4, to=2, value=address(PROXY[0])),
        instruction(0x63, to=6, of=2, offset=USER_IP4),
        instruction(0xB4, to=2, value=socket.htons(PROXY[1])),
        instruction(0x63, to=6, of=2, offset=USER_PORT),
        instruction(0xB7, to=0, value=1), instruction(0x95),                       # let it be
    ])


def redirect():
    """As long as the descriptor is open."""
    with open("/proc/self/cgroup") as file:
        own = file.read().split("0::", 1)[1].strip()
    code = program(os.stat(CGROUPS + own).st_ino)
    text, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    loaded = bpf(PROG_LOAD, struct.pack("=IIQQIIQII16sII", CGROUP_SOCK_ADDR, len(code) // 8, ctypes.addressof(text),
                                        ctypes.addressof(licence), 0, 0, 0, 0, 0, b"redirect", 0, INET4_CONNECT))
    group = os.open(CGROUPS, os.O_RDONLY)
    return bpf(LINK_CREATE, struct.pack("=IIII", loaded, group, INET4_CONNECT, 0))


def relay(source, target):
    while part := source.recv(65536):
        target.sendall(part)
    target.shutdown(socket.SHUT_WR)


def serve(caller):
    service = socket.create_connection(SERVICE)
    threading.Thread(target=relay, args=(service, caller), daemon=True).start()
    relay(caller, service)


listener = socket.create_server(PROXY)
link = redirect()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
