"""Eight clients that ask for tokens in a loop, each in its own way, until standard input ends.

Runs inside the booted machine. Prints one JSON object: how many requests were answered, and every failure. A client
that keeps its connection open does what HTTP asks of it (RFC 9112, 9.3.1): a request on a connection that turns out
to be closed is sent once more on a new one; a failure of that is a failure.
"""

import http.client
import json
import subprocess
import sys
import threading
import time

from unix_http import PROOF, STORAGE, TOKEN, Connection

SOCKET = "/run/msi-tokend/msi-tokend.sock"


def ask(connection):
    connection.request("GET", TOKEN + STORAGE, headers=PROOF)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body[:300]!r}")
    return json.loads(body)["access_token"]


def fresh():
    connection = Connection(SOCKET)
    try:
        ask(connection)
    finally:
        connection.close()


def keeping():
    connection = Connection(SOCKET)
    used = False

    def once():
        nonlocal connection, used
        try:
            ask(connection)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not used:
                raise
            connection.close()
            connection = Connection(SOCKET)
            used = False
            ask(connection)
        used = True

    return once


def program(*command):
    def once():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} exited {done.returncode}: {done.stderr.strip()[:300]}")

    return once


def main():
    curl = program("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", "--unix-socket", SOCKET,
                   "--header", "Metadata: true", f"http://localhost{TOKEN}{STORAGE}")
    client = program("msi-token", "get", "--resource", STORAGE)
    clients = {"fresh": [fresh, fresh, fresh], "keeping": [keeping(), keeping()], "curl": [curl], "msi-token": [client, client]}
    answered = dict.fromkeys(clients, 0)
    failures = []
    stop = threading.Event()

    def loop(kind, once):
        while not stop.is_set():
            try:
                once()
            except Exception as error:  # noqa: BLE001  every failure is reported
                failures.append(f"{time.time():.3f} {kind}: {error!r}")
            else:
                answered[kind] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=loop, args=(kind, once)) for kind, list_ in clients.items() for once in list_]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"answered": answered, "failures": failures}))


main()
