//! An exchange with the endpoint, and what its end means where there is no answer.

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

/// Some four times what a token with hundreds of groups takes; an endless body is not read on.
pub const MAX_BODY: usize = 256 * 1024;

/// Sends `request` over a connection of its own: a token is asked for a few times a day, and a kept connection would
/// only be one more thing to break.
///
/// # Errors
/// [`Class::Restarting`] for a refused connection, [`Class::Faulty`] for anything else that ends the exchange.
pub async fn send(uri: &Uri, request: Request<Empty<Bytes>>, connect_timeout: Duration) -> Result<Response, Failure> {
    converse(connect(uri, connect_timeout).await?, request).await
}

/// The exchange over a connection that there is.
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

/// A wait that ran out.
pub fn timed_out(what: &str, patience: Duration) -> Failure {
    Failure::new(
        Class::Faulty,
        Cause::Timeout,
        format!("{what} within {}", humantime::format_duration(patience)),
    )
}

/// hyper's errors name what broke, and never quote what was received.
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
