"""Resource Manager, as far as the walk needs it: TLS in front of msi-emulator's stand-in for it, and the list of
subscriptions, which `az login` asks for.

arm.py ADDRESS PORT CERTIFICATE KEY EMULATOR SUBSCRIPTION
"""

import http.client
import http.server
import json
import ssl
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from tokens import claims_of

ADDRESS, PORT, CERTIFICATE, KEY, EMULATOR, SUBSCRIPTION = sys.argv[1:]
AUDIENCES = ("https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net/")


def claims(authorization):
    """The claims of a bearer token for Resource Manager that is valid now, or None."""
    try:
        scheme, token = authorization.split(" ")
        found = claims_of(token)
    except (AttributeError, ValueError, IndexError):
        return None
    current = found["nbf"] <= time.time() < found["exp"]
    return found if scheme == "Bearer" and found["aud"] in AUDIENCES and current else None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.split("?")[0] != "/subscriptions":
            self.forward()
            return
        caller = claims(self.headers["Authorization"])
        if caller is None:
            error = {"error": {"code": "InvalidAuthenticationToken", "message": "no valid token for this audience"}}
            self.answer(401, json.dumps(error).encode())
            return
        subscription = {
            "id": f"/subscriptions/{SUBSCRIPTION}",
            "subscriptionId": SUBSCRIPTION,
            "tenantId": caller["tid"],
            "displayName": "pretend",
            "state": "Enabled",
        }
        self.answer(200, json.dumps({"value": [subscription]}).encode())

    def do_POST(self):
        self.forward()

    def forward(self):
        """The same request to the emulator, with no header more, and its answer back."""
        emulator = http.client.HTTPConnection(EMULATOR, timeout=30)
        emulator.putrequest(self.command, self.path, skip_accept_encoding=True)
        for name in ("Authorization", "Content-Type", "Content-Length"):
            if self.headers[name] is not None:
                emulator.putheader(name, self.headers[name])
        emulator.endheaders(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        answer = emulator.getresponse()
        self.answer(answer.status, answer.read(), answer.headers["Content-Type"])

    def answer(self, status, body, content_type="application/json; charset=utf-8"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
