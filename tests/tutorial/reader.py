"""A service that reads a blob ten times a second until it is ended, and writes down how each read went.

reader.py BLOB-URL CLIENT-ID LOG
"""

import json
import sys
import time

from azure.storage.blob import BlobClient

from shown import UnixSocketCredential

url, client_id, log = sys.argv[1:]


class Observed(UnixSocketCredential):
    """Remembers when the last token it gave ends."""

    expires_on = None

    def get_token(self, *scopes, **options):
        token = super().get_token(*scopes, **options)
        self.expires_on = token.expires_on
        return token


credential = Observed(client_id)
blob = BlobClient.from_blob_url(url, credential=credential, retry_total=0)
with open(log, "a", buffering=1, encoding="utf-8") as lines:
    while True:
        error = None
        try:
            if blob.download_blob().readall() != b"Hello world! :)\n":
                error = "another content"
        except Exception as failure:  # noqa: BLE001  (whatever it is, it is a failed read)
            error = f"{type(failure).__name__}: {failure}"
        print(json.dumps({"at": time.time(), "expires_on": credential.expires_on, "error": error}), file=lines)
        time.sleep(0.1)
