"""clients.py PROGRAM [CLIENT_ID]: what somebody would write who uses the program, as docs/sdks.md tells it. Prints what it
read from the stand-in, or the token. Each function is a program, and imports it alone."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

# What Prometheus says of the virtual machine that it found.
FOUND = 'msg="Found virtual machines during Azure discovery." count=1'
ACCOUNT, CONTAINER, BLOB = "account", "container", "hello.csv"
DATABASE = "server.database.windows.net"
ACME = "https://acme.example.com:14000/dir"
# Azure Kubernetes Service, as Entra knows it.
CLUSTER = "6dae42f8-4368-4678-94ff-3960e28e3630"
METRICS, ITSELF = "metrics.example.com", "127.0.0.1:9090"


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
    command = ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address={ITSELF}", "--log.level=debug",
               "--storage.tsdb.path=data"]
    said = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            said += line
            if FOUND in line or "Unable to refresh target groups" in line:
                break
        process.kill()
    return said.replace(FOUND, "hello")


def prometheus_remote_write(client_id):
    identity = {"managed_identity": {"client_id": client_id} if client_id else {}}
    pathlib.Path("prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "itself", "static_configs": [{"targets": [ITSELF]}]}],
        "remote_write": [{"url": f"https://{METRICS}/api/v1/write", "azuread": identity}],
    }))
    command = ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address={ITSELF}", "--storage.tsdb.path=data"]
    with open("log", "w") as log, subprocess.Popen(command, stderr=log) as process:
        while not (outcome := remote_write_outcome()) and process.poll() is None:
            time.sleep(0.2)
        process.kill()
    return "hello" if outcome == "samples" else pathlib.Path("log").read_text()


def remote_write_outcome():
    """By Prometheus's own count: samples were sent, or could not be; empty while neither is so."""
    try:
        with urllib.request.urlopen(f"http://{ITSELF}/metrics") as metrics:
            text = metrics.read().decode()
    except OSError:
        return ""
    counts = dict(re.findall(r"^prometheus_remote_storage_(\w+)_total{.*} (\S+)$", text, re.M))
    if float(counts.get("samples_retried", 0)) + float(counts.get("samples_failed", 0)) > 0:
        return "failures"
    return "samples" if float(counts.get("bytes", 0)) > 0 else ""


def restic(client_id):
    environment = {"AZURE_ACCOUNT_NAME": ACCOUNT, "RESTIC_PASSWORD": "p"} | ({"AZURE_CLIENT_ID": client_id} if client_id else {})
    done = subprocess.run(["restic", "--repo", f"azure:{CONTAINER}:/none", "init"], env=os.environ | environment,
                          stdout=subprocess.PIPE, text=True)
    return done.stdout.replace("created restic repository", "hello")


def certbot_dns_azure(client_id):
    identity = f"dns_azure_msi_client_id = {client_id}" if client_id else "dns_azure_msi_system_assigned = true"
    settings = pathlib.Path("azure.ini")
    settings.write_text(f"{identity}\ndns_azure_zone1 = example.com:/subscriptions/S/resourceGroups/RG\n")
    settings.chmod(0o600)
    done = subprocess.run(["certbot", "certonly", "--non-interactive", "--agree-tos", "--register-unsafely-without-email",
                           "--server", ACME, "--config-dir", "c", "--work-dir", "w", "--logs-dir", "l", "--force-renewal",
                           "--domain", "example.com", "--authenticator", "dns-azure", "--dns-azure-config", settings,
                           "--dns-azure-propagation-seconds", "0"])
    return "hello" if done.returncode == 0 else ""


def rclone(client_id, command="rclone"):
    selector = ["--azureblob-msi-client-id", client_id] if client_id else []
    done = subprocess.run([command, "--config", "", "cat", f":azureblob:{CONTAINER}/{BLOB}", "--azureblob-account", ACCOUNT,
                           "--azureblob-use-msi", *selector, "--retries", "1", "--low-level-retries", "1"],
                          capture_output=True, text=True)
    sys.stderr.write(done.stderr)
    return done.stdout


def ansible(client_id):
    selector = f" client_id={client_id}" if client_id else ""
    done = subprocess.run([pathlib.Path(sys.executable).with_name("ansible"), "localhost", "--connection", "local",
                           "--module-name", "azure.azcollection.azure_rm_resource_info", "--args",
                           "auth_source=msi subscription_id=S url=/subscriptions/S/providers/Microsoft.Compute/virtualMachines "
                           f"api_version=2024-03-01{selector}", "--extra-vars", f"ansible_python_interpreter={sys.executable}"],
                          stdout=subprocess.PIPE, text=True)
    return done.stdout


def kubelogin(client_id):
    selector = ["--client-id", client_id] if client_id else []
    done = subprocess.run(["kubelogin", "get-token", "--login", "msi", "--server-id", CLUSTER, *selector], stdout=subprocess.PIPE)
    if done.returncode != 0:
        return ""
    # kubectl would take it to the cluster.
    headers = {"Authorization": f"Bearer {json.loads(done.stdout)['status']['token']}"}
    request = urllib.request.Request(f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{BLOB}", headers=headers)
    return urllib.request.urlopen(request).read().decode()


def packer(_):
    """It gets as far as to the address of the machine that it has deployed, which Resource Manager does not find."""
    builder = {"type": "azure-arm", "managed_image_resource_group_name": "RG", "managed_image_name": "i", "os_type": "Linux",
               "image_publisher": "p", "image_offer": "o", "image_sku": "s", "location": "westeurope"}
    pathlib.Path("build.json").write_text(json.dumps({"builders": [builder]}))
    done = subprocess.run(["packer", "build", "-color=false", "build.json"], env=os.environ | {"CHECKPOINT_DISABLE": "1"},
                          stdout=subprocess.PIPE, text=True)
    return done.stdout


def rclone_of_debian(client_id):
    return rclone(client_id, "/usr/bin/rclone")


print(globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:] or [None]))
