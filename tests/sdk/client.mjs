// An application with @azure/identity; arguments, input and output as in client.py.

import { createInterface } from "node:readline";
import { DefaultAzureCredential, ManagedIdentityCredential } from "@azure/identity";

function credentialOf({ credential, client_id, resource_id }) {
    if (credential === "default") return new DefaultAzureCredential();
    if (client_id) return new ManagedIdentityCredential({ clientId: client_id });
    if (resource_id) return new ManagedIdentityCredential({ resourceId: resource_id });
    return new ManagedIdentityCredential();
}

const credential = credentialOf(JSON.parse(process.argv[3]));
for await (const line of createInterface({ input: process.stdin })) {
    const { scope, claims } = JSON.parse(line);
    let answer;
    try {
        answer = { token: (await credential.getToken(scope, claims ? { claims, enableCae: true } : {})).token };
    } catch (error) {
        answer = { error: error.message };
    }
    console.log(JSON.stringify(answer));
}
