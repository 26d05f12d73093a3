"""A stand-in for Azure SQL Database: TDS 8.0, of which it knows the sign-in with a token ([MS-TDS], "Federated Authentication") and to
answer all else with "done"."""

import socket
import struct
import threading

DATABASE = "server.database.windows.net"
RESOURCE = "https://database.windows.net/"
REPLY, LOGIN, TOKEN, PRELOGIN = 0x04, 0x10, 0x08, 0x12
DONE = struct.pack("<BHHQ", 0xFD, 0, 0, 0)


def utf16(text):
    return text.encode("utf-16-le")


def options_of_prelogin():
    """The version, encryption as it is anyway, no instance, no thread, one request at a time, and: a token is needed."""
    options = {0: b"\x10\0\x07\xd0\0\0", 1: b"\x01", 2: b"\0", 3: b"", 4: b"\0", 6: b"\x01"}
    head, offset = b"", 5 * len(options) + 1
    for option, data in options.items():
        head += struct.pack(">BHH", option, offset, len(data))
        offset += len(data)
    return head + b"\xff" + b"".join(options.values())


def whom_to_ask():
    """FEDAUTHINFO: where to sign in, and for which resource."""
    parts = {1: utf16("https://login.microsoftonline.com/common"), 2: utf16(RESOURCE)}
    head, offset = struct.pack("<I", len(parts)), 4 + 9 * len(parts)
    for part, data in parts.items():
        head += struct.pack("<BII", part, len(data), offset)
        offset += len(data)
    body = head + b"".join(parts.values())
    return struct.pack("<BI", 0xEE, len(body)) + body


def welcome(version):
    """LOGINACK, FEATUREEXTACK for the token, DONE."""
    name = "Microsoft SQL Server"
    ack = b"\x01" + version + bytes([len(name)]) + utf16(name) + b"\x10\0\x07\xd0"
    return struct.pack("<BH", 0xAD, len(ack)) + ack + b"\xae\x02\0\0\0\0\xff" + DONE


def token_of(login):
    """The token that a LOGIN7 has in it, among its features; None where the program wants to be told for what to ask."""
    extension = struct.unpack_from("<H", login, 56)[0]
    at = struct.unpack_from("<I", login, extension)[0]
    while login[at] != 0xFF:
        feature, length = struct.unpack_from("<BI", login, at)
        data = login[at + 5:at + 5 + length]
        if feature == 2 and data[0] >> 1 == 1:
            return data[5:5 + struct.unpack_from("<I", data, 1)[0]].decode("utf-16-le")
        at += 5 + length
    return None


class Database:
    """Each sign-in is added to `seen` as its host, what it is, and the token in the form of an Authorization header."""

    def __init__(self, authority, seen):
        self.seen = seen
        self.listener = authority.wrap(socket.create_server(("127.0.0.1", 1433)), ["tds/8.0"])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            visitor, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=[visitor], daemon=True).start()

    def _serve(self, visitor):
        with visitor, visitor.makefile("rwb") as stream:
            version = b""
            while message := self._read(stream):
                kind, data = message
                if kind == PRELOGIN:
                    answer = options_of_prelogin()
                elif kind == LOGIN:
                    version = data[7:3:-1]
                    answer = self._sign_in(token, version) if (token := token_of(data)) else whom_to_ask()
                elif kind == TOKEN:
                    length = struct.unpack_from("<I", data, 4)[0]
                    answer = self._sign_in(data[8:8 + length].decode("utf-16-le"), version)
                else:
                    answer = DONE
                stream.write(struct.pack(">BBHHBB", REPLY, 1, 8 + len(answer), 0, 1, 0) + answer)
                stream.flush()

    def _sign_in(self, token, version):
        self.seen.append((DATABASE, "sign-in", f"Bearer {token}"))
        return welcome(version)

    def _read(self, stream):
        """A message's kind and data, of as many packets as it takes; nothing at the end."""
        data = b""
        while len(head := stream.read(8)) == 8:
            kind, status, length = struct.unpack(">BBH", head[:4])
            data += stream.read(length - 8)
            if status & 1:
                return kind, data
        return None
