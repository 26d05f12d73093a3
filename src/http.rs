//! One HTTP exchange as a client: a request over a connection of its own, and its answer, as it comes or whole.

use std::error::Error;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

/// The body of an answer as it comes in. Dropping it ends the connection.
pub struct Coming<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body + 'static,
{
    body: Incoming,
    /// Driven here and not in a task of its own, so that it ends with the body. `None` when it is over.
    connection: Option<http1::Connection<TokioIo<S>, B>>,
}

/// What came back, whatever it is. The body may hold a token, so it cannot be printed and is wiped.
pub struct Response {
    /// HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer. hyper's errors never quote what was received.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection broke, or the answer is no HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The body is longer than this many bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
}

/// Sends the request and reads the answer, whose body may have up to `max_body` bytes. Dropping this ends the connection.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    max_body: usize,
) -> Result<Response, ExchangeError> {
    whole(begin(http1::Builder::new(), stream, request).await?, max_body).await
}

/// Reads the rest of an answer, whose body may have up to `max_body` bytes.
pub async fn whole<S>(
    answer: hyper::Response<Coming<S, Empty<Bytes>>>,
    max_body: usize,
) -> Result<Response, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (head, body) = answer.into_parts();
    let body =
        Limited::new(body, max_body)
            .collect()
            .await
            .map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => ExchangeError::Broken(*error),
                Err(error) => {
                    debug_assert!(error.is::<LengthLimitError>());
                    ExchangeError::TooLarge(max_body)
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
}

/// Sends the request and reads the answer as far as its body, which comes later. Dropping this ends the connection.
pub async fn begin<S, B>(
    http: http1::Builder,
    stream: S,
    request: Request<B>,
) -> hyper::Result<hyper::Response<Coming<S, B>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (mut sender, mut connection) = http.handshake(TokioIo::new(stream)).await?;
    let head = sender.send_request(request);
    tokio::pin!(head);
    let (response, connection) = tokio::select! {
        biased;
        response = &mut head => (response, Some(connection)),
        _ = &mut connection => (head.await, None),
    };
    Ok(response?.map(|body| Coming { body, connection }))
}

impl<S, B> Body for Coming<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            return frame;
        }
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            // What went wrong is told by the body, too.
            self.connection = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Response {
    /// A header's value, if it exists and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Whether the host of a URL or a `Host` header is this machine itself: `localhost` or a loopback address. Other names do
/// not count, also if DNS gives a loopback address for them.
pub fn is_loopback(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
