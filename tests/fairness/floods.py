"""What a user can do to the daemon as fast as it goes, and what others have of it meanwhile.

A flood is one process for each attacker. Three others ask all the while: for a cached token on an open connection, for the
same on a new connection each time, and for a token that is not cached. Each runs as a user of its own.
"""

import collections
import contextlib
import itertools
import os
import resource
import socket
import statistics
import threading
import time

from checks import PATIENCE
from daemon import Daemon, configuration
from endpoint import Endpoint
from places import open_directory
from unix_http import RawConnection, get_request, token_target
from users import DAEMON, UserProcess

PROOF = "Metadata: true"
CACHED = "https://cached.example/"
SLOW = "slow"
SLOWLY = "1500ms"
# All that one user may have by default.
CONNECTIONS = 256
# Of nobody on any system.
HITS, CONNECTS, MISSES, *ATTACKERS = range(1918301, 1918308)
VICTIMS = {"hit, open": HITS, "hit, new": CONNECTS, "miss": MISSES}

# Answers that each of them must have had, however busy the machine is.
LEAST = {"hit, open": 5, "hit, new": 5, "miss": 2}

Flood = collections.namedtuple("Flood", "attack is_ruled requests reads", defaults=(None, True))


def every(make):
    """Requests without end, some at a time."""
    return lambda uid: (b"".join(make(uid, n) for n in range(first, first + 8)) for first in itertools.count(0, 8))


def ask(target):
    return get_request(target, PROOF)


hits = every(lambda uid, n: ask(token_target(CACHED)))
documents = every(lambda uid, n: b"".join(ask(path) for path in ("/metrics", "/ready", "/status")))
misses = every(lambda uid, n: ask(token_target(f"https://{uid}.{n}.example/")))
slow_misses = every(lambda uid, n: ask(token_target(f"https://{SLOW}.{uid}.{n}.example/")))
forced = every(lambda uid, n: ask(token_target(f"https://{uid}.{n % 64}.example/", bypass_cache="true")))


def pipeline(flood, socket_path, uid, tell):
    """All connections it can have, each as many requests as the kernel takes; one that is closed is opened again."""
    senders = [Sender(flood, socket_path, uid, number) for number in range(CONNECTIONS)]
    for round_ in itertools.count():
        moved = sum(sender.step() for sender in senders)
        if round_ == 2:
            tell("at height")
        if not moved:
            time.sleep(0.005)


def slow_heads(_, socket_path, uid, tell):
    """Heads that do not end, a byte now and then."""
    flood = Flood(None, False, lambda uid: itertools.repeat(b"x"))
    senders = [Sender(flood, socket_path, uid, number) for number in range(CONNECTIONS)]
    for round_ in itertools.count():
        for sender in senders:
            sender.rest = b"GET / HTTP/1.1\r\nX-Long: x" if sender.is_new else b"x"
            sender.step()
        if round_ == 2:
            tell("at height")
        time.sleep(0.2)


def connects(_, socket_path, uid, tell):
    """Connections that are closed at once."""
    for number in itertools.count():
        with socket.socket(socket.AF_UNIX) as one:
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.connect(socket_path)
        if number == CONNECTIONS:
            tell("at height")


FLOODS = {
    "hits": Flood(pipeline, True, hits),
    "refusals": Flood(pipeline, False, misses),
    "documents": Flood(pipeline, False, documents),
    "connects": Flood(connects, False),
    "unread answers": Flood(pipeline, True, hits, reads=False),
    "slow heads": Flood(slow_heads, False),
    "misses": Flood(pipeline, True, misses),
    "slow misses": Flood(pipeline, True, slow_misses),
    "forced refreshes": Flood(pipeline, True, forced),
}


class Sender:
    """One connection of an attacker."""

    def __init__(self, flood, path, uid, number):
        self.flood, self.path, self.uid = flood, path, uid
        self.requests = flood.requests(uid)
        # Connections ask for different things.
        for _ in range(number % 16):
            next(self.requests)
        self.socket, self.rest, self.is_new = None, b"", True

    def step(self):
        """Sends what the kernel takes and reads what there is; how many bytes moved."""
        moved = 0
        try:
            if self.socket is None:
                self.open()
            if self.flood.reads:
                with contextlib.suppress(BlockingIOError):
                    data = self.socket.recv(1 << 18)
                    if not data:
                        raise ConnectionError
                    moved += len(data)
            self.rest = self.rest or next(self.requests)
            sent = self.socket.send(self.rest)
            self.rest, self.is_new = self.rest[sent:], False
            return moved + sent
        except BlockingIOError:
            return moved
        except OSError:
            self.close()
            return 0

    def open(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.rest, self.is_new = b"", True
        self.socket.connect(self.path)

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None


class Attacker(UserProcess):
    def __init__(self, flood, socket_path, uid):
        def attack(tell):
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CONNECTIONS), hard))
            # What is measured is the daemon, not how a machine with few processors shares them.
            os.nice(10)
            flood.attack(flood, socket_path, uid, tell)

        super().__init__(uid, attack)


class BlockingConnection(RawConnection):
    """Made by a connect that waits while the daemon's queue is full, as most programs' do. Python's fails at once where the
    socket has a time limit."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(PATIENCE)
        self.rest = b""


class Victim(UserProcess):
    """Somebody who asks again and again, and tells of each answer when it was asked for, how long it took and what it was."""

    def __init__(self, name, socket_path):
        self.name, self.answers = name, []
        super().__init__(VICTIMS[name], lambda tell: getattr(self, "ask_" + name.replace(", ", "_"))(socket_path, tell))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        with contextlib.suppress(ValueError):
            for line in self.lines:
                began, took, status = line.rstrip("\n").split(maxsplit=2)
                self.answers.append((float(began), float(took), status))

    @staticmethod
    def timed(tell, ask):
        """Whether it went well."""
        began = time.monotonic()
        try:
            status, _ = ask()
        except OSError as error:
            status = repr(error)
        tell(f"{began} {time.monotonic() - began} {status}")
        return status == 200

    def ask_hit_open(self, socket_path, tell):
        connection = BlockingConnection(socket_path)
        while True:
            if not self.timed(tell, lambda: connection.ask(ask(token_target(CACHED)))):
                connection = BlockingConnection(socket_path)
            time.sleep(0.002)

    def ask_hit_new(self, socket_path, tell):
        def once():
            with BlockingConnection(socket_path) as connection:
                return connection.ask(ask(token_target(CACHED)))

        while True:
            self.timed(tell, once)
            time.sleep(0.005)

    def ask_miss(self, socket_path, tell):
        for number in itertools.count():
            with BlockingConnection(socket_path) as connection:
                target = token_target(f"https://miss.{number}.example/")
                self.timed(tell, lambda: connection.ask(ask(target)))
            time.sleep(0.1)

    def since(self, began, until=float("inf")):
        return [answer for answer in list(self.answers) if began <= answer[0] < until]


class Seen:
    """What one of the others had: of how many answers how many failed, and how long they took, in milliseconds."""

    def __init__(self, answers):
        self.answers = answers
        times = sorted(took * 1000 for _, took, _ in answers)
        self.count = len(times)
        self.failures = [status for _, _, status in answers if status != "200"]
        self.p50 = statistics.median(times) if times else float("nan")
        self.p99 = times[int(len(times) * 0.99)] if times else float("nan")


class Stage:
    """A daemon with one token cached, and the three who ask."""

    def __init__(self, flood, binaries):
        self.flood, self.binaries = FLOODS[flood], binaries
        self.ends = contextlib.ExitStack()

    def __enter__(self):
        directory = self.ends.enter_context(open_directory())
        self.endpoint = self.ends.enter_context(Endpoint(binaries=self.binaries))
        self.endpoint.script(f'[[fault]]\nmatch = {{ resource = "{SLOW}" }}\ntimes = 0\ndelay = "{SLOWLY}"\n')
        run = directory / "run"
        run.mkdir(mode=0o755)
        os.chown(run, DAEMON, DAEMON)
        ruled = [*VICTIMS.values(), *(ATTACKERS if self.flood.is_ruled else [])]
        config = configuration(self.endpoint, run / "s", more=f"[[allow]]\nusers = {ruled}\n")
        options = {"user": DAEMON, "group": DAEMON, "extra_groups": []}
        self.daemon = self.ends.enter_context(Daemon(directory, config, binaries=self.binaries, **options).start())
        self.victims = {name: Victim(name, str(self.daemon.socket)) for name in VICTIMS}
        for victim in self.victims.values():
            self.ends.callback(victim.end)
        return self

    def __exit__(self, *_):
        self.ends.close()

    def at_rest(self, seconds):
        return self.watch(seconds)

    def under_flood(self, attackers, seconds):
        with contextlib.ExitStack() as ends:
            running = [Attacker(self.flood, str(self.daemon.socket), uid) for uid in ATTACKERS[:attackers]]
            for attacker in running:
                ends.callback(attacker.end)
            for attacker in running:
                attacker.lines.readline()
            return self.watch(seconds)

    def watch(self, seconds):
        """What each had of what it asked from now on, for so long, and until each had some answers."""
        began = time.monotonic()
        time.sleep(seconds)
        end = began + PATIENCE
        while any(len(self.victims[name].since(began)) < count for name, count in LEAST.items()):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        return {name: Seen(victim.since(began)) for name, victim in self.victims.items()}
