//! What a request must show, by the listener it came in at.
//!
//! Nobody but a local process reaches the Unix socket, and the kernel says which. A loopback port can also be reached by
//! what others have in hand: a page in a local browser, an application that fetches whatever address it is told. Such a
//! request carries a foreign `Host` or an `Origin`, or lacks the header that only code can add.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::http::uri::Authority;

use super::problem::Problem;
use super::route::Route;
use super::secret::Secret;
use super::shape::Shape;
use crate::observe::labels::Denial;

/// The rules of one listener.
#[derive(Debug)]
pub enum Gate {
    /// The Unix socket.
    Unix,
    /// Loopback HTTP for unmodified Azure SDKs.
    Sdk {
        /// The listener's.
        port: u16,
        /// What `X-IDENTITY-HEADER` must hold.
        secret: Secret,
    },
    /// Loopback HTTP for monitoring agents, whoever they run as.
    Monitor,
}

impl Gate {
    /// What lives at a path here.
    pub fn route(&self, path: &str) -> Option<Route> {
        let route = Route::at(path)?;
        match (self, route) {
            (Self::Unix, _)
            | (Self::Sdk { .. }, Route::Token(_))
            | (Self::Monitor, Route::Live | Route::Ready | Route::Metrics) => Some(route),
            (Self::Sdk { .. } | Self::Monitor, _) => None,
        }
    }

    /// Refuses what a browser or a rebound DNS name brings in.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let port = match self {
            Self::Unix => return Ok(()),
            Self::Sdk { port, .. } => Some(*port),
            // Nothing secret is told here, so a forwarded port does.
            Self::Monitor => None,
        };
        if headers.contains_key(ORIGIN) {
            return Err(Problem::untrusted(
                Denial::Origin,
                "Origin: nothing here is for web pages.",
            ));
        }
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        if is_loopback(host, port) {
            return Ok(());
        }
        let what = match port {
            Some(port) => format!("a loopback name or address with port {port}, such as 127.0.0.1:{port}"),
            None => "a loopback name or address, such as 127.0.0.1".to_owned(),
        };
        Err(Problem::untrusted(
            Denial::Host,
            format!("The Host header must be {what}."),
        ))
    }

    /// The header that a forwarded request would lack.
    pub fn check_proof(&self, shape: Shape, headers: &HeaderMap) -> Result<(), Problem> {
        let name = match shape {
            Shape::AppService => "x-identity-header",
            Shape::Imds | Shape::VmExtension => "metadata",
        };
        // There are few, so that looking at each costs less than the name's hash.
        let mut values = headers.iter().filter(|(at, _)| *at == name).map(|(_, value)| value);
        let value = match (values.next(), values.next()) {
            (Some(value), None) => Some(value.as_bytes()),
            _ => None,
        };
        match (shape, self, value) {
            (Shape::AppService, _, None) => Err(Problem::missing_header("X-IDENTITY-HEADER")),
            // The kernel says who calls, so any value serves.
            (Shape::AppService, Self::Unix, Some(_)) => Ok(()),
            (Shape::AppService, Self::Sdk { secret, .. }, Some(value)) if secret.matches(value) => Ok(()),
            (Shape::AppService, Self::Sdk { .. }, Some(_)) => Err(Problem::untrusted(
                Denial::Secret,
                "The value of X-IDENTITY-HEADER is not the one in sdk.env: start the application with that file as its environment.",
            )),
            (_, _, Some(value)) if value.eq_ignore_ascii_case(b"true") => Ok(()),
            _ => Err(Problem::missing_header("Metadata: true")),
        }
    }
}

/// Whether a `Host` header names this machine by itself, and our port where it matters. A name out of DNS may lead here as
/// well, but then it is somebody else's.
fn is_loopback(host: &str, port: Option<u16>) -> bool {
    let Some(authority) = host.parse::<Authority>().ok().filter(|_| !host.contains('@')) else {
        return false;
    };
    let name = authority.host();
    let address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    let ours = name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    ours && port.is_none_or(|port| authority.port_u16().unwrap_or(80) == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn sdk() -> Gate {
        Gate::Sdk {
            port: 40343,
            secret: Secret::parse(&"A".repeat(43)).unwrap(),
        }
    }

    #[test]
    fn only_a_loopback_name_with_our_port_is_us() {
        for host in [
            "127.0.0.1:40343",
            "localhost:40343",
            "LocalHost:40343",
            "127.9.9.9:40343",
            "[::1]:40343",
        ] {
            assert!(is_loopback(host, Some(40343)), "{host}");
        }
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1:",
            "127.0.0.1:40343:40343",
            "127.0.0.1:040343x",
            "x@127.0.0.1:40343",
            "127.0.0.1:40343@evil.example:40343",
            "evil.example:40343",
            "localhost.evil.example:40343",
            "127.0.0.1.nip.io:40343",
            "10.0.0.4:40343",
            "169.254.169.254:40343",
            "0.0.0.0:40343",
            "[::]:40343",
            "::1:40343",
            "2130706433:40343",
        ] {
            assert!(!is_loopback(host, Some(40343)), "{host}");
        }
        assert!(
            is_loopback("127.0.0.1", Some(80)) && is_loopback("[::1]", Some(80)),
            "port 80 is left out"
        );
    }

    #[test]
    fn a_web_page_is_refused_and_the_unix_socket_asks_for_neither() {
        let host = ("host", "127.0.0.1:40343");
        assert!(sdk().admit(&headers(&[host])).is_ok());
        assert_eq!(
            sdk().admit(&headers(&[host, ("origin", "null")])).unwrap_err().status,
            403
        );
        assert_eq!(sdk().admit(&headers(&[])).unwrap_err().status, 403);
        assert!(
            Gate::Unix
                .admit(&headers(&[("host", "x"), ("origin", "http://x")]))
                .is_ok()
        );
    }

    #[test]
    fn the_secret_counts_on_loopback_and_its_presence_on_the_unix_socket() {
        let status = |gate: &Gate, lines: &[_]| {
            let result = gate.check_proof(Shape::AppService, &headers(lines));
            result.map_or_else(|problem| problem.status.as_u16(), |()| 200)
        };
        let (right, wrong) = ("A".repeat(43), "B".repeat(43));
        let (right, wrong) = (("x-identity-header", &*right), ("x-identity-header", &*wrong));
        assert_eq!(status(&sdk(), &[right]), 200);
        assert_eq!(status(&sdk(), &[wrong]), 403);
        assert_eq!(status(&sdk(), &[("x-identity-header", "")]), 403);
        assert_eq!(status(&sdk(), &[("metadata", "true")]), 400);
        assert_eq!(status(&sdk(), &[right, right]), 400);
        assert_eq!((status(&Gate::Unix, &[wrong]), status(&Gate::Unix, &[])), (200, 400));
    }

    #[test]
    fn metadata_is_true_without_case_and_once() {
        for (lines, good) in [
            (&[("metadata", "True")][..], true),
            (&[("metadata", "1")], false),
            (&[], false),
            (&[("metadata", "true"), ("metadata", "true")], false),
            (&[("x-identity-header", "x")], false),
        ] {
            for gate in [sdk(), Gate::Unix] {
                for shape in [Shape::Imds, Shape::VmExtension] {
                    assert_eq!(gate.check_proof(shape, &headers(lines)).is_ok(), good, "{lines:?}");
                }
            }
        }
    }

    #[test]
    fn only_tokens_are_served_on_loopback() {
        for path in [
            "/live",
            "/ready",
            "/status",
            "/metadata/identity/getplatformmetadata",
            "/metadata/identity/issuecredential",
        ] {
            assert_eq!(sdk().route(path), None, "{path}");
        }
        assert_eq!(sdk().route("/MSI/token/"), Some(Route::Token(Shape::AppService)));
        assert_eq!(Gate::Unix.route("/live"), Some(Route::Live));
    }

    #[test]
    fn the_monitor_has_three_routes_and_none_of_them_is_for_web_pages() {
        for (path, route) in [
            ("/live", Some(Route::Live)),
            ("/ready", Some(Route::Ready)),
            ("/metrics", Some(Route::Metrics)),
            ("/status", None),
            ("/reload", None),
            ("/oauth2/token", None),
            ("/metadata/identity/oauth2/token", None),
            ("/msi/token", None),
        ] {
            assert_eq!(Gate::Monitor.route(path), route, "{path}");
        }
        let admits = |lines: &[_]| Gate::Monitor.admit(&headers(lines)).is_ok();
        assert!(admits(&[("host", "localhost:1")]) && admits(&[("host", "127.0.0.1")]));
        assert!(!admits(&[("host", "evil.example")]) && !admits(&[]));
        assert!(!admits(&[("host", "localhost"), ("origin", "http://localhost")]));
    }
}
