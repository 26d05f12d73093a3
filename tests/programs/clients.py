"""clients.py PROGRAM [CLIENT_ID]: what somebody would write who uses the program, as docs/sdks.md tells it. Prints what it
read from the stand-in, or the token. Each function is a program, and imports it alone."""

import json
import os
import pathlib
import subprocess
import sys

# What Prometheus says of the virtual machine that it found.
FOUND = 'msg="Found virtual machines during Azure discovery." count=1'
ACCOUNT, CONTAINER, BLOB = "account", "container", "hello.csv"
DATABASE = "server.database.windows.net"


def obstore(client_id):
    from obstore.store import AzureStore

    selector = {"client_id": client_id} if client_id else {}
    return AzureStore(CONTAINER, account_name=ACCOUNT, **selector).get(BLOB).bytes().to_bytes().decode()


def adlfs(client_id):
    from adlfs import AzureBlobFileSystem

    if client_id:
        os.environ["AZURE_CLIENT_ID"] = client_id
    return AzureBlobFileSystem(account_name=ACCOUNT, anon=False).cat(f"{CONTAINER}/{BLOB}").decode()


def polars(client_id):
    import polars

    options = {"account_name": ACCOUNT} | ({"client_id": client_id} if client_id else {})
    return str(polars.read_csv(f"az://{CONTAINER}/{BLOB}", storage_options=options))


def deltalake(client_id):
    from deltalake import DeltaTable

    options = {"account_name": ACCOUNT} | ({"client_id": client_id} if client_id else {})
    return str(DeltaTable(f"az://{CONTAINER}/table", storage_options=options).schema())


def opendal(client_id):
    import opendal

    if client_id:
        os.environ["AZURE_CLIENT_ID"] = client_id
    operator = opendal.Operator("azblob", container=CONTAINER, endpoint=f"https://{ACCOUNT}.blob.core.windows.net",
                                account_name=ACCOUNT)
    return operator.read(BLOB).decode()


def pyarrow(client_id):
    from pyarrow.fs import AzureFileSystem

    selector = {"client_id": client_id} if client_id else {}
    with AzureFileSystem(ACCOUNT, **selector).open_input_stream(f"{CONTAINER}/{BLOB}") as stream:
        return stream.read().decode()


def duckdb(client_id):
    import duckdb
    import duckdb_extension_azure

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    [extension] = pathlib.Path(duckdb_extension_azure.__file__).parent.rglob("azure.duckdb_extension")
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET azure_transport_option_type = 'curl'")
    selector = f", CLIENT_ID '{client_id}'" if client_id else ""
    connection.execute(f"CREATE SECRET (TYPE azure, PROVIDER managed_identity, ACCOUNT_NAME '{ACCOUNT}'{selector})")
    return str(connection.execute(f"SELECT content FROM read_text('az://{CONTAINER}/{BLOB}')").fetchall())


def icechunk(client_id):
    import icechunk

    if client_id:
        os.environ["AZURE_CLIENT_ID"] = client_id
    storage = icechunk.azure_storage(account=ACCOUNT, container=CONTAINER, prefix="none", from_env=True)
    # It looks there and finds none.
    return "hello" if not icechunk.Repository.exists(storage) else ""


def mssql_python(client_id):
    import mssql_python

    selector = f"UID={client_id};" if client_id else ""
    mssql_python.connect(f"Server={DATABASE};Encrypt=strict;Authentication=ActiveDirectoryMSI;{selector}")
    return "hello"


def msodbcsql(client_id):
    """By ODBC itself: what else pyodbc and others ask of a database is more than the stand-in knows."""
    import ctypes
    import mssql_python_odbc

    there = pathlib.Path(mssql_python_odbc.__file__).parent / f"libs/linux/debian_ubuntu/{os.uname().machine}"
    [driver] = there.glob("lib/libmsodbcsql*")
    selector = f"UID={client_id};" if client_id else ""
    wanted = f"Driver={driver};Server={DATABASE};Encrypt=strict;Authentication=ActiveDirectoryMsi;{selector}".encode()
    odbc, environment, connection = ctypes.CDLL("libodbc.so.2"), ctypes.c_void_p(), ctypes.c_void_p()
    odbc.SQLAllocHandle(1, None, ctypes.byref(environment))
    odbc.SQLSetEnvAttr(environment, 200, ctypes.c_void_p(3), 0)
    odbc.SQLAllocHandle(2, environment, ctypes.byref(connection))
    if odbc.SQLDriverConnect(connection, None, wanted, len(wanted), None, 0, None, 0) in (0, 1):
        return "hello"
    state, said = ctypes.create_string_buffer(6), ctypes.create_string_buffer(4096)
    odbc.SQLGetDiagRec(2, connection, 1, state, ctypes.byref(ctypes.c_int()), said, len(said), None)
    return said.value.decode()


def google_auth(client_id):
    from google.auth import identity_pool
    from google.auth.transport.requests import Request

    query = "api-version=2018-02-01&resource=api://AzureADTokenExchange" + (f"&client_id={client_id}" if client_id else "")
    credential = {
        "type": "external_account", "token_url": "https://sts.googleapis.com/v1/token",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/POOL/providers/PROVIDER",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "credential_source": {
            "url": f"http://127.0.0.1:343/metadata/identity/oauth2/token?{query}", "headers": {"Metadata": "true"},
            "format": {"type": "json", "subject_token_field_name": "access_token"},
        },
    }
    credentials = identity_pool.Credentials.from_info(credential, scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(Request())
    return credentials.token


def prometheus(client_id):
    discovery = {"subscription_id": "S", "authentication_method": "ManagedIdentity", "port": 9100}
    discovery |= {"client_id": client_id} if client_id else {}
    pathlib.Path("prometheus.yml").write_text(json.dumps(
        {"scrape_configs": [{"job_name": "azure", "scrape_interval": "1h", "azure_sd_configs": [discovery]}]}
    ))
    command = ["prometheus", "--config.file=prometheus.yml", "--web.listen-address=127.0.0.1:9090", "--log.level=debug",
               "--storage.tsdb.path=data"]
    said = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            said += line
            if FOUND in line or "Unable to refresh target groups" in line:
                break
        process.kill()
    return said.replace(FOUND, "hello")


def rclone(client_id):
    selector = ["--azureblob-msi-client-id", client_id] if client_id else []
    done = subprocess.run(["rclone", "--config", "", "cat", f":azureblob:{CONTAINER}/{BLOB}", "--azureblob-account", ACCOUNT,
                           "--azureblob-use-msi", *selector, "--retries", "1", "--low-level-retries", "1"],
                          capture_output=True, text=True)
    sys.stderr.write(done.stderr)
    return done.stdout


print(globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:] or [None]))
