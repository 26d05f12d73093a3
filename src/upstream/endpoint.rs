//! What the kinds of endpoint differ in.

use hyper::header::HeaderValue;

use crate::failure::Failure;
use crate::http::Response;

/// How a kind of endpoint is asked for a token.
pub trait Endpoint: Send + Sync {
    /// The parameters that come before the resource and the identity.
    fn parameters(&self, bypass: bool) -> &'static [(&'static str, &'static str)];

    /// The `Authorization` that this answer challenges us to send the request again with.
    fn authorize(&self, _answer: &Response) -> Option<Result<HeaderValue, Failure>> {
        None
    }

    /// What its `Server` header begins with, where somebody else may answer in its place.
    fn server(&self) -> Option<&'static str> {
        None
    }

    /// Whether a reply that does not say whose token it is cannot be trusted to be for the identity asked for.
    fn must_echo_identity(&self) -> bool {
        false
    }
}
