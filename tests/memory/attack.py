"""Callers that ask for everything that has an answer, and do not read it, or only a little."""

import contextlib
import itertools
import resource
import select
import socket
import threading
import time
import urllib.parse

from checks import PATIENCE, wait_for
from unix_http import TOKEN, RawConnection, get_request, token_target
from users import UserProcess

# Nearly all seats: all but a few of `limits.max_connections` and of `limits.max_connections_per_uid`.
CONNECTIONS = 250
# The monitor's seats are 16, 8 for each user.
MONITORS = 4
# What is left of as many would fill the cgroup, from four users.
ONE_BY_ONE = 6000
# An attack is at its height when nothing moves any more, but lasts at least the one time, since documents are rendered
# anew each second, and at most the other.
AT_LEAST, AT_MOST = 4, 15
PROOF = "Metadata: true"
# Where everybody is slow, the one who must be served has to wait, too.
LONG = 150


def resource_name(number):
    """As long as the names of applications get that are registered by a URI of their own."""
    return f"api://{number}.example/" + "subscriptions/resourcegroups/" * 10


def documents(host):
    return b"".join(get_request(path, host=host) for path in ("/metrics", "/ready", "/status"))


def tokens(host):
    form = f"resource={urllib.parse.quote(resource_name(2))}"
    post = f"POST /oauth2/token HTTP/1.1\r\nHost: {host}\r\n{PROOF}\r\nContent-Length: {len(form)}\r\n\r\n{form}"
    return get_request(TOKEN + resource_name(1), PROOF, host=host) + post.encode()


def errors(host):
    """A 403 for those without a rule, 404 and 400 of each kind, with the longest text that they repeat."""
    long = "x" * 1000
    targets = [
        TOKEN + resource_name(9) + "&client_id=" + "i" * 500,
        "/msi/token?resource=" + long,
        "/nowhere",
        TOKEN + "https://a/&" + long,
        TOKEN + "%zz",
    ]
    return b"".join(get_request(target, PROOF, host=host) for target in targets)


def everything(host):
    return tokens(host) + documents(host) + errors(host)


def last_error(host):
    """One answer, after which the daemon closes."""
    return get_request("/msi/token?resource=" + "x" * 1000, PROOF, "Connection: close", host=host)


def unfinished(host):
    """A head that is nearly as long as any may be, and does not end."""
    return get_request("/", "X-Long: " + "x" * 15000, host=host)[:-2]


def endless(host):
    """A head beyond any bound, which does not end."""
    return get_request("/", "X-Long: " + "x" * 500_000, host=host)[:-2]


# What each attacker sends, to which listener, and how much of the answers it reads.
ATTACKS = {
    "documents, unread": (documents, "socket", "nothing"),
    "documents, half read": (documents, "socket", "a little"),
    "documents, read": (documents, "socket", "all"),
    "tokens, unread": (tokens, "socket", "nothing"),
    "errors, unread": (errors, "socket", "nothing"),
    "one connection after the other, unread": (last_error, "socket", "nothing"),
    "unfinished requests": (unfinished, "socket", "nothing"),
    "endless requests": (endless, "socket", "nothing"),
    "SDK listener, unread": (everything, "sdk", "nothing"),
    "SDK listener, one connection after the other, unread": (last_error, "sdk", "nothing"),
    "SDK listener, half read": (everything, "sdk", "a little"),
    "SDK listener, unfinished requests": (unfinished, "sdk", "nothing"),
    "monitor, unread": (documents, "monitor", "nothing"),
    "all at once": (everything, "all", "mixed"),
}


class Sender:
    """One connection of an attacker."""

    def __init__(self, to, data, reads):
        self.socket = socket.socket(socket.AF_INET if isinstance(to, tuple) else socket.AF_UNIX)
        if reads != "all":
            # Little room at this end, so that answers stay at the daemon's.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(to)
        self.socket.setblocking(False)
        self.data, self.reads, self.open = data, reads, True

    def step(self):
        """Sends what the kernel takes and reads what it may; how many bytes moved."""
        moved = 0
        try:
            if self.reads != "nothing":
                with contextlib.suppress(BlockingIOError):
                    moved += len(self.socket.recv(1 << 20 if self.reads == "all" else 100))
            sent = self.socket.send(self.data.rest())
            moved += sent
            self.data.went(sent)
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        return moved


class Data:
    """Bytes to send, once or again and again, from wherever the kernel stopped to take them."""

    def __init__(self, data, again):
        self.data, self.again, self.at = memoryview(data), again, 0

    def rest(self):
        if self.at == len(self.data):
            if not self.again:
                raise BlockingIOError
            self.at = 0
        return self.data[self.at :]

    def went(self, count):
        self.at += count


def senders(addresses, what, where, reads):
    places = ["socket", "sdk", "socket", "monitor"] if where == "all" else [where]
    ways = ["nothing", "a little", "nothing", "all"] if reads == "mixed" else [reads]
    monitors = 0
    for place, way in itertools.islice(zip(itertools.cycle(places), itertools.cycle(ways)), CONNECTIONS):
        monitors += place == "monitor"
        if place == "monitor" and monitors > MONITORS:
            continue
        to = addresses[place]
        host = f"{to[0]}:{to[1]}" if isinstance(to, tuple) else "localhost"
        data = documents(host) if place == "monitor" else what(host)
        again = what not in (unfinished, endless)
        yield Sender(to, Data(data * (20 if again else 1), again), way)


def one_by_one(to, request, at_height):
    """Connections that the daemon has answered and closed, none of them read or closed at this end."""
    held = []
    for _ in range(ONE_BY_ONE):
        held.append(socket.socket(socket.AF_INET if isinstance(to, tuple) else socket.AF_UNIX))
        # Little room at this end, so that answers over TCP stay at the daemon's.
        held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        with contextlib.suppress(ConnectionError):
            held[-1].connect(to)
            held[-1].send(request)
        # Whoever floods the queue is another test's.
        answered = select.poll()
        answered.register(held[-1], select.POLLIN)
        answered.poll(PATIENCE * 1000)
    at_height(ONE_BY_ONE * len(request))
    time.sleep(PATIENCE)


def flood(addresses, what, where, reads, at_height):
    """Calls `at_height` with the bytes sent when the attack is at its height, and goes on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(4 * CONNECTIONS, 2 * ONE_BY_ONE)), hard))
    if what is last_error:
        to = addresses[where]
        return one_by_one(to, what(f"{to[0]}:{to[1]}" if isinstance(to, tuple) else "localhost"), at_height)
    connections = list(senders(addresses, what, where, reads))
    began, moved, still, told = time.monotonic(), 0, 0, False
    while True:
        now = sum(sender.step() for sender in connections if sender.open)
        moved, still = moved + now, 0 if now else still + 1
        took = time.monotonic() - began
        if not told and (took > AT_MOST or (took > AT_LEAST and still > 20)):
            at_height(moved)
            told = True
        time.sleep(0.02)


class Other(UserProcess):
    """A user who asks for a token on a connection of its own, again and again."""

    def __init__(self, uid, path):
        request = get_request(token_target(resource_name(0)), "Metadata: true")

        def ask(tell):
            while True:
                began = time.monotonic()
                with RawConnection(path) as connection:
                    connection.socket.settimeout(LONG)
                    status, _ = connection.ask(request)
                tell(f"{status} {(time.monotonic() - began) * 1000:.0f}")
                time.sleep(0.02)

        super().__init__(uid, ask)
        self.answers = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        with contextlib.suppress(ValueError):
            for line in self.lines:
                self.answers.append([int(number) for number in line.split()])

    def is_served(self, times):
        """So many times more, from now on."""
        goal = len(self.answers) + times
        with contextlib.suppress(TimeoutError):
            wait_for("another user's answers", lambda: len(self.answers) >= goal, LONG)
        return len(self.answers) >= goal and all(status == 200 for status, _ in self.answers)
