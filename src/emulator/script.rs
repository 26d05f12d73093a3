//! The fault script: which token requests fail, and how.
//!
//! A script is TOML, a list of `[[fault]]` steps:
//!
//! ```toml
//! # The endpoint restarts: a reset, two 404s (only for storage), then a slow answer.
//! [[fault]]
//! reset = true
//!
//! [[fault]]
//! match = { resource = "storage.azure.com", identity = "default" }
//! status = 404
//! times = 2
//!
//! [[fault]]
//! delay = "2s"
//!
//! # From the tenth request on, for ever, the token of another resource.
//! [[fault]]
//! after = 9
//! times = 0
//! wrong_resource = "https://vault.azure.net"
//! ```
//!
//! **Which step applies.** Only well-formed token requests take part (those the endpoint would not refuse for a missing
//! header or a bad parameter). Each walks down the list and gets the first step that matches it and is not used up; if
//! there is none it is served normally.
//!
//! | key | meaning |
//! |---|---|
//! | `match.resource` | the resource contains this text |
//! | `match.identity` | the request's selector: `default`, `client_id:…`, `object_id:…`, `resource_id:…`, or the id alone; without case |
//! | `after = N` | lets the first N matching requests that come to this step pass on to the steps below |
//! | `times = N` | applies N times; 1 when left out, 0 for every request |
//!
//! **What a step does.** The effects of one step can be combined: first `delay`, then one kind of answer, then the changes
//! of that answer.
//!
//! | key | effect |
//! |---|---|
//! | `delay = "2s"` | waits before anything else; the token is made after the wait |
//! | `reset = true` | closes with a TCP reset, no answer |
//! | `redirect = "http://…"` | 302 (or `status`) with this `Location` |
//! | `status = 429` | this status, with the error body the real endpoint has for it; 2xx keeps the token reply |
//! | `body = "text"`, `no_body = true` | this body, or none; the status is 200 unless given |
//! | `lifetime = "90s"` | a new token with this life |
//! | `same_token = true` | the token issued last, although a third of its life is over or the request bypasses the cache |
//! | `wrong_resource`, `wrong_client_id` | a token of this other resource or identity, echoed truthfully, not kept |
//! | `claims = { oid = "…" }` | a token with these claims in place of its own, while the reply names the right identity; not kept |
//! | `token_type = "pop"`, `raw_expires_on = 1.5`, `numbers = true`, `empty_token = true` | the token reply with this type, with any value as `expires_on`, with numbers for all numeric strings, with `""` as token |
//! | `retry_after = "7"` | this `Retry-After`, verbatim |
//! | `server = "nginx"` | this `Server` header; `""` for none |
//! | `realm = "…"` | the path in the Arc agent's challenge, in place of the one that has the key |
//! | `half_body = true` | sends half of the body that `Content-Length` announces, then closes |
//! | `stall_body = true` | sends half of the body, then nothing, and keeps the connection open |
//! | `huge_body = 1000000` | the body is followed by white space until it has so many bytes |

use super::identity::IdentitySelector;
use crate::config;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// One step, as written; the module's documentation describes each key.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an effect of its own, and any may be combined"
)]
pub(super) struct ScriptedFault {
    #[serde(rename = "match")]
    pub matching: Matching,
    pub times: Option<u64>,
    pub after: u64,
    #[serde(deserialize_with = "duration")]
    pub delay: Option<Duration>,
    pub reset: bool,
    pub redirect: Option<String>,
    pub status: Option<u16>,
    pub body: Option<String>,
    pub no_body: bool,
    #[serde(deserialize_with = "duration")]
    pub lifetime: Option<Duration>,
    pub same_token: bool,
    pub wrong_resource: Option<String>,
    pub wrong_client_id: Option<String>,
    pub claims: Option<Map<String, Value>>,
    pub token_type: Option<String>,
    pub raw_expires_on: Option<Value>,
    pub numbers: bool,
    pub empty_token: bool,
    pub retry_after: Option<String>,
    pub server: Option<String>,
    pub realm: Option<String>,
    pub half_body: bool,
    pub stall_body: bool,
    pub huge_body: Option<u64>,
}

/// Which requests a step is for; by default all.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Matching {
    pub resource: Option<String>,
    pub identity: Option<String>,
}

/// A script, and how often each step has been used.
#[derive(Debug, Clone, Default)]
pub struct Script(Vec<Step>);

#[derive(Debug, Clone)]
struct Step {
    fault: Arc<ScriptedFault>,
    passed: u64,
    applied: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptFile {
    #[serde(default)]
    fault: Vec<ScriptedFault>,
}

impl Script {
    /// Reads a script; an empty text is one without faults.
    ///
    /// # Errors
    /// The reason, with line and column where the TOML itself is at fault.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let faults = toml::from_str::<ScriptFile>(text)
            .map_err(|error| error.to_string())?
            .fault;
        for (n, fault) in faults.iter().enumerate() {
            fault.check().map_err(|reason| format!("fault {}: {reason}", n + 1))?;
        }
        let step = |fault| Step {
            fault: Arc::new(fault),
            passed: 0,
            applied: 0,
        };
        Ok(Self(faults.into_iter().map(step).collect()))
    }

    /// The fault for the next request, if the script has one for it.
    pub(super) fn next(&mut self, resource: &str, selector: &IdentitySelector) -> Option<Arc<ScriptedFault>> {
        self.0.iter_mut().find_map(|step| step.take(resource, selector))
    }
}

impl Step {
    fn take(&mut self, resource: &str, selector: &IdentitySelector) -> Option<Arc<ScriptedFault>> {
        let times = self.fault.times.unwrap_or(1);
        if !self.fault.matching.covers(resource, selector) || (times > 0 && self.applied >= times) {
            return None;
        }
        if self.passed < self.fault.after {
            self.passed += 1;
            return None;
        }
        self.applied += 1;
        Some(Arc::clone(&self.fault))
    }
}

impl Matching {
    fn covers(&self, resource: &str, selector: &IdentitySelector) -> bool {
        self.resource
            .as_ref()
            .is_none_or(|part| resource.contains(part.as_str()))
            && self.identity.as_ref().is_none_or(|name| selector.is_named(name))
    }
}

impl ScriptedFault {
    fn check(&self) -> Result<(), String> {
        let effects = Self {
            matching: Matching::default(),
            times: None,
            after: 0,
            ..self.clone()
        };
        if effects == Self::default() {
            return Err("has no effect".to_owned());
        }
        if let Some(status) = self.status
            && !(200..=599).contains(&status)
        {
            return Err(format!("status {status} is not between 200 and 599"));
        }
        for (key, text) in [
            ("redirect", &self.redirect),
            ("retry_after", &self.retry_after),
            ("server", &self.server),
        ] {
            if text
                .as_ref()
                .is_some_and(|text| hyper::header::HeaderValue::from_str(text).is_err())
            {
                return Err(format!("{key} cannot stand in a header"));
            }
        }
        Ok(())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    config::duration(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: &str = "https://storage.azure.com/";
    const VAULT: &str = "https://vault.azure.net";

    fn statuses(script: &mut Script, resource: &str, requests: usize) -> Vec<u16> {
        let mut next = || {
            script
                .next(resource, &IdentitySelector::Default)
                .and_then(|fault| fault.status)
                .unwrap_or(200)
        };
        (0..requests).map(|_| next()).collect()
    }

    #[test]
    fn steps_apply_in_order_once_unless_told_otherwise_then_service_resumes() {
        let mut script =
            Script::from_toml("[[fault]]\nstatus=404\n[[fault]]\nstatus=410\ntimes=2\n[[fault]]\nstatus=500").unwrap();
        assert_eq!(statuses(&mut script, STORAGE, 6), [404, 410, 410, 500, 200, 200]);
    }

    #[test]
    fn zero_times_is_for_ever_and_after_lets_requests_pass_to_the_steps_below() {
        let mut script = Script::from_toml("[[fault]]\nstatus=429\nafter=2\ntimes=0\n[[fault]]\nstatus=404").unwrap();
        assert_eq!(statuses(&mut script, STORAGE, 6), [404, 200, 429, 429, 429, 429]);
    }

    #[test]
    fn a_match_narrows_a_step_to_its_resource_and_identity() {
        let mut script = Script::from_toml(
            "[[fault]]\nmatch={resource='storage'}\nstatus=404\n[[fault]]\nmatch={identity='ABC'}\nstatus=410",
        )
        .unwrap();
        assert_eq!(statuses(&mut script, VAULT, 2), [200, 200]);
        let other = script.next(VAULT, &IdentitySelector::ClientId("abc".into())).unwrap();
        assert_eq!(other.status, Some(410));
        assert_eq!(statuses(&mut script, STORAGE, 2), [404, 200]);
    }

    #[test]
    fn every_key_of_the_documentation_is_understood() {
        let script = Script::from_toml(
            r#"
            [[fault]]
            match = { resource = "a", identity = "default" }
            after = 1
            times = 2
            delay = "1s 500ms"
            status = 503
            body = "x"
            retry_after = "7"
            server = ""
            half_body = true
            [[fault]]
            reset = true
            [[fault]]
            redirect = "http://127.0.0.1:1/"
            [[fault]]
            no_body = true
            [[fault]]
            lifetime = "90s"
            same_token = true
            wrong_resource = "https://vault.azure.net"
            wrong_client_id = "x"
            claims = { oid = "x", idtyp = 7 }
            token_type = "pop"
            raw_expires_on = 1.5
            numbers = true
            empty_token = true
            stall_body = true
            huge_body = 100000
            "#,
        )
        .unwrap();
        assert_eq!(script.0.len(), 5);
        assert_eq!(script.0[0].fault.delay, Some(Duration::from_millis(1500)));
        assert_eq!(script.0[4].fault.raw_expires_on, Some(serde_json::json!(1.5)));
    }

    #[test]
    fn the_example_in_the_documentation_is_a_script() {
        let source = include_str!("script.rs");
        let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
        let example: Vec<&str> = lines
            .skip_while(|line| *line != " ```toml")
            .skip(1)
            .take_while(|line| *line != " ```")
            .collect();
        let script = Script::from_toml(&example.join("\n")).unwrap();
        assert_eq!(script.0.len(), 4);
    }

    #[test]
    fn a_bad_script_is_refused_with_the_reason() {
        for (text, reason) in [
            ("[[fault]]\nstatus = 99", "fault 1: status 99 is not"),
            (
                "[[fault]]\nreset = true\n[[fault]]\ntimes = 3",
                "fault 2: has no effect",
            ),
            ("[[fault]]\nstatuz = 404", "unknown field `statuz`"),
            ("[[fault]]\ndelay = 'soon'", "expected number"),
            ("[[fault]]\nserver = \"a\\nb\"", "server cannot stand in a header"),
            ("fault = 7", "invalid type"),
        ] {
            let error = Script::from_toml(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
