"""Callers of a daemon, each a process with a uid of its own that notes what it got."""

import collections
import json
import os
import random
import time
import traceback
import urllib.parse

from unix_http import STORAGE, TOKEN, RawConnection, get_request, token_target
from users import become

# Its tokens live just longer than the five minutes from which on clients ask again and again.
SHORT = "https://short.example/"
WINDOW = 10


def token(resource, **more):
    return get_request(token_target(resource, **more), "Metadata: true")


class Notes:
    """What a caller got."""

    def __init__(self):
        self.answers = collections.Counter()
        self.wrong = []
        self.wrong_count = 0
        # Milliseconds by window of the run.
        self.took = collections.defaultdict(list)

    def note(self, what, wanted, answer):
        status, body = answer
        self.answers[f"{what} {status}"] += 1
        if status not in wanted:
            self.error(what, f"{status} {body[:200]!r}")

    def error(self, what, why):
        self.wrong_count += 1
        if len(self.wrong) < 5:
            self.wrong.append(f"{what}: {why}")

    def percentiles(self):
        """The 99th of each window with enough in it."""
        worst = {}
        for window, took in self.took.items():
            if len(took) >= 100:
                worst[window] = sorted(took)[len(took) * 99 // 100]
        return worst


def steady(place, notes):
    """One kept connection that asks for a cached token: what is measured."""
    began = time.monotonic()
    request = token(STORAGE)
    with RawConnection(place.socket) as connection:
        while place.goes_on():
            start = time.monotonic()
            notes.note("a cached token", [200], connection.ask(request))
            end = time.monotonic()
            notes.took[int((end - began) / WINDOW)].append((end - start) * 1000)
            time.sleep(0.005)


def anew(place, notes):
    """A connection for each request, on every route to a token that is there."""
    form = f"resource={urllib.parse.quote(STORAGE)}".encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(form), form)
    head = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n"
    sdk = dict(host=f"127.0.0.1:{place.sdk[1]}")
    app_service = get_request(f"/msi/token?api-version=2019-08-01&resource={STORAGE}", "X-IDENTITY-HEADER: msi-tokend", **sdk)
    requests = [
        ("a cached token", place.socket, token(STORAGE)),
        ("a cached token with a short life", place.socket, token(SHORT)),
        ("a cached token by a form", place.socket, f"{head}Content-Length: {len(form)}\r\n\r\n".encode() + form),
        ("a cached token by a form", place.socket, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked),
        ("a cached token for an SDK", place.sdk, app_service),
        ("a cached token for an SDK", place.sdk, get_request(f"/oauth2/token?resource={STORAGE}", "Metadata: true", **sdk)),
    ]
    while place.goes_on():
        for what, to, request in requests:
            with RawConnection(to) as connection:
                notes.note(what, [200], connection.ask(request))
            time.sleep(0.01)


def cold(place, notes):
    """Tokens that are not there, from an endpoint that fails half of the time."""
    while place.goes_on():
        with RawConnection(place.socket) as connection:
            for _ in range(place.random.randrange(1, 8)):
                resource = f"https://cold.example/{place.random.randrange(200)}"
                notes.note("some token", [200, 400, 429, 503, 504], connection.ask(token(resource)))
                time.sleep(0.02)
            notes.note("a cached token, forced", [200], connection.ask(token(STORAGE, bypass_cache="true")))


def stranger(place, notes):
    """No rule is for it, neither here nor there."""
    resources = [STORAGE, SHORT, "https://cold.example/1", "https://never.example/%d"]
    with RawConnection(place.socket) as connection:
        while place.goes_on():
            resource = place.random.choice(resources).replace("%d", str(place.random.random()))
            notes.note("a refusal", [403], connection.ask(token(resource)))
            notes.note("a refusal", [400], connection.ask(get_request(TOKEN + STORAGE)))
            sdk = get_request(f"/msi/token?resource={STORAGE}", "X-IDENTITY-HEADER: msi-tokend", host=f"127.0.0.1:{place.sdk[1]}")
            with RawConnection(place.sdk) as other:
                notes.note("a refusal over loopback", [403], other.ask(sdk))
            time.sleep(0.02)


def limited(place, notes):
    """A rule is for it, and for one resource."""
    with RawConnection(place.socket) as connection:
        while place.goes_on():
            notes.note("a cached token", [200], connection.ask(token(STORAGE)))
            notes.note("a refusal", [403], connection.ask(token(SHORT)))
            time.sleep(0.02)


def observer(place, notes):
    """Monitoring."""
    while place.goes_on():
        with RawConnection(place.monitor) as connection:
            for path in ("/live", "/metrics"):
                notes.note(path, [200], connection.ask(get_request(path)))
            # Which token is warm changes with each reload.
            notes.note("/ready", [200, 503], connection.ask(get_request("/ready")))
        with RawConnection(place.socket) as connection:
            notes.note("/status", [200], connection.ask(get_request("/status")))
        time.sleep(0.2)


def rude(place, notes):
    """What no honest client does. Whatever it is answered, the others must not notice."""
    good = token(STORAGE)
    waiting = []

    def leave_open(connection):
        waiting.append(connection)
        if len(waiting) > 20:
            waiting.pop(0).socket.close()

    def send(data, keep=False):
        connection = RawConnection(place.socket)
        try:
            # Whatever the kernel takes: the daemon may be waiting for us to read.
            connection.socket.setblocking(False)
            connection.socket.send(data)
        except OSError:
            pass
        if keep:
            leave_open(connection)
        else:
            connection.socket.close()

    form = b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nContent-Length: 500\r\n\r\nresource="
    ways = [
        lambda: send(b""),
        lambda: send(good[: place.random.randrange(len(good))]),
        lambda: send(good),
        lambda: send(token(f"https://cold.example/{place.random.randrange(200)}")),
        lambda: send(good * 50),
        lambda: send(place.random.randbytes(300)),
        lambda: send(form),
        lambda: send(get_request("/" + "x" * 20000)),
        lambda: send(good[:20], keep=True),
        lambda: send(form, keep=True),
        lambda: send(good * 1000, keep=True),
        lambda: send(good, keep=True),
    ]
    while place.goes_on():
        place.random.choice(ways)()
        notes.answers["rude"] += 1
        time.sleep(0.02)
    for connection in waiting:
        connection.socket.close()


class Place:
    """Where a daemon is, and until when."""

    def __init__(self, socket_path, sdk, monitor, seconds, seed):
        self.socket, self.sdk, self.monitor = socket_path, sdk, monitor
        self.end = time.monotonic() + seconds
        self.random = random.Random(seed)

    def goes_on(self):
        return time.monotonic() < self.end


class Caller:
    """A process of `uid` that calls as `way` does."""

    def __init__(self, way, uid, place):
        self.way = way
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            # Nothing here may import: another user may have no way to Python's files.
            notes = Notes()
            try:
                place.random.seed(f"{place.random.random()} {way.__name__}")
                become(uid)
                way(place, notes)
            except BaseException as error:
                notes.error(way.__name__, "".join(traceback.format_exception_only(error)).strip())
            told = [notes.answers, notes.wrong, notes.wrong_count, notes.percentiles()]
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
        os.close(writer)
        self.pipe = os.fdopen(reader, "rb")

    def result(self):
        """Answers by kind, what was wrong, how often, and the 99th percentile of each window."""
        text = self.pipe.read()
        os.waitpid(self.pid, 0)
        return json.loads(text)
