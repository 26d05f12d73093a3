//! The instance metadata service (`docs/protocol.md`, "Endpoints", row "instance metadata service").

use super::endpoint::Endpoint;

/// <http://169.254.169.254/metadata/identity/oauth2/token>
pub(super) struct Imds;

impl Endpoint for Imds {
    fn parameters(&self, bypass: bool) -> &'static [(&'static str, &'static str)] {
        if bypass {
            &[("api-version", "2018-10-01"), ("bypass_cache", "true")]
        } else {
            &[("api-version", "2018-02-01")]
        }
    }

    fn server(&self) -> Option<&'static str> {
        Some("IMDS/")
    }
}
