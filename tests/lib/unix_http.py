"""HTTP over a Unix socket. Uses the standard library alone: it is also copied into booted machines."""

import collections
import http.client
import json
import socket
import urllib.parse

PATIENCE = 60
PROOF = {"Metadata": "true"}
STORAGE = "https://storage.azure.com/"
# The metadata service's route, for a resource that needs no encoding.
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource="


def token_target(resource=STORAGE, **more):
    """The metadata service's route for any resource, percent-encoded."""
    return TOKEN + urllib.parse.quote(resource, safe="") + "".join(f"&{key}={value}" for key, value in more.items())


def _connect(to):
    connection = socket.socket(socket.AF_INET if isinstance(to, tuple) else socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(to if isinstance(to, tuple) else str(to))
    return connection


class Connection(http.client.HTTPConnection):
    """To a socket's path, or to an address and a port, by no look-up of names, which would load code."""

    def __init__(self, to):
        super().__init__(*(to if isinstance(to, tuple) else ("localhost",)), timeout=PATIENCE)
        self.to = to

    def connect(self):
        self.sock = _connect(self.to)


class Reply(collections.namedtuple("Reply", "status headers text")):
    def json(self):
        return json.loads(self.text)


def ask(to, target, headers=PROOF, method="GET", body=None):
    """One request on a connection of its own."""
    connection = Connection(to)
    try:
        connection.request(method, target, body, headers)
        reply = connection.getresponse()
        return Reply(reply.status, reply.getheaders(), reply.read().decode())
    finally:
        connection.close()


def get_request(target, *headers, host="localhost"):
    """The bytes of a GET."""
    return "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


class RawConnection:
    """A kept connection, with as little of HTTP/1.1 as it takes: what is measured with it is the daemon."""

    def __init__(self, to):
        self.socket = _connect(to)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """Status and body of the next answer."""
        while b"\r\n\r\n" not in self.rest:
            self._fill()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(self.rest) < length:
            self._fill()
        body, self.rest = self.rest[:length], self.rest[length:]
        return int(head.split(b" ", 2)[1]), body

    def ask(self, data):
        self.send(data)
        return self.answer()

    def _fill(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("closed by the daemon")
        self.rest += data
