"""Asks for tokens over the loopback listener.  tcp_caller.py ADDRESS MODE ARGUMENT…

Runs inside the booted machine, and prints JSON. A request is the metadata service's, with nothing secret in it.

  ask RESOURCE…               a connection for each: the statuses
  many COUNT RESOURCE OTHER   so many connections that stay open, each asking for both: how often there was which pair
  below GROUP RESOURCE        moves to a group below its own first: the status
  moved RESOURCE              says "made" when it has a socket, connects when its standard input ends: the status
  hand PATH COUNT             connects so many sockets, hands each to whoever listens at PATH, and ends
  hold PATH COUNT RESOURCE    takes them, says "holding", and asks by them when its standard input ends: the statuses
  gone RESOURCE COUNT         asks on so many connections and is gone before the answers: nothing
"""

import collections
import json
import os
import pathlib
import socket
import sys

address, mode, *rest = sys.argv[1:]
host, port = address.rsplit(":", 1)


def connected():
    return socket.create_connection((host, int(port)), timeout=60)


def send(connection, resource):
    path = f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nMetadata: true\r\n\r\n".encode())


def ask(connection, resource):
    """The status, 0 where the connection ended without one."""
    connection.settimeout(60)
    try:
        send(connection, resource)
        answer = b""
        while b"\r\n\r\n" not in answer:
            if not (part := connection.recv(65536)):
                return 0
            answer += part
        head, body = answer.split(b"\r\n\r\n", 1)
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        while len(body) < length:
            body += connection.recv(65536)
        return int(head.split()[1])
    except ConnectionError:
        return 0


def say(what):
    print(json.dumps(what), flush=True)


match mode:
    case "ask":
        say([ask(connected(), resource) for resource in rest])
    case "many":
        connections = [connected() for _ in range(int(rest[0]))]
        pairs = collections.Counter(f"{ask(c, rest[1])} {ask(c, rest[2])}" for c in connections)
        say(pairs)
    case "below":
        ours = pathlib.Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0]
        group = pathlib.Path(f"/sys/fs/cgroup{ours}", rest[0])
        group.mkdir(parents=True)
        pathlib.Path(group, "cgroup.procs").write_text(str(os.getpid()))
        say(ask(connected(), rest[1]))
    case "moved":
        connection = socket.socket()
        say("made")
        sys.stdin.read()
        connection.connect((host, int(port)))
        say(ask(connection, rest[0]))
    case "hand":
        with socket.socket(socket.AF_UNIX) as receiver:
            receiver.connect(rest[0])
            for _ in range(int(rest[1])):
                with connected() as connection:
                    socket.send_fds(receiver, [b"x"], [connection.fileno()])
    case "hold":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(rest[0])
            os.chmod(rest[0], 0o666)
            listener.listen()
            sender = listener.accept()[0]
            held = []
            while len(held) < int(rest[1]):
                held += socket.recv_fds(sender, 1, 1)[1]
            while sender.recv(1):
                pass    # its end is that of the process
        say("holding")
        sys.stdin.read()
        say([ask(socket.socket(fileno=fd), rest[2]) for fd in held])
    case "gone":
        for _ in range(int(rest[1])):
            send(connected(), rest[0])
