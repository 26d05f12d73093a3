//! The VM extension of 2017 (`docs/protocol.md`, "Endpoints", row "VM extension"). It has neither api-version nor
//! `bypass_cache`.

use super::endpoint::Endpoint;

/// <http://localhost:50342/oauth2/token>
pub(super) struct VmExtension;

impl Endpoint for VmExtension {
    fn parameters(&self, _bypass: bool) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}
