"""An application with one of Azure's Python libraries: azure-identity, its asyncio form, or msal.

client.py LIBRARY OPTIONS: each line of standard input is a request, {"scope": …, "claims": …}; each line of standard
output is its answer, {"token": …} or {"error": …}. OPTIONS is JSON: {"credential": "managed" | "default", "client_id" |
"resource_id": …}.
"""

import asyncio
import json
import sys


def credential_of(module, options, resource_id="resource_id"):
    """The credential of azure.identity or azure.identity.aio; the latter sends the name of the selector as it is given."""
    if options["credential"] == "default":
        return module.DefaultAzureCredential()
    arguments = {}
    if "client_id" in options:
        arguments["client_id"] = options["client_id"]
    if "resource_id" in options:
        arguments["identity_config"] = {resource_id: options["resource_id"]}
    return module.ManagedIdentityCredential(**arguments)


def keywords(claims):
    return {"claims": claims, "enable_cae": True} if claims else {}


def sync_library(options):
    import azure.identity

    credential = credential_of(azure.identity, options)
    return lambda scope, claims: credential.get_token(scope, **keywords(claims)).token


def aio_library(options):
    import azure.identity.aio

    loop = asyncio.new_event_loop()
    credential = credential_of(azure.identity.aio, options, "mi_res_id")
    return lambda scope, claims: loop.run_until_complete(credential.get_token(scope, **keywords(claims))).token


def msal_library(options):
    import msal
    import requests

    if "client_id" in options or "resource_id" in options:
        identity = msal.UserAssignedManagedIdentity(
            client_id=options.get("client_id"), resource_id=options.get("resource_id")
        )
    else:
        identity = msal.SystemAssignedManagedIdentity()
    client = msal.ManagedIdentityClient(identity, http_client=requests.Session())

    def token(scope, claims):
        answer = client.acquire_token_for_client(
            resource=scope.removesuffix("/.default"), **({"claims_challenge": claims} if claims else {})
        )
        if "access_token" not in answer:
            raise RuntimeError(json.dumps(answer))
        return answer["access_token"]

    return token


def main():
    library = {"azure-identity": sync_library, "azure-identity aio": aio_library, "msal": msal_library}[sys.argv[1]]
    token = library(json.loads(sys.argv[2]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"token": token(request["scope"], request.get("claims"))}
        except Exception as error:  # whatever it is, the application would show it
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


main()
