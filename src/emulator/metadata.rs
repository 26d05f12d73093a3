//! The other routes of the instance metadata service that Azure's SDKs ask before the first token.
//!
//! | path | |
//! |---|---|
//! | `GET /metadata/instance/compute` | describes the VM: <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service#instance-metadata> |
//! | `GET /metadata/identity/getplatformmetadata` | the identity for a token that is bound to the caller's key; the stand-in issues none |
//!
//! Without `Metadata: true` every path is a 400 (`docs/protocol.md`, "What SDKs do", row "Key-bound tokens").

use super::endpoint::{InFlight, seen, with_server};
use super::identity::IdentitySelector;
use super::imds::{self, refuse};
use super::issue::TENANT_ID;
use super::reply::{Reply, error};
use super::request::Query;
use super::state::EmulatorState;
use hyper::StatusCode;
use hyper::http::request::Parts;
use serde_json::{Value, json};

const COMPUTE: &str = "/metadata/instance/compute";
const PLATFORM: &str = "/metadata/identity/getplatformmetadata";
const VM_ID: &str = "02aab8a4-74ef-476e-8182-f6d2ba4166a6";

/// Whether this path belongs to the metadata service.
pub(super) fn is_here(path: &str) -> bool {
    path.starts_with("/metadata/")
}

/// Answers a request that is no token request.
pub(super) fn answer(state: &EmulatorState, head: &Parts) -> Reply {
    let parameters = Query::from_query(head.uri.query().unwrap_or_default());
    let _in_flight = InFlight::begin(state, seen(head, parameters.as_ref().ok()));
    let read = || {
        imds::check_headers(head)?;
        let parameters = parameters.map_err(|reason| refuse(&reason))?;
        let body = match head.uri.path() {
            COMPUTE => compute(&parameters)?,
            PLATFORM => platform(state, &parameters)?,
            _ => {
                let text = "The requested element does not exist";
                return Err(error(StatusCode::NOT_FOUND, "not_found", text));
            }
        };
        imds::check_method(head)?;
        Ok(Reply::json(StatusCode::OK, &body))
    };
    with_server(read().unwrap_or_else(|refusal| refusal), Some(imds::SERVER_NAME))
}

fn compute(parameters: &Query) -> Result<Value, Reply> {
    imds::api_version(parameters)?;
    Ok(json!({
        "azEnvironment": "AzurePublicCloud",
        "location": "westeurope",
        "name": "demo",
        "osType": "Linux",
        "provider": "Microsoft.Compute",
        "resourceGroupName": "demo",
        "resourceId": "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo/providers/Microsoft.Compute/virtualMachines/demo",
        "securityProfile": {"secureBootEnabled": "false", "virtualTpmEnabled": "false"},
        "subscriptionId": "0b1f6471-1bf0-4dda-aec3-cb9272f09590",
        "tags": "",
        "tagsList": [],
        "vmId": VM_ID,
        "vmScaleSetName": "",
        "vmSize": "Standard_D2s_v5",
        "zone": "1",
    }))
}

fn platform(state: &EmulatorState, parameters: &Query) -> Result<Value, Reply> {
    if parameters.get("cred-api-version") != Some("2.0") {
        return Err(refuse(
            "cred-api-version is invalid or was not specified in the request",
        ));
    }
    // The token route calls the same parameter by another name.
    let resource_id = parameters
        .get("mi_res_id")
        .map(|id| IdentitySelector::ResourceId(id.to_owned()));
    let selector = resource_id.map_or_else(|| parameters.selector(), Ok);
    let selector = selector.map_err(|reason| refuse(&reason))?;
    let inner = state.inner.lock();
    let identity = inner.identities.choose(&selector);
    let identity = identity.map_err(|none| refuse(&none.to_string()))?;
    Ok(json!({
        "cuId": {"vmId": VM_ID},
        "clientId": identity.client_id,
        "tenantId": TENANT_ID,
        "attestationEndpoint": "https://attestation.invalid",
    }))
}
