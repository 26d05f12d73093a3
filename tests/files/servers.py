"""Servers that stand for Microsoft Entra, AWS, Google, a Kubernetes cluster, Azure DevOps, OpenBao and a target of
Prometheus: one process, one port, one certificate authority. Each takes a token as the real one would, and answers only
where it is for that audience and has not expired.
"""

import base64
import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse

from authority import Authority

# Who is called by which name, and whom a token must be for there.
AUDIENCES = {
    "login.microsoftonline.com": "api://AzureADTokenExchange",
    "sts.eu-central-1.amazonaws.com": "api://AzureADTokenExchange",
    "sts.googleapis.com": "api://AzureADTokenExchange",
    "cluster.example.com": "6dae42f8-4368-4678-94ff-3960e28e3630",
    "dev.azure.com": "499b84ac-1321-427f-aa17-267ca6975798",
    "bao.example.com": "api://AzureADTokenExchange",
    "metrics.example.com": "api://monitored-application",
}
# Azure Database for PostgreSQL, whose stand-in is PostgreSQL itself.
DATABASES = "https://ossrdbms-aad.database.windows.net"
DATABASE = "db.postgres.database.azure.com"
# Whom google-auth asks for the project's name, with Google's own token.
PROJECTS = "cloudresourcemanager.googleapis.com"


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def audience(token):
    return claims(token)["aud"]


class Servers:
    def __init__(self, directory):
        self.directory, self.seen = directory, {name: [] for name in AUDIENCES}
        self.names = [*AUDIENCES, DATABASE, PROJECTS]
        self.authority = Authority(directory, self.names)
        self.repositories = directory / "git"
        self._repository()

    def _repository(self):
        bare = self.repositories / "organisation/project/_git/repository"
        work = self.directory / "work"
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
        git = ["git", *identity]
        quiet = {"check": True, "capture_output": True}
        subprocess.run([*git, "init", "--bare", bare], **quiet)
        subprocess.run([*git, "init", work], **quiet)
        subprocess.run([*git, "-C", work, "commit", "--allow-empty", "--message", "one"], **quiet)
        subprocess.run([*git, "-C", work, "push", bare, "main"], **quiet)

    def start(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), type("Handler", (Handler,), {"servers": self}))
        server.socket = self.authority.wrap(server.socket)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def admit(self, name, token):
        """Whether this server takes the token, which is remembered then."""
        said = claims(token)
        good = said["aud"] == AUDIENCES[name] and said["exp"] > time.time()
        if good:
            self.seen[name].append(token)
        return good

    def last(self, name):
        return self.seen[name][-1] if self.seen[name] else None

    def count(self, name):
        return len(self.seen[name])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    servers = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.name = self.headers["Host"].split(":")[0]
        answer = {
            "login.microsoftonline.com": self.entra, "sts.eu-central-1.amazonaws.com": self.aws,
            "sts.googleapis.com": self.google, PROJECTS: self.projects, "cluster.example.com": self.cluster, "dev.azure.com": self.devops,
            "bao.example.com": self.bao, "metrics.example.com": self.metrics,
        }[self.name]
        answer()

    def send(self, body, status=200, kind="application/json", headers=()):
        body = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def json(self, value, status=200):
        self.send(json.dumps(value), status)

    def form(self):
        return dict(urllib.parse.parse_qsl(self.body.decode()))

    def bearer(self):
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else ""

    def admits(self, token):
        return token.count(".") == 2 and self.servers.admit(self.name, token)

    def refuse(self):
        self.json({"error": "invalid_token"}, 401)

    def entra(self):
        """The discovery that MSAL begins with, and the token endpoint."""
        base = "https://login.microsoftonline.com"
        tenant = "11111111-2222-3333-4444-555555555555"
        if "discovery/instance" in self.path:
            self.json({"tenant_discovery_endpoint": f"{base}/{tenant}/v2.0/.well-known/openid-configuration",
                       "metadata": [{"preferred_network": "login.microsoftonline.com",
                                     "preferred_cache": "login.windows.net", "aliases": ["login.microsoftonline.com"]}]})
        elif self.path.split("?")[0].endswith("openid-configuration"):
            self.json({"authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/authorize",
                       "token_endpoint": f"{base}/{tenant}/oauth2/v2.0/token", "issuer": f"{base}/{tenant}/v2.0"})
        elif self.admits(self.form()["client_assertion"]):
            form = self.form()
            assert form["client_id"] == "66666666-7777-8888-9999-000000000000", form["client_id"]
            assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            self.json({"token_type": "Bearer", "expires_in": 3600, "access_token": "an application's token"})
        else:
            self.refuse()

    def aws(self):
        form = self.form()
        namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
        if form["Action"] == "GetCallerIdentity":
            signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")
            identity = "<Arn>arn:aws:sts::123456789012:assumed-role/app/session</Arn><UserId>u</UserId><Account>1</Account>"
            self.send(f'<GetCallerIdentityResponse xmlns="{namespace}"><GetCallerIdentityResult>{identity}'
                      "</GetCallerIdentityResult></GetCallerIdentityResponse>", 200 if signed else 403, "text/xml")
        elif form["RoleArn"] == "arn:aws:iam::123456789012:role/app" and self.admits(form["WebIdentityToken"]):
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            keys = ("<AccessKeyId>AKIATEST</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
                    f"<Expiration>{until}</Expiration>")
            self.send(f'<AssumeRoleWithWebIdentityResponse xmlns="{namespace}"><AssumeRoleWithWebIdentityResult>'
                      f"<Credentials>{keys}</Credentials></AssumeRoleWithWebIdentityResult>"
                      "</AssumeRoleWithWebIdentityResponse>", kind="text/xml")
        else:
            self.send("<ErrorResponse/>", 403, "text/xml")

    def google(self):
        form = self.form() or json.loads(self.body)
        if self.admits(form["subject_token"]):
            self.json({"access_token": "a token of Google", "token_type": "Bearer", "expires_in": 3600,
                       "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})
        else:
            self.refuse()

    def projects(self):
        good = self.headers.get("Authorization") == "Bearer a token of Google"
        self.json({"projectId": "project"}, 200 if good else 401)

    def cluster(self):
        if self.admits(self.bearer()):
            self.json({"major": "1", "minor": "0", "gitVersion": "v1.0.0-stand-in"})
        else:
            self.json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 401}, 401)

    def devops(self):
        """git's own server behind a password, as which Azure DevOps takes a token."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        password = base64.b64decode(value).decode().partition(":")[2] if kind == "Basic" else ""
        if not self.admits(password):
            self.send("", 401, headers=[("WWW-Authenticate", 'Basic realm="Azure DevOps"')])
            return
        path, _, query = self.path.partition("?")
        environment = os.environ | {
            "GIT_PROJECT_ROOT": str(self.servers.repositories), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "app",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(self.body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=self.body, capture_output=True, env=environment)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        kind = next(value for name, value in headers if name == "Content-Type")
        self.send(body, kind=kind)

    def bao(self):
        login = json.loads(self.body)
        if self.path == "/v1/auth/jwt/login" and login["role"] == "app" and self.admits(login["jwt"]):
            self.json({"auth": {"client_token": "a token of OpenBao"}})
        else:
            self.refuse()

    def metrics(self):
        if self.admits(self.bearer()):
            self.send("up_and_running 1\n", kind="text/plain; version=0.0.4")
        else:
            self.refuse()
