//! From a token or a problem to the bytes of the answer.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use foldhash::fast::RandomState;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use parking_lot::Mutex;

use super::documents::Document;
use super::guest::Guest;
use super::problem::Problem;
use super::protocol::Protocol;
use crate::broker::Served;

/// The content type of all answers but the metrics.
pub const JSON: &str = "application/json; charset=utf-8";
/// First pieces that are kept, at some 150 bytes each.
const FIRST_PIECES: usize = 64;

/// A body of two pieces, neither of them copied: what is true at this second only, and the token's own lasting piece. Or one
/// of the metadata service's.
pub enum ResponseBody {
    /// Until it is taken.
    Ours(Option<Chain<Bytes, Bytes>>),
    /// As it comes.
    Passed(UnsyncBoxBody<Bytes, io::Error>),
}

/// First pieces as they were rendered last. It takes as long to render one as to look up a token, and many of a second's
/// answers have the same.
#[derive(Default)]
pub struct FirstPieces(Mutex<HashMap<(Protocol, Duration), Bytes, RandomState>>);

impl FirstPieces {
    /// For an answer with a token that has so much of its life left.
    fn get(&self, protocol: Protocol, left: Duration) -> Bytes {
        let mut pieces = self.0.lock();
        if pieces.len() >= FIRST_PIECES {
            pieces.clear();
        }
        let piece = pieces.entry((protocol, left));
        piece.or_insert_with(|| first_piece(protocol, left)).clone()
    }
}

/// `expires_in` is what is left at this moment (`docs/protocol.md`, "Answers", row "`expires_in`"); it and
/// `ext_expires_in` are numbers in quotes and the rest is the token's own JSON, so nothing needs escaping here.
fn first_piece(protocol: Protocol, left: Duration) -> Bytes {
    let first = match protocol {
        Protocol::VmExtension => r#"{"refresh_token":"","expires_in":""#,
        Protocol::Imds | Protocol::AppService => r#"{"expires_in":""#,
    };
    let seconds = left.as_secs().to_string();
    [first, &seconds, r#"","ext_expires_in":""#, &seconds, r#"","#]
        .concat()
        .into()
}

/// The answer that carries a token.
pub fn token(protocol: Protocol, served: &Served, first_pieces: &FirstPieces) -> Response<ResponseBody> {
    let now = first_pieces.get(protocol, served.left);
    response(
        StatusCode::OK,
        ResponseBody::Ours(Some(now.chain(served.token.members()))),
    )
}

/// The answer that says why not.
pub fn problem(protocol: Protocol, problem: &Problem) -> Response<ResponseBody> {
    let mut response = json(problem.status, problem.body(protocol));
    let headers = response.headers_mut();
    if let Some(seconds) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(u16::from(seconds)));
    }
    if let Some(allow) = problem.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if problem.close {
        close(&mut response);
    }
    response
}

/// Nothing more is read from the connection after this answer.
pub fn close(response: &mut Response<ResponseBody>) {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Any other JSON answer.
pub fn json(status: StatusCode, body: Vec<u8>) -> Response<ResponseBody> {
    response(status, ResponseBody::Ours(Some(Bytes::new().chain(body.into()))))
}

/// A document that others may be given, too.
pub fn document(document: &Arc<Document>, reader: &Arc<Guest>) -> Response<ResponseBody> {
    let body = ResponseBody::Ours(Some(Bytes::new().chain(document.body(reader))));
    let mut response = response(document.status, body);
    let content_type = HeaderValue::from_static(document.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer of the metadata service; its headers are still to come.
pub fn passed_through(status: StatusCode, body: UnsyncBoxBody<Bytes, io::Error>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Passed(body));
    *response.status_mut() = status;
    response
}

fn response(status: StatusCode, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Body for ResponseBody {
    type Data = Chain<Bytes, Bytes>;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Self::Data>>>> {
        match &mut *self {
            Self::Ours(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::Passed(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(|data| data.chain(Bytes::new())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(data) => data.is_none(),
            Self::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.remaining() as u64)),
            Self::Passed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use zeroize::Zeroizing;

    use super::*;
    use crate::key::Resource;
    use crate::token::{Parts, Token};

    async fn body(response: Response<ResponseBody>) -> Value {
        let size = response.body().size_hint().exact().unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len() as u64, size);
        serde_json::from_slice(&bytes).unwrap()
    }

    fn served(left: u64) -> Served {
        let parts = Parts {
            access_token: Zeroizing::new("a.b.c".to_owned()),
            client_id: None,
            expires_on: Duration::from_secs(1_700_000_003),
            not_before: Duration::from_secs(1_600_000_003),
        };
        let token = Arc::new(Token::new(&Resource::new("https://a/").unwrap(), &parts).unwrap());
        Served {
            token,
            left: Duration::from_secs(left),
        }
    }

    #[tokio::test]
    async fn a_token_in_each_shape_has_string_values_only() {
        let first_pieces = FirstPieces::default();
        for protocol in [Protocol::Imds, Protocol::AppService, Protocol::VmExtension] {
            for left in [1, 86_399, u64::MAX, u64::MAX] {
                let mut body = body(token(protocol, &served(left), &first_pieces)).await;
                let refresh_token = body.as_object_mut().unwrap().remove("refresh_token");
                assert_eq!(refresh_token.is_some(), protocol == Protocol::VmExtension);
                assert_eq!(
                    body,
                    json!({
                        "access_token": "a.b.c", "expires_in": left.to_string(), "ext_expires_in": left.to_string(),
                        "expires_on": "1700000003", "not_before": "1600000003", "resource": "https://a/",
                        "token_type": "Bearer",
                    })
                );
            }
        }
    }

    #[tokio::test]
    async fn a_problem_is_told_in_the_shape_of_its_route() {
        let why = Problem::invalid_request("a \"quoted\"\nreason");
        let imds = body(problem(Protocol::Imds, &why)).await;
        assert_eq!(
            imds,
            json!({"error": "invalid_request", "error_description": "a \"quoted\"\nreason", "class": "bad_request"})
        );
        let app_service = body(problem(Protocol::AppService, &why)).await;
        assert_eq!(app_service["statusCode"], 400);
        assert_eq!(app_service["message"], "a \"quoted\"\nreason");
        assert!(body(problem(Protocol::Imds, &Problem::bad_api_version())).await["newest-versions"].is_array());
    }
}
