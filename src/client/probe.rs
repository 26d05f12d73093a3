//! A look at the VM's endpoint that asks it for no token: whether it answers, what time it has, what it is.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::Empty;
use hyper::header::{DATE, HOST};
use hyper::{Request, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::{Cause, Class, Failure};
use crate::http::{self, Response};

/// The endpoint answers a bad request from memory.
const PATIENCE: Duration = Duration::from_secs(4);
/// An error answer is small.
const MAX_BODY: usize = 64 * 1024;
/// Where the Azure Arc agent listens on the machine itself, with the metadata service's path.
const ARC_PORT: u16 = 40_342;

/// What the endpoint showed.
#[derive(Debug)]
pub struct Probe {
    /// Its clock, since 1970, where it says.
    pub time: Option<Duration>,
    /// Why its tokens may be worth nothing, if so.
    pub stand_in: Option<&'static str>,
}

/// # Errors
/// Why it cannot be reached, as the daemon would say it.
pub async fn endpoint(endpoint: &str) -> Result<Probe, Failure> {
    let uri: Uri = endpoint.parse().map_err(|error| unreachable(&error))?;
    // Without `Metadata: true` every kind of endpoint refuses, and issues nothing.
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

/// On Azure the metadata service is never on the machine itself; the other kinds are.
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
