//! What a request must be before anything in it is understood.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request};

use super::framing::Lengths;
use super::problem::Problem;

/// A form names a resource and an identity; it needs no more.
const MAX_FORM: usize = 4096;

/// Refuses what could be taken for more than one request, or for another one; nothing more is read after that.
pub fn well_framed(request: &Request<Incoming>, lengths: &Lengths) -> Result<(), Problem> {
    let refused = |text| Err(Problem::invalid_request(text).closing());
    let (uri, headers) = (request.uri(), request.headers());
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter().enumerate();
    if uri.scheme().is_some() || uri.authority().is_some() {
        refused("The request target must be a path, not a whole URL.")
    } else if headers.get_all(HOST).iter().count() > 1 {
        refused("More than one Host header.")
    } else if !lengths.are_clear(headers) {
        refused("Content-Length and Transfer-Encoding: a body has one or the other.")
    } else if encodings.any(|(at, value)| at > 0 || !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        refused("Transfer-Encoding: a body can only be chunked, and only once.")
    } else if headers.contains_key(UPGRADE) {
        refused("Upgrade: only HTTP/1.1 is spoken here.")
    } else if request.method() == Method::GET && !request.body().is_end_stream() {
        refused("A GET request has no body here.")
    } else {
        Ok(())
    }
}

/// A proxy that forwards to us makes callers of strangers.
pub fn not_forwarded(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key("x-forwarded-for") {
        return Err(Problem::invalid_request(
            "X-Forwarded-For: requests must not come through a proxy.",
        ));
    }
    Ok(())
}

/// The whole form, also when it comes in chunks.
pub async fn read_form(headers: &HeaderMap, body: Incoming, patience: Duration) -> Result<String, Problem> {
    let kind = headers
        .get(CONTENT_TYPE)
        .map_or(Ok(""), |kind| kind.to_str())
        .unwrap_or("?");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.is_empty() && !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let text = "The body of a POST must be a form: Content-Type: application/x-www-form-urlencoded.";
        return Err(Problem::invalid_request(text).closing());
    }
    let unfit = || Problem::invalid_request(format!("The form is broken or longer than {MAX_FORM} bytes.")).closing();
    if body.size_hint().lower() > MAX_FORM as u64 {
        return Err(unfit());
    }
    let whole = tokio::time::timeout(patience, Limited::new(body, MAX_FORM).collect());
    let bytes = whole
        .await
        .map_err(|_| Problem::invalid_request("The rest of the form has not come in time.").closing())?
        .map_err(|_| unfit())?
        .to_bytes();
    String::from_utf8(bytes.into()).map_err(|_| Problem::invalid_request("The form is not UTF-8."))
}
