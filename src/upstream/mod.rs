//! Fetches a token from the VM's endpoint and checks the answer. Each kind of endpoint has a file with its differences;
//! the rest is common.
//!
//! The request is built from typed values, so no byte of a caller's request passes through unchecked. hyper follows no
//! redirect and reads no proxy variable, as the endpoint demands (`docs/protocol.md`, "Limits", row "Proxies").

mod azure_arc;
mod endpoint;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http_status;
mod imds;
mod quote;
mod reply;
mod vm_extension;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::endpoint::Endpoint;
pub use self::exchange::MAX_BODY;
pub use self::reply::token as check_reply;
use crate::clock::Clock;
use crate::config::{self, Kind};
use crate::failure::{Cause, Class, Failure};
use crate::http::Response;
use crate::key::{Identity, Key};
use crate::token::Token;

/// A query value is percent-encoded except for RFC 3986's unreserved characters.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A client of the endpoint that issues tokens.
pub struct Upstream {
    endpoint: Box<dyn Endpoint>,
    kind: Kind,
    uri: Uri,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Upstream {
    /// Sends no request before the first [`Upstream::fetch`].
    pub fn new(config: &config::UpstreamSettings) -> Self {
        Self {
            endpoint: match config.kind {
                Kind::Imds => Box::new(imds::Imds),
                Kind::VmExtension => Box::new(vm_extension::VmExtension),
                Kind::Arc => Box::new(azure_arc::AzureArc::new()),
            },
            kind: config.kind,
            uri: config.endpoint.clone(),
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
        }
    }

    /// The kind and the address. Failures of one endpoint are not held against another.
    pub fn name(&self) -> String {
        format!("{:?} {}", self.kind, self.uri)
    }

    /// The endpoint's address.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Asks for a token and checks the answer. `bypass` skips the endpoint's own cache, if this kind of endpoint can do so.
    ///
    /// # Errors
    /// A [`Failure`] whose class says when to ask again.
    pub async fn fetch(&self, key: &Key, bypass: bool, clock: &dyn Clock) -> Result<Token, Failure> {
        let exchanges = self.exchange(key, bypass);
        let answer = tokio::time::timeout(self.request_timeout, exchanges)
            .await
            .map_err(|_| exchange::timed_out("no answer", self.request_timeout))??;
        http_status::check(&answer, self.endpoint.server(), clock.now())?;
        reply::token(&answer.body, key, self.endpoint.must_echo_identity(), clock.now())
    }

    /// One exchange, or two if the endpoint answers with a challenge. A second challenge is not answered.
    async fn exchange(&self, key: &Key, bypass: bool) -> Result<Response, Failure> {
        let mut request = self.request(key, bypass)?;
        let answer = exchange::send(&self.uri, request.clone(), self.connect_timeout).await?;
        let Some(authorization) = self.endpoint.authorize(&answer) else {
            return Ok(answer);
        };
        request.headers_mut().insert(AUTHORIZATION, authorization?);
        exchange::send(&self.uri, request, self.connect_timeout).await
    }

    fn request(&self, key: &Key, bypass: bool) -> Result<Request<Empty<Bytes>>, Failure> {
        let selector = match &key.identity {
            Identity::Default => None,
            Identity::ClientId(id) => Some(("client_id", &**id)),
            Identity::ObjectId(id) => Some(("object_id", &**id)),
            Identity::ResourceId(id) => Some(("msi_res_id", &**id)),
        };
        let capabilities = key.capabilities.as_deref().map(|value| ("xms_cc", value));
        let fixed = self.endpoint.parameters(bypass).iter().copied();
        let authority = key.authority.as_deref().map(|value| ("authority", value));
        let resource = Some(("resource", key.resource.as_str()));
        let asked = [resource, selector, capabilities, authority];
        let query: Vec<String> = fixed
            .chain(asked.into_iter().flatten())
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY_VALUE)))
            .collect();
        let host = self.uri.authority().map_or_else(String::new, ToString::to_string);
        Request::get(format!("{}?{}", self.uri.path(), query.join("&")))
            .header(HOST, host)
            .header("Metadata", HeaderValue::from_static("true"))
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(
                USER_AGENT,
                HeaderValue::from_static(concat!("msi-tokend/", env!("CARGO_PKG_VERSION"))),
            )
            .header(CONNECTION, HeaderValue::from_static("close"))
            .body(Empty::new())
            .map_err(|error| {
                Failure::new(
                    Class::Faulty,
                    Cause::Connect,
                    format!("the request cannot be built: {error}"),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Resource;

    fn sent(kind: Kind, key: &Key, bypass: bool) -> String {
        let config = config::UpstreamSettings {
            kind,
            endpoint: Uri::from_static("http://127.0.0.1:1/p"),
            max_concurrent: 1,
            max_per_second: 1,
            connect_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
        };
        Upstream::new(&config).request(key, bypass).unwrap().uri().to_string()
    }

    #[test]
    fn each_kind_is_asked_in_its_own_words() {
        let resource = Resource::new("https://storage.azure.com/").unwrap();
        let key = Key::new(resource.clone(), Identity::resource_id("/Sub/S&x=1").unwrap());
        assert_eq!(
            sent(Kind::Imds, &key, false),
            "/p?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F&msi_res_id=%2Fsub%2Fs%26x%3D1"
        );
        let key = Key::new(resource, Identity::Default)
            .with_capabilities("cp1,cp2")
            .and_then(|key| key.with_authority("https://a/t"))
            .unwrap();
        assert_eq!(
            sent(Kind::Imds, &key, true),
            "/p?api-version=2018-10-01&bypass_cache=true&resource=https%3A%2F%2Fstorage.azure.com%2F&xms_cc=cp1%2Ccp2&authority=https%3A%2F%2Fa%2Ft"
        );
        assert_eq!(
            sent(Kind::VmExtension, &key, true),
            "/p?resource=https%3A%2F%2Fstorage.azure.com%2F&xms_cc=cp1%2Ccp2&authority=https%3A%2F%2Fa%2Ft"
        );
    }
}
