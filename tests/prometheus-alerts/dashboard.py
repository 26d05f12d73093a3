"""The dashboard for Grafana, each of its queries answered by a Prometheus that scrapes the service in a booted system, where
the lock is on and where everything that it has a panel for has happened."""

import json
import re
import subprocess
import threading

from booted import Machine
from checks import check, check_soon, wait_for
from places import CACHE, REPOSITORY
from service import Callers, configure, installed
from unix_http import STORAGE

DASHBOARD = REPOSITORY / "packaging/grafana/msi-tokend.json"
MONITOR, PROMETHEUS = "127.0.0.1:9464", "127.0.0.1:9090"
SOCKET = "/run/msi-tokend/msi-tokend.sock"
# What Grafana puts into queries. Windows of hours are for people; here they are as long as the play.
VARIABLES = {"$__rate_interval": "10s", "$instance": ".+", "[1h]": "[10s]"}
# What stays 0 here: journald is not slow.
ZERO = {"Log records lost, 1 h"}

TROUBLE = f"""
curl() {{ /usr/bin/curl --silent --output /dev/null --max-time 10 --header 'Metadata: true' "$@"; }}
token=http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01
# Without a rule: given by the lock, which observes, and denied on the socket.
setpriv --reuid=stranger --clear-groups -- sh -c '
  for url in "'"$token"'&resource={STORAGE}" http://169.254.169.254/metadata/instance?api-version=2021-02-01; do
    curl --silent --output /dev/null --header "Metadata: true" "$url"
  done
  curl --silent --output /dev/null --header "Metadata: true" --unix-socket {SOCKET} "http://x/oauth2/token?resource={STORAGE}"'
curl --unix-socket {SOCKET} "http://x/oauth2/token?resource=https://new/$1"
curl --unix-socket {SOCKET} "http://x/oauth2/token?resource=https://faulty/$1"
curl --unix-socket {SOCKET} "http://x/oauth2/token?resource=https://throttled/$1"
"""
FAULTS = """
[[fault]]
match = { resource = "faulty" }
times = 0
status = 500
[[fault]]
match = { resource = "throttled" }
times = 0
status = 429
retry_after = "1"
"""
# More connections than one user may have.
HELD = f"""
import socket
held = [socket.socket(socket.AF_UNIX) for _ in range(40)]
for one in held:
    one.connect("{SOCKET}")
"""


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries(panel):
    """The panel's queries as Grafana sends them, each with its legend."""
    for target in panel["targets"]:
        expression = target["expr"]
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        yield expression, target.get("legendFormat", "")


class Stage:
    """A booted system, and a Prometheus in its network."""

    def __init__(self, machine, directory):
        self.machine = machine
        config = directory / "dashboard.yml"
        config.write_text(f"""
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: msi-tokend
    static_configs: [{{targets: ["{MONITOR}"]}}]
""")
        leader = (CACHE / "run" / machine.name / "leader").read_text().strip()
        self.prometheus = subprocess.Popen([
            "nsenter", f"--target={leader}", "--net", "prometheus", f"--config.file={config}",
            f"--storage.tsdb.path={directory}/dashboard-tsdb", f"--web.listen-address={PROMETHEUS}",
        ], stderr=open(directory / "dashboard.log", "w"))

    def ask(self, path, **parameters):
        more = [argument for name, value in parameters.items() for argument in ("--data-urlencode", f"{name}={value}")]
        done = self.machine.try_("curl", "--silent", "--fail", "--get", *more, f"http://{PROMETHEUS}/api/v1/{path}")
        return json.loads(done.stdout)["data"] if done.returncode == 0 else []

    def samples(self, expression):
        """What Prometheus answers, without what is no number."""
        answer = self.ask("query", query=expression)
        found = answer["result"] if answer else []
        return [(one["metric"], float(one["value"][1])) for one in found if one["value"][1] != "NaN"]

    def has_data(self, panel):
        """Every query has an answer and the labels that its legend shows, and the panel shows more than zeros."""
        answers = [(self.samples(expression), legend) for expression, legend in queries(panel)]
        shown = all(found and all(set(re.findall(r"{{(\w+)}}", legend)) <= metric.keys() for metric, _ in found)
                    for found, legend in answers)
        return shown and (panel["title"] in ZERO or all(any(value > 0 for _, value in found) for found, _ in answers))


def trouble(machine, ended):
    number = 0
    while not ended.is_set():
        number += 1
        machine.try_("sh", "-c", TROUBLE, "sh", number)
        machine.try_("setpriv", "--reuid=stranger", "--clear-groups", "python3", "-c", HELD)


def check_file():
    """What holds without a Prometheus."""
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    check("dashboard: each panel has an id of its own", len(ids) == len(set(ids)), ids)
    cells = [(x, y) for place in (panel["gridPos"] for panel in dashboard["panels"])
             for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]
    check("dashboard: no panel lies on another, or beside the grid",
          len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24)
    bare = [panel["title"] for panel in panels() if not panel["title"] or not panel["description"]
            or not panel["fieldConfig"]["defaults"]["unit"] or panel["datasource"]["uid"] != "${datasource}"]
    check("dashboard: each panel has a title, a description, a unit and the data source that is chosen", not bare, bare)


def check_dashboard(directory):
    check_file()
    with Machine("bookworm") as machine:
        installed(machine)
        configure(machine, "50-dashboard", f'[listen]\nmonitor = "{MONITOR}"\n[limits]\nmax_connections_per_uid = 20\n')
        machine.run("systemctl", "restart", "msi-tokend.service")
        machine.run("systemctl", "enable", "--now", "msi-tokend-lock.service")
        machine.run("curl", "--silent", "--fail", "--request", "PUT", "--data-binary", FAULTS,
                    "http://169.254.169.254/emulator/script")
        stage, ended = Stage(machine, directory), threading.Event()
        beside = threading.Thread(target=trouble, args=(machine, ended))
        try:
            with Callers(machine):
                beside.start()
                play(stage)
        finally:
            ended.set()
            beside.join()
            stage.prometheus.kill()
            stage.prometheus.wait()


def play(stage):
    wait_for("Prometheus has scraped", lambda: stage.samples("up == 1"))
    for panel in panels():
        check_soon(f"dashboard: {panel['title']} has data", lambda: stage.has_data(panel),
                   lambda: [(expression, stage.samples(expression)[:5]) for expression, _ in queries(panel)])
        names = {name for expression, _ in queries(panel) for name in re.findall(r"(?:msi_tokend|process)_\w+", expression)}
        for name in sorted(names):
            broken = json.loads(json.dumps(panel).replace(name, f"{name}_x"))
            check(f"dashboard: {panel['title']} has none where {name} is misspelt", not stage.has_data(broken))
    variable = json.loads(DASHBOARD.read_text())["templating"]["list"][1]["query"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable).groups()
    check("dashboard: the VMs to choose from", stage.ask(f"label/{label}/values", **{"match[]": metric}) == [MONITOR])
    exported = set(re.findall(r"^# TYPE (msi_tokend_\w+)", stage.machine.run("curl", "--silent", f"http://{MONITOR}/metrics"), re.M))
    missing = {name for name in exported if name not in DASHBOARD.read_text()}
    check("dashboard: every metric of the daemon is in it", exported and not missing, missing)
