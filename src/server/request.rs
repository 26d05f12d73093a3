//! From a request to what is asked: the one parser for every token route.
//!
//! Everything that could be read in two ways is refused with a text that says so: what this parser makes of a request is
//! what the rules judge and what the cache is asked for.

use std::borrow::Cow;

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use super::protocol::Protocol;
use crate::broker::Renewal;
use crate::key::{Identity, InvalidKey, Key, Resource};

/// What lives at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A token.
    Token(Protocol),
    /// Whether the daemon's own loops beat.
    Live,
    /// Whether every warm token can be served.
    Ready,
    /// What is cached.
    Status,
    /// Reads the configuration again.
    Reload,
    /// What is counted.
    Metrics,
    /// Anything of the metadata service but a token.
    Metadata,
}

impl Protocol {
    /// How errors look there; where no token is served, as the metadata service's.
    pub fn of(route: Option<Route>) -> Self {
        match route {
            Some(Route::Token(protocol)) => protocol,
            _ => Self::Imds,
        }
    }
}

/// A token request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Which token.
    pub key: Key,
    /// Whether the cached one will do.
    pub renewal: Renewal,
}

impl Route {
    /// Paths match without case, with or without a last slash, doubled slashes as one: SDKs write all of these
    /// (`docs/protocol.md`, "Requests", row "Paths").
    pub fn at(path: &str) -> Option<Self> {
        Self::exactly(path).or_else(|| {
            let parts: Vec<String> = segments(path).map(str::to_ascii_lowercase).collect();
            Self::exactly(&format!("/{}", parts.join("/")))
        })
    }

    /// What may be done there.
    pub fn check_method(self, method: &Method) -> Result<(), Problem> {
        let (fits, allow) = match self {
            Self::Token(Protocol::VmExtension) => (method == Method::GET || method == Method::POST, "GET, POST"),
            Self::Reload => (method == Method::POST, "POST"),
            // What may be passed on there is judged with the path.
            Self::Metadata => (true, ""),
            Self::Token(_) | Self::Live | Self::Ready | Self::Status | Self::Metrics => (method == Method::GET, "GET"),
        };
        if fits {
            Ok(())
        } else {
            Err(Problem::method_not_allowed(allow))
        }
    }

    /// Why a listener has nothing at a path. Before its first token the SDK for .NET asks two paths under `/metadata/`
    /// that are not served here, and would repeat a 404 (`docs/protocol.md`, "What SDKs do", row "Key-bound tokens").
    /// As in [`Route::at`], nothing is percent-decoded: no client encodes the letters of a path.
    pub fn none_at(path: &str) -> Problem {
        match segments(path).next() {
            Some(first) if first.eq_ignore_ascii_case("metadata") => Problem::not_served(),
            _ => Problem::no_such_route(),
        }
    }

    fn exactly(path: &str) -> Option<Self> {
        Some(match path {
            "/metadata/identity/oauth2/token" => Self::Token(Protocol::Imds),
            "/oauth2/token" => Self::Token(Protocol::VmExtension),
            "/msi/token" => Self::Token(Protocol::AppService),
            "/live" => Self::Live,
            "/ready" => Self::Ready,
            "/status" => Self::Status,
            "/reload" => Self::Reload,
            "/metrics" => Self::Metrics,
            _ => return None,
        })
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The parameters as they came, each at most once.
#[derive(Default)]
struct Parameters<'a> {
    resource: Option<Cow<'a, str>>,
    client_id: Option<Cow<'a, str>>,
    clientid: Option<Cow<'a, str>>,
    object_id: Option<Cow<'a, str>>,
    principal_id: Option<Cow<'a, str>>,
    msi_res_id: Option<Cow<'a, str>>,
    mi_res_id: Option<Cow<'a, str>>,
    api_version: Option<Cow<'a, str>>,
    bypass_cache: Option<Cow<'a, str>>,
    token_sha256_to_refresh: Option<Cow<'a, str>>,
    xms_cc: Option<Cow<'a, str>>,
    authority: Option<Cow<'a, str>>,
}

impl TokenRequest {
    /// Understands the query and, for a POST, the form.
    pub fn parse(protocol: Protocol, query: Option<&str>, form: Option<&str>) -> Result<Self, Problem> {
        let mut parameters = Parameters::default();
        parameters.read(query.unwrap_or_default(), Cow::Borrowed)?;
        parameters.read(form.unwrap_or_default(), |value| {
            if value.contains('+') {
                Cow::Owned(value.replace('+', " "))
            } else {
                Cow::Borrowed(value)
            }
        })?;
        check_api_version(protocol, parameters.api_version.as_deref())?;
        let resource = parameters.resource.as_deref().ok_or_else(|| {
            Problem::invalid_request("The parameter \"resource\" is missing: name the service that the token is for, such as https://management.azure.com/.")
        })?;
        let resource = Resource::new(resource).map_err(|why| unfit("resource", why))?;
        let key = Key::new(resource, parameters.identity()?);
        let key = match parameters.xms_cc.as_deref() {
            Some(value) => key.with_capabilities(value).map_err(|why| unfit("xms_cc", why))?,
            None => key,
        };
        let key = match parameters.authority.as_deref() {
            Some(value) => key.with_authority(value).map_err(|why| unfit("authority", why))?,
            None => key,
        };
        Ok(Self {
            key,
            renewal: parameters.renewal()?,
        })
    }
}

impl<'a> Parameters<'a> {
    /// Reads `a=1&b=2`; `unescape` is what differs between a query and a form, before percent-decoding.
    fn read(&mut self, text: &'a str, unescape: impl Fn(&'a str) -> Cow<'a, str>) -> Result<(), Problem> {
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = self
                .place(name)
                .ok_or_else(|| Problem::invalid_request(format!("Unknown parameter \"{}\".", excerpt(name))))?;
            let value = decoded(unescape(value)).ok_or_else(|| {
                Problem::invalid_request(format!("The parameter \"{name}\" is not percent-encoded UTF-8."))
            })?;
            if place.replace(value).is_some() {
                return Err(Problem::invalid_request(format!(
                    "The parameter \"{name}\" is given more than once."
                )));
            }
        }
        Ok(())
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        Some(match name {
            "resource" => &mut self.resource,
            "client_id" => &mut self.client_id,
            "clientid" => &mut self.clientid,
            "object_id" => &mut self.object_id,
            "principal_id" => &mut self.principal_id,
            "msi_res_id" => &mut self.msi_res_id,
            "mi_res_id" => &mut self.mi_res_id,
            "api-version" => &mut self.api_version,
            "bypass_cache" => &mut self.bypass_cache,
            "token_sha256_to_refresh" => &mut self.token_sha256_to_refresh,
            "xms_cc" => &mut self.xms_cc,
            "authority" => &mut self.authority,
            _ => return None,
        })
    }

    fn identity(&self) -> Result<Identity, Problem> {
        type Make = fn(&str) -> Result<Identity, InvalidKey>;
        let selectors: [(&str, &Option<Cow<'_, str>>, Make); 6] = [
            ("client_id", &self.client_id, Identity::client_id),
            ("clientid", &self.clientid, Identity::client_id),
            ("object_id", &self.object_id, Identity::object_id),
            ("principal_id", &self.principal_id, Identity::object_id),
            ("msi_res_id", &self.msi_res_id, Identity::resource_id),
            ("mi_res_id", &self.mi_res_id, Identity::resource_id),
        ];
        let mut given = selectors
            .into_iter()
            .filter_map(|(name, value, make)| Some((name, value.as_deref()?, make)))
            // A program that was given no identity may send an empty one.
            .filter(|(_, value, _)| !value.is_empty());
        match (given.next(), given.next()) {
            (None, _) => Ok(Identity::Default),
            (Some((name, value, make)), None) => make(value).map_err(|why| unfit(name, why)),
            (Some((one, ..)), Some((two, ..))) => Err(Problem::invalid_request(format!(
                "Both \"{one}\" and \"{two}\" are given: name the identity once, or leave both out for the VM's default."
            ))),
        }
    }

    fn renewal(&self) -> Result<Renewal, Problem> {
        let replace = match self.token_sha256_to_refresh.as_deref() {
            None => Renewal::No,
            Some(hex) => Renewal::Replace(sha256(hex).ok_or_else(|| {
                Problem::invalid_request("\"token_sha256_to_refresh\" is 64 lower-case hexadecimal digits.")
            })?),
        };
        match self.bypass_cache.as_deref() {
            None => Ok(replace),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(Renewal::Bypass),
            Some(_) => Err(Problem::invalid_request(
                "\"bypass_cache\" can only be \"true\"; leave it out otherwise.",
            )),
        }
    }
}

/// The metadata service requires one from 2018-02-01 on. Clients of the other routes send different ones or none, and all
/// read the same answer.
fn check_api_version(protocol: Protocol, version: Option<&str>) -> Result<(), Problem> {
    match (protocol, version) {
        (Protocol::Imds, Some(version)) if is_date(version) && version >= "2018-02-01" => Ok(()),
        (Protocol::Imds, _) => Err(Problem::bad_api_version()),
        (Protocol::AppService | Protocol::VmExtension, _) => Ok(()),
    }
}

/// `YYYY-MM-DD`, with or without `-preview`; dates in this form compare as text.
fn is_date(version: &str) -> bool {
    let date = version.strip_suffix("-preview").unwrap_or(version);
    date.len() == 10
        && date.bytes().enumerate().all(|(i, b)| {
            if i == 4 || i == 7 {
                b == b'-'
            } else {
                b.is_ascii_digit()
            }
        })
}

/// `None` for a `%` without two hexadecimal digits, and for what is not UTF-8.
fn decoded(value: Cow<'_, str>) -> Option<Cow<'_, str>> {
    if !value.contains('%') {
        return Some(value);
    }
    let good = value.split('%').skip(1).all(|rest| {
        rest.get(..2)
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let text = percent_decode_str(&value).decode_utf8().ok()?;
    good.then(|| Cow::Owned(text.into_owned()))
}

fn sha256(hex: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| {
        matches!(b, b'0'..=b'9' | b'a'..=b'f')
            .then(|| (b as char).to_digit(16))
            .flatten()
    };
    let mut hash = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    }
    Some(hash)
}

fn unfit(name: &str, why: InvalidKey) -> Problem {
    Problem::invalid_request(format!("The parameter \"{name}\" {why}."))
}

/// Enough of a foreign name to recognise it.
fn excerpt(text: &str) -> String {
    text.chars()
        .take(40)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<TokenRequest, Problem> {
        TokenRequest::parse(Protocol::VmExtension, Some(text), None)
    }

    fn form(text: &str) -> Result<TokenRequest, Problem> {
        TokenRequest::parse(Protocol::VmExtension, None, Some(text))
    }

    fn resource(request: Result<TokenRequest, Problem>) -> String {
        request.unwrap().key.resource.to_string()
    }

    #[test]
    fn paths_match_as_sdks_write_them() {
        for path in [
            "/metadata/identity/oauth2/token",
            "//metadata/identity/oauth2/token/",
            "/METADATA//Identity/OAuth2/token",
        ] {
            assert_eq!(Route::at(path), Some(Route::Token(Protocol::Imds)), "{path}");
        }
        for path in [
            "/",
            "",
            "/metadata/identity/oauth2",
            "/metadata/identity/oauth2/token/x",
            "/%6cive",
            "/oauth2/token/..",
        ] {
            assert_eq!(Route::at(path), None, "{path}");
        }
        assert_eq!(Route::at("/MSI/token"), Some(Route::Token(Protocol::AppService)));
    }

    #[test]
    fn what_is_not_served_under_metadata_is_told_so_and_the_rest_does_not_exist() {
        for path in [
            "/metadata",
            "/metadata/",
            "//Metadata//",
            "/metadata/instance/compute",
            "/METADATA/identity/GetPlatformMetadata/",
            "/metadata/%69dentity/oauth2/token",
            "/metadata/../live",
        ] {
            let problem = Route::none_at(path);
            assert_eq!(
                (problem.status.as_u16(), &*problem.error),
                (403, "not_served"),
                "{path}"
            );
        }
        for path in [
            "",
            "/",
            "*",
            "/metadatas/x",
            "/%6detadata/x",
            "/x/metadata/y",
            "/live/metadata",
        ] {
            let problem = Route::none_at(path);
            assert_eq!((problem.status.as_u16(), &*problem.error), (404, "not_found"), "{path}");
        }
    }

    #[test]
    fn raw_and_encoded_resources_are_one_and_the_last_slash_counts() {
        let encoded = query("resource=https%3A%2F%2Fvault.azure.net%2f").unwrap();
        assert_eq!(encoded, query("resource=https://vault.azure.net/").unwrap());
        assert_ne!(encoded, query("resource=https://vault.azure.net").unwrap());
        assert_eq!(encoded, form("resource=https%3A%2F%2Fvault.azure.net%2F").unwrap());
    }

    #[test]
    fn a_plus_is_itself_in_a_query_and_a_space_in_a_form() {
        assert_eq!(resource(query("resource=a+b")), "a+b");
        assert_eq!(resource(form("resource=a%2Bb")), "a+b");
        assert!(form("resource=a+b").is_err(), "a space is no part of a resource");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "resource=",
            "resource",
            "resource=a&resource=a",
            "resource=a&RESOURCE=b",
            "resource=a&scope=b",
            "resource=a&%72esource=b",
            "resource=%",
            "resource=%4",
            "resource=%zz",
            "resource=a%0d%0aX",
            "resource=%ff",
            "resource=%00",
            "resource=a%20b",
            "resource=\u{440}",
            "resource=a&client_id=&client_id=",
            "resource=a&client_id=&client_id=b",
            "resource=a&client_id=b&object_id=c",
            "resource=a&client_id=b&object_id=c&msi_res_id=",
            "resource=a&client_id=%20",
            "resource=a&client_id=\u{e9}",
            "resource=a&msi_res_id=%C2%A0",
            "resource=a&msi_res_id=%E2%80%8B",
            "resource=a&object_id=b&principal_id=b",
            "resource=a&msi_res_id=b&mi_res_id=b",
            "resource=a&authority=",
            "resource=a&authority=x&authority=x",
            "resource=a&client_id=b&clientid=b",
            "resource=a&bypass_cache=1",
            "resource=a&bypass_cache=",
            "resource=a&token_sha256_to_refresh=00",
            "resource=a&xms_cc=",
            "\u{feff}resource=a",
        ] {
            let problem = query(text).unwrap_err();
            assert_eq!(problem.status.as_u16(), 400, "{text:?}");
        }
        assert!(TokenRequest::parse(Protocol::VmExtension, Some("resource=a"), Some("resource=a")).is_err());
    }

    #[test]
    fn selectors_go_by_all_their_names() {
        let identity = |text: &str| query(text).unwrap().key.identity;
        assert_eq!(identity("resource=a"), Identity::Default);
        assert_eq!(identity("resource=a&client_id=X"), Identity::client_id("x").unwrap());
        assert_eq!(identity("resource=a&clientid=X"), identity("resource=a&client_id=x"));
        assert_eq!(
            identity("resource=a&principal_id=X"),
            identity("resource=a&object_id=x")
        );
        assert_eq!(
            identity("resource=a&mi_res_id=%2FX"),
            identity("resource=a&msi_res_id=/x")
        );
    }

    #[test]
    fn an_empty_selector_counts_as_absent() {
        let identity = |text: &str| query(text).unwrap().key.identity;
        for text in [
            "resource=a&client_id=",
            "client_id&resource=a",
            "resource=a&msi_res_id=&object_id=",
            "resource=a&client_id=&clientid=&object_id=&principal_id=&msi_res_id=&mi_res_id=",
        ] {
            assert_eq!(identity(text), Identity::Default, "{text}");
            assert_eq!(form(text), query(text), "{text}");
        }
        assert_eq!(
            identity("resource=a&client_id=&object_id=x"),
            Identity::object_id("x").unwrap()
        );
        assert_eq!(
            identity("resource=a&mi_res_id=x&msi_res_id="),
            Identity::resource_id("x").unwrap()
        );
    }

    #[test]
    fn a_resource_id_may_be_in_any_script_raw_or_encoded() {
        let identity = |text: &str| query(text).unwrap().key.identity;
        let expected = Identity::resource_id("/rg/formaci\u{d3}n").unwrap();
        assert_eq!(identity("resource=a&msi_res_id=/RG/FORMACI%C3%93N"), expected);
        assert_eq!(identity("resource=a&mi_res_id=%2Frg%2Fformaci\u{d3}n"), expected);
        assert_ne!(
            identity("resource=a&mi_res_id=/rg/formaci%C3%B3n"),
            expected,
            "only ASCII has no case"
        );
    }

    #[test]
    fn renewals() {
        let renewal = |text: &str| query(text).unwrap().renewal;
        let hex = "00ff".repeat(16);
        assert_eq!(renewal("resource=a"), Renewal::No);
        assert_eq!(renewal("resource=a&bypass_cache=True"), Renewal::Bypass);
        let hash = std::array::from_fn(|i| if i % 2 == 0 { 0 } else { 255 });
        assert_eq!(
            renewal(&format!("resource=a&token_sha256_to_refresh={hex}")),
            Renewal::Replace(hash)
        );
        assert!(query(&format!("resource=a&token_sha256_to_refresh={}", hex.to_uppercase())).is_err());
        assert!(query(&format!("resource=a&token_sha256_to_refresh={hex}0")).is_err());
    }

    #[test]
    fn api_versions_as_each_endpoint_has_them() {
        let status = |protocol, version: &str| {
            TokenRequest::parse(protocol, Some(&format!("resource=a{version}")), None).is_ok()
        };
        for (version, good) in [
            ("", false),
            ("&api-version=2018-02-01", true),
            ("&api-version=2025-04-07", true),
            ("&api-version=2018-01-31", false),
            ("&api-version=2018-2-1", false),
            ("&api-version=latest", false),
        ] {
            assert_eq!(status(Protocol::Imds, version), good, "{version}");
        }
        assert!(status(Protocol::VmExtension, "&api-version=nonsense"));
        for version in ["", "&api-version=2017-09-01", "&api-version=2019-08-01"] {
            assert!(status(Protocol::AppService, version), "{version}");
        }
    }
}
