//! Issues tokens, and caches them as the real endpoint does.
//!
//! The rule: a (resource, identity, `xms_cc`) is answered with the same token until a third of its life is over or a
//! request says `bypass_cache=true`; then a new one is made. (The real endpoint keeps a token for about its whole life.
//! With a third, a client that renews at half of the life gets a new token also when lives are short.)

use super::identity::ManagedIdentity;
use super::jwt::{self, Canary};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// The tenant of all the stand-in's identities.
pub const TENANT_ID: &str = "9f1a7f0c-4a3e-4d52-8d5e-6c0b4a2e7d18";
/// `iat` and `nbf` are this far in the past, as with Entra, to allow for clocks that differ.
const CLOCK_SKEW: i64 = 300;

/// A token and what the endpoint's reply says about it. Times are Unix seconds.
#[derive(Debug, Clone)]
pub(super) struct IssuedToken {
    pub access_token: String,
    pub resource: String,
    pub client_id: String,
    pub not_before: i64,
    pub expires_on: i64,
    /// Seconds, counted from issuance (`docs/protocol.md`, "Answers", row "`expires_in`").
    pub expires_in: i64,
    stale_at: i64,
}

/// Which token a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The cached one or a new one, by the module's rule.
    Usual,
    /// A new one, whatever is cached.
    New,
    /// The one issued last, as long as it has not expired.
    Earlier,
}

/// Issues tokens and remembers the last one of each key.
#[derive(Debug)]
pub(super) struct Issuer {
    lifetime: Duration,
    canary: Option<Canary>,
    issued: HashMap<IssueKey, IssuedToken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct IssueKey {
    resource: String,
    client_id: String,
    xms_cc: Option<String>,
}

impl Issuer {
    pub fn new(lifetime: Duration, canary: Option<Canary>) -> Self {
        Self {
            lifetime,
            canary,
            issued: HashMap::new(),
        }
    }

    /// The token for a request; `lifetime` replaces the usual one if a new token is made.
    pub fn grant(
        &mut self,
        now: i64,
        (resource, identity, xms_cc): (&str, &ManagedIdentity, Option<&str>),
        wanted: Wanted,
        lifetime: Option<Duration>,
    ) -> IssuedToken {
        let key = IssueKey {
            resource: resource.to_owned(),
            client_id: identity.client_id.to_ascii_lowercase(),
            xms_cc: xms_cc.map(str::to_owned),
        };
        let kept = self.issued.get(&key).filter(|grant| match wanted {
            Wanted::Usual => now < grant.stale_at,
            Wanted::Earlier => now < grant.expires_on,
            Wanted::New => false,
        });
        if let Some(grant) = kept {
            return grant.clone();
        }
        let grant = issue(
            now,
            (resource, identity, xms_cc),
            None,
            lifetime.unwrap_or(self.lifetime),
            self.canary.as_ref(),
        );
        self.issued.insert(key, grant.clone());
        grant
    }

    /// A token that no later request will see, with some claims changed.
    pub fn one_off(
        &self,
        now: i64,
        resource: &str,
        identity: &ManagedIdentity,
        claims: Option<&Map<String, Value>>,
        lifetime: Option<Duration>,
    ) -> IssuedToken {
        issue(
            now,
            (resource, identity, None),
            claims,
            lifetime.unwrap_or(self.lifetime),
            self.canary.as_ref(),
        )
    }
}

fn issue(
    now: i64,
    (resource, identity, xms_cc): (&str, &ManagedIdentity, Option<&str>),
    changed: Option<&Map<String, Value>>,
    lifetime: Duration,
    canary: Option<&Canary>,
) -> IssuedToken {
    let life = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let (not_before, expires_on) = (now - CLOCK_SKEW, now.saturating_add(life));
    let mut claims = claims_of(resource, identity, xms_cc, not_before, expires_on);
    claims.extend(changed.cloned().unwrap_or_default());
    IssuedToken {
        access_token: jwt::build(&claims, canary),
        resource: resource.to_owned(),
        client_id: identity.client_id.clone(),
        not_before,
        expires_on,
        expires_in: life,
        stale_at: now.saturating_add(life / 3),
    }
}

/// The claims of a version 1.0 app-only token, as Entra issues it for a managed identity.
fn claims_of(
    resource: &str,
    identity: &ManagedIdentity,
    xms_cc: Option<&str>,
    nbf: i64,
    exp: i64,
) -> Map<String, Value> {
    let issuer = format!("https://sts.windows.net/{TENANT_ID}/");
    let mut claims = json!({
        "aud": resource,
        "iss": issuer,
        "iat": nbf,
        "nbf": nbf,
        "exp": exp,
        "aio": jwt::random_base64url(72),
        "appid": identity.client_id,
        "appidacr": "2",
        "idp": issuer,
        "idtyp": "app",
        "oid": identity.object_id,
        "rh": format!("1.{}.", jwt::random_base64url(40)),
        "sub": identity.object_id,
        "tid": TENANT_ID,
        "uti": jwt::random_base64url(16),
        "ver": "1.0",
        "xms_ftd": jwt::random_base64url(48),
        "xms_idrel": "7 20",
        "xms_mirid": identity.resource_id,
        "xms_rd": jwt::random_base64url(64),
        "xms_tcdt": "1531872143",
    });
    if let (Some(capabilities), Some(claims)) = (xms_cc, claims.as_object_mut()) {
        claims.insert("xms_cc".to_owned(), capabilities.split(',').collect());
    }
    match claims {
        Value::Object(claims) => claims,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::{IdentitySelector, IdentitySet};
    use super::*;

    const NOW: i64 = 1_750_000_000;
    const STORAGE: &str = "https://storage.azure.com/";

    fn ask(issuer: &mut Issuer, now: i64, wanted: Wanted) -> IssuedToken {
        let identity = IdentitySet::default()
            .choose(&IdentitySelector::Default)
            .unwrap()
            .clone();
        issuer.grant(now, (STORAGE, &identity, None), wanted, None)
    }

    #[test]
    fn a_token_looks_like_a_real_one() {
        let mut issuer = Issuer::new(Duration::from_hours(24), None);
        let grant = ask(&mut issuer, NOW, Wanted::Usual);
        assert!(
            (1700..2000).contains(&grant.access_token.len()),
            "{}",
            grant.access_token.len()
        );
        assert_eq!(
            (grant.expires_on, grant.expires_in, grant.not_before),
            (NOW + 86_400, 86_400, NOW - 300)
        );
        let claims = jwt::claims(&grant.access_token).unwrap();
        assert_eq!(claims["aud"], STORAGE);
        assert_eq!(claims["iss"], format!("https://sts.windows.net/{TENANT_ID}/"));
        assert_eq!(claims["appid"], grant.client_id);
        assert_eq!(claims["exp"], grant.expires_on);
        assert!(!claims.contains_key("xms_cc"));
    }

    #[test]
    fn the_same_token_until_a_third_of_its_life_is_over_or_the_request_bypasses() {
        let mut issuer = Issuer::new(Duration::from_secs(20), None);
        let first = ask(&mut issuer, NOW, Wanted::Usual);
        assert_eq!(
            ask(&mut issuer, NOW + 5, Wanted::Usual).access_token,
            first.access_token
        );
        let second = ask(&mut issuer, NOW + 6, Wanted::Usual);
        assert_ne!(second.access_token, first.access_token);
        let third = ask(&mut issuer, NOW + 6, Wanted::New);
        assert_ne!(third.access_token, second.access_token);
        assert_eq!(
            ask(&mut issuer, NOW + 7, Wanted::Usual).access_token,
            third.access_token
        );
        assert_eq!(
            ask(&mut issuer, NOW + 25, Wanted::Earlier).access_token,
            third.access_token
        );
        assert_ne!(
            ask(&mut issuer, NOW + 26, Wanted::Earlier).access_token,
            third.access_token
        );
    }

    #[test]
    fn capabilities_are_a_claim_and_part_of_the_key() {
        let identity = IdentitySet::default()
            .choose(&IdentitySelector::Default)
            .unwrap()
            .clone();
        let mut issuer = Issuer::new(Duration::from_hours(1), None);
        let plain = ask(&mut issuer, NOW, Wanted::Usual);
        let able = issuer.grant(NOW, (STORAGE, &identity, Some("cp1,cp2")), Wanted::Usual, None);
        assert_ne!(plain.access_token, able.access_token);
        assert_eq!(
            jwt::claims(&able.access_token).unwrap()["xms_cc"],
            json!(["cp1", "cp2"])
        );
    }

    #[test]
    fn every_token_has_its_own_uti_and_a_one_off_is_not_kept() {
        let identity = IdentitySet::default()
            .choose(&IdentitySelector::Default)
            .unwrap()
            .clone();
        let mut issuer = Issuer::new(Duration::from_hours(1), None);
        let first = ask(&mut issuer, NOW, Wanted::Usual);
        let stray = issuer.one_off(NOW, STORAGE, &identity, None, None);
        let uti = |grant: &IssuedToken| jwt::claims(&grant.access_token).unwrap()["uti"].clone();
        assert_ne!(uti(&stray), uti(&first));
        assert_eq!(ask(&mut issuer, NOW, Wanted::Usual).access_token, first.access_token);
    }
}
