"""What the journal has, read back field by field, and what happens when journald does not listen."""

import re

from checks import wait_for
from places import REPOSITORY
from service import RESOURCE, configure, get, installed

UNIT = "_SYSTEMD_UNIT=msi-tokend.service"


def test_fields(machine):
    """a refusal is found by its structured fields, which say who, what and why; so is a grant"""
    installed(machine)
    uid = machine.run("id", "--user", "stranger")
    get(machine, "stranger")
    refusals = machine.journal(UNIT, "OUTCOME=denied", f"UID={uid}", f"RESOURCE={RESOURCE}", "IDENTITY=default")
    assert len(refusals) == 1, refusals
    assert refusals[0]["SYSLOG_IDENTIFIER"] == "msi-tokend" and refusals[0]["_TRANSPORT"] == "journal", refusals
    get(machine, "member")
    member = machine.run("id", "--user", "member")
    assert machine.journal(UNIT, f"UID={member}", f"RESOURCE={RESOURCE}", "IDENTITY=default")


def test_no_token(machine):
    """no record has a token in it"""
    token = get(machine, "member").stdout.strip()
    for record in machine.journal():
        for part in token.split("."):
            assert part not in str(record), record


def test_stalled(machine):
    """with journald stopped, requests are answered at once while records pile up, and what was dropped is counted"""
    configure(machine, "50-debug", '[log]\nlevel = "debug"\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    journald = machine.show("systemd-journald.service", "MainPID")["MainPID"]
    machine.kill("STOP", journald)
    try:
        # Each broken request is a record at level debug; 3000 are more than journald's socket and the queue hold.
        slowest = machine.python("""
import http.client, json, socket, time

def connect():
    stream = socket.socket(socket.AF_UNIX)
    stream.connect("/run/msi-tokend/msi-tokend.sock")
    return stream

slowest = 0
connection = http.client.HTTPConnection("localhost")
connection.sock = connect()
for _ in range(3000):
    broken = connect()
    broken.sendall(b"GET / HTTP/1.1\\r\\nHost")
    broken.close()
    began = time.monotonic()
    connection.request("GET", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/",
                       headers={"Metadata": "true"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    slowest = max(slowest, time.monotonic() - began)
print(json.dumps(slowest))
""")
    finally:
        machine.kill("CONT", journald)
    print(f"   slowest answer {slowest * 1000:.1f} ms")
    assert slowest < 5, slowest
    metrics = machine.run("curl", "--silent", "--unix-socket", "/run/msi-tokend/msi-tokend.sock", "http://localhost/metrics")
    dropped = int(re.search(r"^msi_tokend_log_dropped_total (\d+)", metrics, re.MULTILINE)[1])
    assert dropped > 0, "the test did not fill the queue"
    wait_for("a record of the drops", lambda: any("records dropped" in record["MESSAGE"] for record in machine.journal(UNIT)))


def test_syslog(machine):
    """what journald passes on to syslog comes from msi-tokend, as a daemon's, with the level"""
    machine.write("/etc/systemd/journald.conf.d/syslog.conf", "[Journal]\nForwardToSyslog=yes\n")
    machine.run("systemctl", "restart", "systemd-journald.service")
    listener = machine.popen("python3", "-c", """
import os, re, socket
path = "/run/systemd/journal/syslog"
if os.path.exists(path):
    os.unlink(path)
syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
syslog.settimeout(60)
syslog.bind(path)
print("bound", flush=True)
while True:
    record = syslog.recv(65536).decode()
    if re.search(r"msi-tokend\\[\\d+\\]: .*reload", record):
        print(record)
        break
""")
    listener.stdout.readline()
    machine.run("systemctl", "reload", "msi-tokend.service")
    record = listener.communicate(timeout=120)[0]
    # daemon is 3, info 6.
    assert record.startswith(f"<{3 * 8 + 6}>"), record


def test_catalog(machine):
    """every message id that the daemon uses has an entry in the catalog, and journalctl -x shows it"""
    catalog = (REPOSITORY / "systemd/msi-tokend.catalog").read_text()
    entries = set(re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.MULTILINE))
    sources = "".join(path.read_text() for path in (REPOSITORY / "src").rglob("*.rs"))
    used = set(re.findall(r'"([0-9a-f]{32})"', sources))
    assert entries == used and entries, (entries, used)
    for entry in entries:
        machine.run("journalctl", "--dump-catalog", entry)
