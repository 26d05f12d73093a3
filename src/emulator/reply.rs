//! An answer, and the faults in sending it.

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Cut>;

/// Ends the connection in the middle of a body.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body is cut on purpose")]
pub(super) struct Cut;

/// Resets the connection instead of answering.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection is reset on purpose")]
pub(super) struct Reset;

/// Status, headers and body of an answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Vec<u8>,
    pub sending: Sending,
}

/// How much of the body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Whole,
    /// The first half; then the connection ends.
    Half,
    /// The first half; then the connection stays open.
    Stalled,
    /// All of it, with white space up to this many bytes.
    PaddedTo(u64),
}

const PADDING: &[u8] = &[b' '; 64 * 1024];

impl Reply {
    /// A JSON body.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        // Serialising a map with string keys cannot fail.
        Self::text(status, serde_json::to_vec(body).unwrap_or_default()).with(
            CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        )
    }

    /// A body without a content type.
    pub fn text(status: StatusCode, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            sending: Sending::Whole,
        }
    }

    /// Sets a header, in place of an earlier one of that name.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    pub fn into_response(self) -> Response<Body> {
        let whole = Bytes::from(self.body);
        let sent = u64::try_from(whole.len()).unwrap_or(u64::MAX);
        let (length, body) = match self.sending {
            Sending::PaddedTo(length) if length > sent => (length, padded(whole, length - sent)),
            Sending::Whole | Sending::PaddedTo(_) => {
                (sent, Full::new(whole).map_err(|never| match never {}).boxed_unsync())
            }
            Sending::Half => (sent, first_half(&whole, cut())),
            Sending::Stalled => (sent, first_half(&whole, std::future::pending())),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

fn padded(start: Bytes, padding: u64) -> Body {
    let whole_blocks = padding / PADDING.len() as u64;
    let rest = usize::try_from(padding % PADDING.len() as u64).unwrap_or(0);
    let blocks = stream::unfold(0, move |n| async move {
        (n < whole_blocks).then_some((Bytes::from_static(PADDING), n + 1))
    });
    let rest = stream::iter([Bytes::from_static(PADDING).slice(..rest)]);
    let chunks = stream::iter([start]).chain(blocks).chain(rest);
    BodyExt::boxed_unsync(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))))
}

fn first_half(whole: &Bytes, then: impl Future<Output = Cut> + Send + 'static) -> Body {
    let half = stream::iter([Ok(Frame::data(whole.slice(..whole.len() / 2)))]);
    BodyExt::boxed_unsync(StreamBody::new(half.chain(stream::once(then.map(Err)))))
}

async fn cut() -> Cut {
    // hyper sends the head and the first half only when the next part has to wait.
    tokio::task::yield_now().await;
    Cut
}

/// An error in the form of the token routes (`docs/protocol.md`, "Errors", row "Form").
pub(super) fn error(status: StatusCode, code: &str, description: &str) -> Reply {
    Reply::json(status, &json!({"error": code, "error_description": description}))
}
