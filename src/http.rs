//! One HTTP exchange as a client: a request over a connection of its own, and the whole answer.

use std::net::IpAddr;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

/// What came back, whatever it is. The body may hold a token, so it cannot be printed and is wiped.
pub struct Response {
    /// HTTP status.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer. hyper's errors name what broke, and never quote what was received.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection broke, or what came is no HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The body is longer than this many bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
}

/// Sends the request and reads the answer, whose body may have `max_body` bytes. Dropping this ends the connection.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    max_body: usize,
) -> Result<Response, ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange =
        async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, max_body).collect().await.map_err(|error| {
                match error.downcast::<hyper::Error>() {
                    Ok(error) => ExchangeError::Broken(*error),
                    Err(error) => {
                        debug_assert!(error.is::<LengthLimitError>());
                        ExchangeError::TooLarge(max_body)
                    }
                }
            })?;
            // Gathered into one buffer that is wiped; the pieces are the allocator's again.
            let mut bytes = body.aggregate();
            let mut whole = Zeroizing::new(vec![0; bytes.remaining()]);
            bytes.copy_to_slice(&mut whole);
            Ok(Response {
                status: head.status,
                headers: head.headers,
                body: whole,
            })
        };
    // The connection is driven here and not in a task of its own, so that dropping the exchange ends it.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        response = &mut exchange => response,
        _ = &mut connection => exchange.await,
    }
}

impl Response {
    /// A header's text, if there is one that is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Whether a host, as a URL or a `Host` header has it, is this machine itself: `localhost` or a loopback address. A name
/// out of DNS may lead here as well, but then it is somebody else's.
pub fn is_loopback(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
