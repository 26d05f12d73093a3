//! A probe of the VM's endpoint that asks for no token: does it answer, what time does it have, is it a stand-in?

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::Empty;
use hyper::header::{DATE, HOST};
use hyper::{Request, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::{Cause, Class, Failure};
use crate::http::{self, Response};

/// Enough for an endpoint, which refuses a bad request without further requests of its own.
const PATIENCE: Duration = Duration::from_secs(4);
/// An error answer is small.
const MAX_BODY: usize = 64 * 1024;
/// The Azure Arc agent listens on this port of the machine itself, with the metadata service's path.
const ARC_PORT: u16 = 40_342;

/// The result of a probe.
#[derive(Debug)]
pub struct Probe {
    /// The endpoint's clock, since 1970, if its answer has a `Date`.
    pub time: Option<Duration>,
    /// Why the endpoint seems to be a stand-in, whose tokens Azure does not accept.
    pub stand_in: Option<&'static str>,
}

/// Sends one request that the endpoint refuses.
///
/// # Errors
/// Why the endpoint cannot be reached, in the daemon's words.
pub async fn endpoint(endpoint: &str) -> Result<Probe, Failure> {
    let uri: Uri = endpoint.parse().map_err(|error| unreachable(&error))?;
    // Every kind of endpoint refuses a request without `Metadata: true`, so no token is issued.
    let answer = get(&uri, uri.path()).await?;
    let time = answer
        .header(DATE)
        .and_then(|text| httpdate::parse_http_date(text).ok())
        .and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    Ok(Probe {
        time,
        stand_in: stand_in(&uri),
    })
}

/// The metadata service of Azure is never on the machine itself; the other kinds of endpoint are.
fn stand_in(uri: &Uri) -> Option<&'static str> {
    if !http::is_loopback(uri.host()?) {
        return None;
    }
    let is_metadata_service =
        uri.path().to_ascii_lowercase().starts_with("/metadata/") && uri.port_u16() != Some(ARC_PORT);
    is_metadata_service.then_some("it is on this machine, where the metadata service of Azure never is")
}

async fn get(uri: &Uri, path: &str) -> Result<Response, Failure> {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path).header(HOST, authority).body(Empty::new());
    let exchange = async {
        let stream = TcpStream::connect((bare, uri.port_u16().unwrap_or(80))).await;
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::new(Class::Restarting, Cause::Connect, "connection refused"),
            _ => unreachable(&error),
        })?;
        let request = request.map_err(|error| unreachable(&error))?;
        let response = http::exchange(stream, request, MAX_BODY).await;
        response.map_err(|error| {
            Failure::new(
                Class::Faulty,
                Cause::Reset,
                format!("the connection broke before the answer was whole: {error}"),
            )
        })
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
        let text = format!("no answer within {}", humantime::format_duration(PATIENCE));
        Err(Failure::new(Class::Faulty, Cause::Timeout, text))
    })
}

fn unreachable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Class::Faulty, Cause::Connect, format!("no connection: {error}"))
}
