"""azure-storage-blob with the daemon's tokens.

sdk.py socket|refused|managed|default ACCOUNT-URL CONTAINER CLIENT-ID
"""

import sys

from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import BlobServiceClient

from shown import UnixSocketCredential

how, account, container, client_id = sys.argv[1:]
if how in ("socket", "refused"):
    credential = UnixSocketCredential(client_id)
elif how == "managed":
    from azure.identity import ManagedIdentityCredential

    credential = ManagedIdentityCredential(client_id=client_id)
else:
    from azure.identity import DefaultAzureCredential

    credential = DefaultAzureCredential(managed_identity_client_id=client_id)

# The storage clients try again, for a minute and more, whatever their credential says: a refusal is better told at once.
retries = {"retry_total": 0} if how == "refused" else {}
blobs = BlobServiceClient(account, credential=credential, **retries).get_container_client(container)
if how == "refused":
    try:
        blobs.download_blob("hello.txt")
    except ClientAuthenticationError as refusal:
        assert "msi-tokend:" in str(refusal), refusal
        sys.exit(0)
    sys.exit("a user without a rule read the blob")

assert blobs.download_blob("hello.txt").readall() == b"Hello world! :)\n"
content = bytes(range(256)) * 64
blobs.upload_blob(f"{how}.bin", content, overwrite=True)
assert blobs.download_blob(f"{how}.bin").readall() == content
assert {"hello.txt", f"{how}.bin"} <= {blob.name for blob in blobs.list_blobs()}
