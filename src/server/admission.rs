//! What a request must show before anything is done for it, by the listener that it came in at.
//!
//! Only local processes reach the daemon, and the kernel names them; no header has a secret in it. A loopback port can also
//! be reached through a page in a local browser, or through an application that fetches any address it is given. Such a
//! request has a foreign `Host` or an `Origin`, or lacks the header that only code can add.

use hyper::body::Body;
use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{Method, Request};

use super::problem::Problem;
use super::protocol::Protocol;
use super::request::Route;
use crate::config::digits;
use crate::http;
use crate::listen::METADATA_HOST;
use crate::observe::labels::Denial;

/// The rules of one listener.
#[derive(Debug)]
pub enum ListenerKind {
    /// The Unix socket.
    Unix,
    /// Loopback HTTP for unmodified Azure SDKs.
    Sdk {
        /// The listener's.
        port: u16,
    },
    /// Loopback HTTP for monitoring agents of every user.
    Monitor,
    /// What the lock leads here, meant for the metadata service.
    Lock,
}

/// What of a request's headers matters here, found in one pass: there are few, and a look-up of each that there should not
/// be costs more.
#[derive(Default)]
struct Found<'r> {
    hosts: usize,
    has_encoding: bool,
    /// Whether `Metadata` is there once, and true.
    metadata: Option<bool>,
    /// A header that is proof by its name alone.
    is_marked: bool,
    /// The first one that a proxy added (`docs/protocol.md`, "Requests", row "Proof header").
    forwarding: Option<&'r HeaderName>,
    /// The one of these that the metadata service itself refuses. It would not see it: headers are passed on by a list of
    /// those that it knows.
    x_forwarded_for: Option<&'r HeaderName>,
}

/// The route that the request may go on to, or why not.
pub fn admit(listener: &ListenerKind, route: Option<Route>, request: &Request<impl Body>) -> Result<Route, Problem> {
    let found = Found::among(request.headers());
    check_form(request, &found)?;
    listener.check_origin(request.headers())?;
    let route = route.ok_or_else(|| Route::none_at(request.uri().path()))?;
    route.check_method(request.method())?;
    match route {
        Route::Token(_) => {
            listener.check_not_forwarded(found.forwarding)?;
            listener.check_proof(&found)?;
        }
        Route::Metadata => listener.check_not_forwarded(found.x_forwarded_for)?,
        Route::Live | Route::Ready | Route::Status | Route::Metrics | Route::Reload => {}
    }
    Ok(route)
}

/// Whether the metadata service itself takes a request with these headers.
pub fn is_for_the_service(headers: &HeaderMap) -> bool {
    let found = Found::among(headers);
    found.metadata == Some(true) && found.x_forwarded_for.is_none()
}

/// Refuses what could be taken for more than one request, or for another one, and then reads nothing more. Where a request
/// has both lengths hyper goes by the chunks and reads nothing more, as RFC 9112 6.3 allows. An offer to upgrade, which
/// Java's own client makes with each first request, is ignored as RFC 9110 7.8 allows.
fn check_form(request: &Request<impl Body>, found: &Found<'_>) -> Result<(), Problem> {
    let refused = |text| Err(Problem::invalid_request(text).closing());
    let uri = request.uri();
    if uri.scheme().is_some() || uri.authority().is_some() {
        refused("The request target must be a path, not a whole URL.")
    } else if found.hosts > 1 {
        refused("More than one Host header.")
    } else if found.has_encoding && !is_chunked(request.headers()) {
        refused("Transfer-Encoding: a body can only be chunked, and only once.")
    } else if request.method() == Method::GET && !request.body().is_end_stream() {
        refused("A GET request has no body here.")
    } else {
        Ok(())
    }
}

/// Whether `Transfer-Encoding` is `chunked`, said once.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = encodings
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && encodings.next().is_none()
}

impl<'r> Found<'r> {
    fn among(headers: &'r HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            match name.as_str() {
                "host" => found.hosts += 1,
                "transfer-encoding" => found.has_encoding = true,
                "metadata" => {
                    let is_true = value.as_bytes().eq_ignore_ascii_case(b"true");
                    found.metadata = Some(is_true && found.metadata.is_none());
                }
                "x-identity-header" | "secret" => found.is_marked = true,
                "x-forwarded-for" => {
                    found.forwarding.get_or_insert(name);
                    found.x_forwarded_for = Some(name);
                }
                "forwarded" | "via" | "x-real-ip" => _ = found.forwarding.get_or_insert(name),
                _ => {}
            }
        }
        found
    }
}

impl ListenerKind {
    /// What lives at a path here.
    pub fn route(&self, path: &str) -> Option<Route> {
        let route = Route::at(path);
        if let Self::Lock = self {
            let token = Route::Token(Protocol::Imds);
            return Some(if route == Some(token) { token } else { Route::Metadata });
        }
        let route = route?;
        match (self, route) {
            (Self::Unix, _)
            | (Self::Sdk { .. }, Route::Token(_))
            | (Self::Monitor, Route::Live | Route::Ready | Route::Metrics) => Some(route),
            (Self::Sdk { .. } | Self::Monitor | Self::Lock, _) => None,
        }
    }

    /// Refuses what comes from a web page or by a DNS name that was rebound to loopback.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let port = match self {
            Self::Unix => return Ok(()),
            Self::Sdk { port } => Some(*port),
            // The monitor gives no tokens, so a forwarded port is allowed.
            Self::Monitor | Self::Lock => None,
        };
        if headers.contains_key(ORIGIN) {
            return Err(Problem::untrusted(
                Denial::Origin,
                "The request has an Origin header, so it comes from a web page; web pages are not served.",
            ));
        }
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let good = match self {
            Self::Lock => host.strip_suffix(":80").unwrap_or(host) == METADATA_HOST,
            _ => is_loopback(host, port),
        };
        if good {
            return Ok(());
        }
        let what = match port {
            _ if matches!(self, Self::Lock) => METADATA_HOST.to_owned(),
            Some(port) => format!("a loopback name or address with port {port}, such as 127.0.0.1:{port}"),
            None => "a loopback name or address, such as 127.0.0.1".to_owned(),
        };
        Err(Problem::untrusted(
            Denial::Host,
            format!("The Host header must be {what}."),
        ))
    }

    /// Refuses what came through a proxy, whose clients would all be taken for the proxy.
    fn check_not_forwarded(&self, forwarding: Option<&HeaderName>) -> Result<(), Problem> {
        let Some(name) = forwarding else { return Ok(()) };
        let text = format!(
            "The request has a {name} header, so it came through a proxy: it must come from the program itself."
        );
        Err(match self {
            Self::Unix => Problem::invalid_request(text),
            Self::Sdk { .. } | Self::Monitor | Self::Lock => Problem::untrusted(Denial::Forwarded, text),
        })
    }

    /// There must be a header that a request which code was tricked into would lack. Each protocol has one, and any of them
    /// will do on every route, since programs combine them freely; not on the lock, which the metadata service's own
    /// callers come to (`docs/protocol.md`, "Requests", row "Proof header").
    fn check_proof(&self, found: &Found<'_>) -> Result<(), Problem> {
        if found.metadata == Some(true) || !matches!(self, Self::Lock) && found.is_marked {
            Ok(())
        } else {
            Err(Problem::missing_header())
        }
    }
}

/// Whether a `Host` header names this machine by itself, and our port where it matters. The port is judged on the text: the
/// library's number also takes a sign.
fn is_loopback(host: &str, port: Option<u16>) -> bool {
    let Some(authority) = host.parse::<Authority>().ok().filter(|_| !host.contains('@')) else {
        return false;
    };
    let named = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(80),
        rest => rest.and_then(|rest| rest.strip_prefix(':')).and_then(digits),
    };
    http::is_loopback(authority.host()) && port.is_none_or(|port| named == Some(port))
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

    fn sdk() -> ListenerKind {
        ListenerKind::Sdk { port: 40343 }
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
            "127.0.0.1:+40343",
            "127.0.0.1:-40343",
            "localhost:+40343",
            "[::1]:+40343",
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
        assert!(!is_loopback("127.0.0.1:", Some(80)) && !is_loopback("127.0.0.1:+80", Some(80)));
    }

    #[test]
    fn a_web_page_is_refused_and_the_unix_socket_asks_for_neither() {
        let host = ("host", "127.0.0.1:40343");
        assert!(sdk().check_origin(&headers(&[host])).is_ok());
        assert_eq!(
            sdk()
                .check_origin(&headers(&[host, ("origin", "null")]))
                .unwrap_err()
                .status,
            403
        );
        assert_eq!(sdk().check_origin(&headers(&[])).unwrap_err().status, 403);
        assert!(
            ListenerKind::Unix
                .check_origin(&headers(&[("host", "x"), ("origin", "http://x")]))
                .is_ok()
        );
    }

    #[test]
    fn one_header_that_only_code_can_add_suffices() {
        for (lines, good) in [
            (&[][..], false),
            (&[("metadata", "True")], true),
            (&[("metadata", "1")], false),
            (&[("metadata", "")], false),
            (&[("metadata", "true"), ("metadata", "true")], false),
            (&[("x-identity-header", "x")], true),
            (&[("x-identity-header", "")], true),
            (&[("secret", "x")], true),
            (&[("secret", "x"), ("secret", "y")], true),
            (&[("metadata", "false"), ("secret", "x")], true),
            (&[("x-ms-identity", "x"), ("x-secret", "x")], false),
        ] {
            for listener in [ListenerKind::Unix, sdk()] {
                assert_eq!(
                    listener.check_proof(&Found::among(&headers(lines))).is_ok(),
                    good,
                    "{lines:?}"
                );
            }
            let by_metadata = good && lines.len() == 1 && lines[0].0 == "metadata";
            assert_eq!(
                ListenerKind::Lock.check_proof(&Found::among(&headers(lines))).is_ok(),
                by_metadata,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn only_tokens_are_served_on_loopback() {
        for path in ["/live", "/ready", "/status"] {
            assert_eq!(sdk().route(path), None, "{path}");
        }
        assert_eq!(sdk().route("/MSI/token/"), Some(Route::Token(Protocol::AppService)));
        assert_eq!(ListenerKind::Unix.route("/live"), Some(Route::Live));
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
            assert_eq!(ListenerKind::Monitor.route(path), route, "{path}");
        }
        let admits = |lines: &[_]| ListenerKind::Monitor.check_origin(&headers(lines)).is_ok();
        assert!(admits(&[("host", "localhost:1")]) && admits(&[("host", "127.0.0.1")]));
        assert!(!admits(&[("host", "evil.example")]) && !admits(&[]));
        assert!(!admits(&[("host", "localhost"), ("origin", "http://localhost")]));
    }
}
