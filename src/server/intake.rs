//! What a request must be before anything in it is understood.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request};

use super::framing::Lengths;
use super::problem::Problem;

/// A form names a resource and an identity; it needs no more.
const MAX_FORM: usize = 4096;

/// Refuses what could be taken for more than one request, or for another one, and then reads nothing more; and what a
/// proxy forwarded, which would make callers of strangers.
pub fn well_framed(request: &Request<Incoming>, lengths: &Lengths) -> Result<(), Problem> {
    let refused = |text| Err(Problem::invalid_request(text).closing());
    let (uri, headers) = (request.uri(), request.headers());
    let (mut hosts, mut has_length, mut has_encoding, mut upgrades, mut forwarded) = (0, false, false, false, false);
    // One pass over the few headers there are costs less than a look-up of each that there should not be.
    for name in headers.iter().map(|(name, _)| name) {
        hosts += usize::from(name == HOST);
        has_length |= name == CONTENT_LENGTH;
        has_encoding |= name == TRANSFER_ENCODING;
        upgrades |= name == UPGRADE;
        forwarded |= name == "x-forwarded-for";
    }
    if uri.scheme().is_some() || uri.authority().is_some() {
        refused("The request target must be a path, not a whole URL.")
    } else if hosts > 1 {
        refused("More than one Host header.")
    } else if !lengths.are_clear(has_length, has_encoding) {
        refused("Content-Length and Transfer-Encoding: a body has one or the other.")
    } else if has_encoding && !is_chunked(headers) {
        refused("Transfer-Encoding: a body can only be chunked, and only once.")
    } else if upgrades {
        refused("Upgrade: only HTTP/1.1 is spoken here.")
    } else if request.method() == Method::GET && !request.body().is_end_stream() {
        refused("A GET request has no body here.")
    } else if forwarded {
        let text = "X-Forwarded-For: requests must not come through a proxy.";
        Err(Problem::invalid_request(text))
    } else {
        Ok(())
    }
}

/// And nothing else.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = encodings
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && encodings.next().is_none()
}

/// The whole form, also when it comes in chunks.
pub async fn read_form(request: &mut Request<Incoming>, patience: Duration) -> Result<String, Problem> {
    let kind = request
        .headers()
        .get(CONTENT_TYPE)
        .map_or(Ok(""), |kind| kind.to_str())
        .unwrap_or("?");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.is_empty() && !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let text = "The body of a POST must be a form: Content-Type: application/x-www-form-urlencoded.";
        return Err(Problem::invalid_request(text).closing());
    }
    let unfit = || Problem::invalid_request(format!("The form is broken or longer than {MAX_FORM} bytes.")).closing();
    let body = request.body_mut();
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
