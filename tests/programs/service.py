"""What the programs ask besides the daemon: a storage account with one container, by the protocols of Blob and Data Lake
Storage, a database, a list of virtual machines, DNS records, Azure Monitor's intake, and Google's exchange of tokens, behind
their real names. They take any token, and remember who came with which."""

import http.server
import json
import threading
import urllib.parse

from database import DATABASE, Database

ACCOUNT, CONTAINER = "account", "container"
BLOB, DATA_LAKE = f"{ACCOUNT}.blob.core.windows.net", f"{ACCOUNT}.dfs.core.windows.net"
# Nobody has to ask these: a managed identity needs no sign-in.
SIGN_IN = ["login.microsoftonline.com", "login.windows.net"]
MANAGEMENT, GOOGLE, METRICS = "management.azure.com", "sts.googleapis.com", "metrics.example.com"
# Kinds of resources of which Resource Manager has none.
NOT_THERE = ["/TXT/", "/images/", "/publicIPAddresses/"]
ZONE = {"name": "example.com", "resourceGroup": "RG", "subscriptionId": "S"}
TENANT = "11111111-2222-3333-4444-555555555555"
HELLO = b"text\nhello\n"
DELTA = (
    b'{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}\n'
    b'{"metaData":{"id":"5fba94ed-9794-4965-ba6e-6ee3c0d22af9","format":{"provider":"parquet","options":{}},'
    b'"schemaString":"{\\"type\\":\\"struct\\",\\"fields\\":[{\\"name\\":\\"hello\\",\\"type\\":\\"string\\",'
    b'\\"nullable\\":true,\\"metadata\\":{}}]}","partitionColumns":[],"configuration":{},"createdTime":1}}\n'
)
BLOBS = {"hello.csv": HELLO, "table/_delta_log/00000000000000000000.json": DELTA}
VIRTUAL_MACHINES = {"value": [{
    "id": "/subscriptions/S/resourceGroups/RG/providers/Microsoft.Compute/virtualMachines/hello", "name": "hello",
    "type": "Microsoft.Compute/virtualMachines", "location": "westeurope", "tags": {},
    "properties": {"storageProfile": {"osDisk": {"osType": "Linux"}}, "networkProfile": {"networkInterfaces": []}},
}]}
DATE = "Sat, 28 Nov 2026 00:00:00 GMT"


class Service:
    names = [BLOB, DATA_LAKE, DATABASE, MANAGEMENT, GOOGLE, METRICS, *SIGN_IN]

    def __init__(self, authority):
        # Each request as its host, its first line and its Authorization header.
        self.seen = []
        Database(authority, self.seen)
        for port, wrap in ((443, authority.wrap), (80, lambda listener: listener)):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"service": self}))
            server.socket = wrap(server.socket)
            threading.Thread(target=server.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        """What Prometheus writes, what Packer deploys, what lego asks Resource Graph, or Google's exchange of tokens: the one
        that is exchanged counts."""
        body, host = self.rfile.read(int(self.headers["Content-Length"])), self.headers["Host"]
        if host in (METRICS, MANAGEMENT):
            self.service.seen.append((host, self.requestline, self.headers["Authorization"]))
            self.send_json({"data": [ZONE], "totalRecords": 1, "count": 1, "resultTruncated": "false"})
            return
        form = dict(urllib.parse.parse_qsl(body.decode()))
        self.service.seen.append((host, self.requestline, f"Bearer {form['subject_token']}"))
        self.send_json({"access_token": "hello from Google", "token_type": "Bearer", "expires_in": 3600,
                        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})

    def do_PUT(self):
        """A blob or a DNS record, which is not kept."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.service.seen.append((self.headers["Host"], self.requestline, self.headers.get("Authorization")))
        if self.headers["Host"] == MANAGEMENT:
            self.send_json({})
        else:
            self.send(201, b"", {"ETag": '"0x1"', "Last-Modified": DATE, "x-ms-request-server-encrypted": "true"})

    do_DELETE = do_PUT

    def do_GET(self):
        host, token = self.headers["Host"].split(":")[0], self.headers.get("Authorization")
        self.service.seen.append((host, self.requestline, token))
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        path = urllib.parse.unquote(url.path).removeprefix(f"/{CONTAINER}").removeprefix("/")
        if not (token or "").startswith("Bearer ") or host in SIGN_IN:
            sign_in = f'Bearer authorization_uri="https://login.microsoftonline.com/{TENANT}"'
            self.send(401, b"", {"WWW-Authenticate": sign_in})
        elif host == MANAGEMENT and (self.command == "HEAD" or any(kind in path for kind in NOT_THERE)):
            self.send_json({"error": {"code": "NotFound", "message": "hello, there is none"}}, 404)
        elif host == MANAGEMENT:
            self.send_json(VIRTUAL_MACHINES if path.endswith("/virtualMachines") else {"value": []})
        elif self.query.get("comp") == "list":
            self.send(200, self.listing().encode(), {"Content-Type": "application/xml"})
        elif path in BLOBS:
            self.blob(BLOBS[path])
        elif path == "":
            self.send(200, b"", {"x-ms-namespace-enabled": "false", "x-ms-has-immutability-policy": "false"})
        else:
            error = b"<?xml version='1.0'?><Error><Code>BlobNotFound</Code><Message>none</Message></Error>"
            self.send(404, error, {"Content-Type": "application/xml", "x-ms-error-code": "BlobNotFound"})

    do_HEAD = do_GET

    def listing(self):
        prefix = self.query.get("prefix", "")
        blobs = "".join(
            f"<Blob><Name>{name}</Name><Properties><Creation-Time>{DATE}</Creation-Time><Last-Modified>{DATE}</Last-Modified>"
            f"<Etag>0x1</Etag><Content-Length>{len(data)}</Content-Length><Content-Type>text/csv</Content-Type>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name, data in BLOBS.items() if name.startswith(prefix)
        )
        return (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://{BLOB}/" '
            f'ContainerName="{CONTAINER}"><Prefix>{prefix}</Prefix><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>'
        )

    def blob(self, data):
        wanted = self.headers.get("x-ms-range") or self.headers.get("Range")
        status, headers = 200, {"Content-Type": "text/csv", "Accept-Ranges": "bytes", "ETag": '"0x1"', "Last-Modified": DATE,
                                "x-ms-blob-type": "BlockBlob", "x-ms-creation-time": DATE, "x-ms-server-encrypted": "true",
                                "x-ms-resource-type": "file", "x-ms-lease-state": "available", "x-ms-lease-status": "unlocked"}
        if wanted and self.command == "GET":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            first, last = int(first or 0), min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first:last + 1]
        self.send(status, data, headers)

    def send_json(self, body, status=200):
        self.send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers):
        self.send_response(status)
        always = {"Content-Length": len(body), "x-ms-version": "2021-08-06", "x-ms-request-id": "r"}
        for name, value in (always | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
