//! One exchange with the endpoint, and the failure for each way in which it can end without an answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::failure::{Cause, Class, Failure};
use crate::http::{self, ExchangeError, Response};

/// The largest body that is read: about four times a token with hundreds of groups.
pub const MAX_BODY: usize = 256 * 1024;

/// Sends `request` over a new connection. Requests are so rare that a kept connection would save nothing.
///
/// # Errors
/// [`Class::Restarting`] for a refused connection, [`Class::Faulty`] for anything else that ends the exchange.
pub async fn send(uri: &Uri, request: Request<Empty<Bytes>>, connect_timeout: Duration) -> Result<Response, Failure> {
    converse(connect(uri, connect_timeout).await?, request).await
}

/// Sends `request` over this connection.
pub async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
) -> Result<Response, Failure> {
    let response = http::exchange(stream, request, MAX_BODY).await;
    response.map_err(|error| broken(&error))
}

async fn connect(uri: &Uri, patience: Duration) -> Result<TcpStream, Failure> {
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    match tokio::time::timeout(patience, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Failure::new(Class::Restarting, Cause::Connect, "connection refused"))
        }
        Ok(Err(error)) => Err(Failure::new(
            Class::Faulty,
            Cause::Connect,
            format!("no connection: {error}"),
        )),
        Err(_) => Err(timed_out("no connection", patience)),
    }
}

/// The failure for a time-out.
pub fn timed_out(what: &str, patience: Duration) -> Failure {
    Failure::new(
        Class::Faulty,
        Cause::Timeout,
        format!("{what} within {}", humantime::format_duration(patience)),
    )
}

/// The failure for a broken exchange. hyper's errors never quote what was received.
fn broken(error: &ExchangeError) -> Failure {
    let cause = match error {
        ExchangeError::Broken(_) => Cause::Reset,
        ExchangeError::TooLarge(_) => Cause::TooLarge,
    };
    let mut text = format!("the connection broke before the answer was whole: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    Failure::new(Class::Faulty, cause, text)
}
