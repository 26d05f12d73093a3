//! Reads a token request; the same for every kind of endpoint.

use super::identity::IdentitySelector;
use hyper::HeaderMap;
use percent_encoding::percent_decode_str;

/// The decoded `name=value` pairs of a query or a form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

/// A valid token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AskedToken {
    pub resource: String,
    pub selector: IdentitySelector,
    pub bypass_cache: bool,
    pub xms_cc: Option<String>,
}

impl Query {
    /// Reads a query, in which `+` is a plus sign.
    pub fn from_query(text: &str) -> Result<Self, String> {
        pairs(text).collect::<Result<_, _>>().map(Self)
    }

    /// Reads an `application/x-www-form-urlencoded` body, in which `+` is a space.
    pub fn from_form(text: &str) -> Result<Self, String> {
        Self::from_query(&text.replace('+', "%20"))
    }

    /// The value of `name`, the first if there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A name that occurs more than once.
    pub fn duplicate(&self) -> Option<&str> {
        let mut seen = self.0.iter().enumerate();
        seen.find(|(n, (name, _))| self.0.iter().take(*n).any(|(other, _)| other == name))
            .map(|(_, (name, _))| &**name)
    }

    /// The identity that is asked for.
    ///
    /// # Errors
    /// More than one selector.
    pub fn selector(&self) -> Result<IdentitySelector, String> {
        let given = [
            self.get("client_id")
                .map(|id| IdentitySelector::ClientId(id.to_owned())),
            self.get("object_id")
                .map(|id| IdentitySelector::ObjectId(id.to_owned())),
            self.get("msi_res_id")
                .map(|id| IdentitySelector::ResourceId(id.to_owned())),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (None, _) => Ok(IdentitySelector::Default),
            (Some(selector), None) => Ok(selector),
            (Some(_), Some(_)) => Err("client_id, object_id and msi_res_id are mutually exclusive".to_owned()),
        }
    }

    /// Reads the parts that every kind of endpoint has. `bypass_cache` is read by the kinds that have it.
    ///
    /// # Errors
    /// What is wrong, for an `error_description`.
    pub fn token_request(&self) -> Result<AskedToken, String> {
        if let Some(name) = self.duplicate() {
            return Err(format!("Duplicate query parameter '{name}'"));
        }
        match self.get("resource") {
            None | Some("") => Err("Required query variable 'resource' is missing".to_owned()),
            Some(resource) => Ok(AskedToken {
                resource: resource.to_owned(),
                selector: self.selector()?,
                bypass_cache: false,
                xms_cc: self.get("xms_cc").map(str::to_owned),
            }),
        }
    }
}

fn pairs(text: &str) -> impl Iterator<Item = Result<(String, String), String>> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    })
}

fn decode(text: &str) -> Result<String, String> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if text.split('%').skip(1).any(|rest| !is_escape(rest)) {
        return Err(format!("'{text}' has a % without two hexadecimal digits"));
    }
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| format!("'{text}' is not UTF-8"))?;
    Ok(decoded.into_owned())
}

/// A header of the request as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_comes_raw_or_encoded() {
        for query in [
            "resource=https://a.example/x+y",
            "resource=https%3A%2F%2Fa.example%2fx%2By",
        ] {
            let request = Query::from_query(query).unwrap().token_request().unwrap();
            assert_eq!(request.resource, "https://a.example/x+y");
        }
        assert_eq!(Query::from_form("a=x+y%2B").unwrap().get("a"), Some("x y+"));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for query in ["resource=%4", "resource=%zz", "resource=%ff"] {
            assert!(Query::from_query(query).is_err(), "{query}");
        }
        for (query, reason) in [
            ("resource=a&resource=a", "Duplicate"),
            ("resource=a&client_id=b&msi_res_id=c", "mutually exclusive"),
            ("client_id=b", "missing"),
            ("resource=", "missing"),
        ] {
            let error = Query::from_query(query).unwrap().token_request().unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }

    #[test]
    fn each_selector_is_understood() {
        let selector = |query| Query::from_query(query).unwrap().selector().unwrap();
        assert_eq!(selector("resource=r"), IdentitySelector::Default);
        assert_eq!(selector("client_id=X"), IdentitySelector::ClientId("X".into()));
        assert_eq!(selector("object_id=X"), IdentitySelector::ObjectId("X".into()));
        assert_eq!(selector("msi_res_id=%2Fs"), IdentitySelector::ResourceId("/s".into()));
    }
}
