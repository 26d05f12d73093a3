//! One GET over a connection, and what an answer that is no success means.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{HeaderName, RETRY_AFTER};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure, printable};

/// An answer. The body may hold a token, so it cannot be printed and is wiped.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    headers: HeaderMap,
    /// The whole body.
    pub body: Zeroizing<Vec<u8>>,
}

/// What an error answer says.
#[derive(Default, serde::Deserialize)]
struct Text {
    error: Option<String>,
    error_description: Option<String>,
}

/// Sends the request and waits for the whole answer.
pub async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> hyper::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors come out of the request as well.
    tokio::spawn(connection);
    let (head, mut body) = sender.send_request(request).await?.into_parts();
    let mut whole = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: whole,
    })
}

impl Answer {
    /// A header's text, if there is one that is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The failure that any other status than 200 is. `wanted` is what was asked for, for the message.
    pub fn failure(&self, wanted: &str) -> Failure {
        let text: Text = serde_json::from_slice(&self.body).unwrap_or_default();
        let cause = match (text.error_description, text.error) {
            (Some(description), _) => printable(&description),
            (None, Some(error)) => format!("{wanted}: {}", printable(&error)),
            (None, None) => format!("{wanted}: the daemon answers HTTP {}", self.status.as_u16()),
        };
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                let seconds = self.header(RETRY_AFTER).and_then(|text| text.parse().ok()).unwrap_or(1);
                let advice =
                    format!("Try again in {seconds} s, or have --wait do it; `msi-token status` shows the cause.");
                Failure::new(Exit::TryLater, cause, advice).retry_in(Duration::from_secs(seconds))
            }
            StatusCode::FORBIDDEN => Failure::new(Exit::NotAllowed, cause, ""),
            StatusCode::BAD_REQUEST => Failure::new(
                Exit::Other,
                format!("refused: {cause}"),
                "Asking the same again will not help: check --resource and the identity; `msi-token doctor` explains more.",
            ),
            _ => Failure::new(
                Exit::Other,
                cause,
                "The daemon and this client may be of different versions: compare `msi-tokend --version`.",
            ),
        }
    }
}
