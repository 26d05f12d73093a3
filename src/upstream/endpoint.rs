//! The differences between the kinds of endpoint.

use hyper::header::HeaderValue;

use crate::failure::Failure;
use crate::http::Response;

/// How to ask this kind of endpoint for a token.
pub trait Endpoint: Send + Sync {
    /// The query parameters before the resource and the identity.
    fn parameters(&self, bypass: bool) -> &'static [(&'static str, &'static str)];

    /// The `Authorization` header for a second request, if this answer is a challenge.
    fn authorize(&self, _answer: &Response) -> Option<Result<HeaderValue, Failure>> {
        None
    }

    /// What the endpoint's `Server` header contains, if another program may answer in its place.
    fn server(&self) -> Option<&'static str> {
        None
    }

    /// Whether a reply must name the identity that was asked for.
    fn must_echo_identity(&self) -> bool {
        false
    }
}
