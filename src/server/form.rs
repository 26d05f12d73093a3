//! The form of a POST.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;

use super::problem::Problem;

/// A form names a resource and an identity; it needs no more.
const MAX_FORM: usize = 4096;

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
