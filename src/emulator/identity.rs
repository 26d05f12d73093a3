//! The managed identities of the stand-in's VM, and how a request names one of them.

use serde::Deserialize;
use std::fmt;

/// The client id of the identity that the stand-in has when no others are given.
pub const DEFAULT_CLIENT_ID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";
/// The object (principal) id of that identity.
pub const DEFAULT_OBJECT_ID: &str = "a2b0c5d1-6f3e-4c1b-9a77-2f1d0e8c4b35";
/// The resource id of that identity.
pub const DEFAULT_RESOURCE_ID: &str = "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourcegroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo-identity";

/// One managed identity. All ids compare without case, as in Azure.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagedIdentity {
    /// The `appId` of applications and RBAC.
    pub client_id: String,
    /// The service principal's id in the tenant, also called principal id.
    pub object_id: String,
    /// The ARM id: of the user-assigned identity, or of the VM for the system-assigned one.
    pub resource_id: String,
    /// Whether this is the VM's own identity rather than a user-assigned one.
    #[serde(default)]
    pub system_assigned: bool,
}

/// The identities assigned to the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySet(Vec<ManagedIdentity>);

/// How a token request names its identity; at most one selector may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdentitySelector {
    /// None given: the VM's default identity.
    Default,
    /// `client_id=`
    ClientId(String),
    /// `object_id=`
    ObjectId(String),
    /// `msi_res_id=`
    ResourceId(String),
}

/// Why no identity could be chosen; the texts are those of the real endpoint (`docs/protocol.md`, "Errors", row
/// "Identity").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoIdentity {
    /// No identity has that id, or there is none at all.
    #[error("Identity not found")]
    NotFound,
    /// There are several user-assigned identities and no system-assigned one, and the request names none.
    #[error(
        "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
    )]
    Several,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    #[serde(default)]
    identity: Vec<ManagedIdentity>,
}

impl IdentitySet {
    /// Reads a list of `[[identity]]` tables; an empty text is a VM without identities.
    ///
    /// # Errors
    /// Bad TOML, an empty or repeated id, or more than one system-assigned identity.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let identities = toml::from_str::<IdentityFile>(text)
            .map_err(|error| error.to_string())?
            .identity;
        for (n, identity) in identities.iter().enumerate() {
            for (name, id) in [
                ("client_id", &identity.client_id),
                ("object_id", &identity.object_id),
                ("resource_id", &identity.resource_id),
            ] {
                if id.is_empty() {
                    return Err(format!("identity {}: {name} is empty", n + 1));
                }
            }
            if identities
                .iter()
                .take(n)
                .any(|other| other.client_id.eq_ignore_ascii_case(&identity.client_id))
            {
                return Err(format!(
                    "identity {}: client_id {} is given twice",
                    n + 1,
                    identity.client_id
                ));
            }
        }
        if identities.iter().filter(|identity| identity.system_assigned).count() > 1 {
            return Err("a VM has at most one system_assigned identity".to_owned());
        }
        Ok(Self(identities))
    }

    /// The identity for a request. Without a selector: the system-assigned one, else the only user-assigned one.
    ///
    /// # Errors
    /// See [`NoIdentity`].
    pub(super) fn choose(&self, selector: &IdentitySelector) -> Result<&ManagedIdentity, NoIdentity> {
        let find = |id: &str, of: fn(&ManagedIdentity) -> &String| {
            self.0
                .iter()
                .find(|identity| of(identity).eq_ignore_ascii_case(id))
                .ok_or(NoIdentity::NotFound)
        };
        match selector {
            IdentitySelector::ClientId(id) => find(id, |identity| &identity.client_id),
            IdentitySelector::ObjectId(id) => find(id, |identity| &identity.object_id),
            IdentitySelector::ResourceId(id) => find(id, |identity| &identity.resource_id),
            IdentitySelector::Default => match (
                self.0.iter().find(|identity| identity.system_assigned),
                self.0.as_slice(),
            ) {
                (Some(identity), _) | (None, [identity]) => Ok(identity),
                (None, []) => Err(NoIdentity::NotFound),
                (None, _) => Err(NoIdentity::Several),
            },
        }
    }
}

/// One user-assigned identity, the constants above.
impl Default for IdentitySet {
    fn default() -> Self {
        Self(vec![ManagedIdentity {
            client_id: DEFAULT_CLIENT_ID.to_owned(),
            object_id: DEFAULT_OBJECT_ID.to_owned(),
            resource_id: DEFAULT_RESOURCE_ID.to_owned(),
            system_assigned: false,
        }])
    }
}

impl IdentitySelector {
    /// Whether `name` is this selector: the whole label (`client_id:…`, `default`) or its id alone, without case.
    pub fn is_named(&self, name: &str) -> bool {
        let label = self.to_string();
        let id = label.split_once(':').map_or(label.as_str(), |(_, id)| id);
        name.eq_ignore_ascii_case(&label) || name.eq_ignore_ascii_case(id)
    }
}

/// `default`, or kind and lower-cased id: `client_id:…`, `object_id:…`, `resource_id:…`.
impl fmt::Display for IdentitySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::ClientId(id) => write!(f, "client_id:{}", id.to_ascii_lowercase()),
            Self::ObjectId(id) => write!(f, "object_id:{}", id.to_ascii_lowercase()),
            Self::ResourceId(id) => write!(f, "resource_id:{}", id.to_ascii_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        [[identity]]
        client_id = "AAAA"
        object_id = "oa"
        resource_id = "/subscriptions/s/a"
        [[identity]]
        client_id = "bbbb"
        object_id = "ob"
        resource_id = "/subscriptions/s/b"
    "#;

    #[test]
    fn a_single_user_assigned_identity_is_the_default() {
        assert_eq!(
            IdentitySet::default()
                .choose(&IdentitySelector::Default)
                .unwrap()
                .client_id,
            DEFAULT_CLIENT_ID
        );
    }

    #[test]
    fn several_without_a_system_assigned_one_have_no_default() {
        let two = IdentitySet::from_toml(TWO).unwrap();
        assert_eq!(two.choose(&IdentitySelector::Default), Err(NoIdentity::Several));
        let with_vm = IdentitySet::from_toml(&format!(
            "{TWO}\n[[identity]]\nclient_id='c'\nobject_id='oc'\nresource_id='/vm'\nsystem_assigned=true"
        ));
        assert_eq!(
            with_vm.unwrap().choose(&IdentitySelector::Default).unwrap().client_id,
            "c"
        );
        assert_eq!(
            IdentitySet::from_toml("").unwrap().choose(&IdentitySelector::Default),
            Err(NoIdentity::NotFound)
        );
    }

    #[test]
    fn every_selector_finds_its_own_kind_of_id_without_case() {
        let two = IdentitySet::from_toml(TWO).unwrap();
        for selector in [
            IdentitySelector::ClientId("aaaa".into()),
            IdentitySelector::ObjectId("OA".into()),
            IdentitySelector::ResourceId("/SUBSCRIPTIONS/s/A".into()),
        ] {
            assert_eq!(two.choose(&selector).unwrap().client_id, "AAAA", "{selector}");
        }
        assert_eq!(
            two.choose(&IdentitySelector::ObjectId("aaaa".into())),
            Err(NoIdentity::NotFound)
        );
    }

    #[test]
    fn a_bad_list_is_refused_with_the_reason() {
        for (text, reason) in [
            ("[[identity]]\nclient_id='x'", "missing field"),
            (
                &format!("{TWO}\n[[identity]]\nclient_id='BBBB'\nobject_id='o'\nresource_id='r'"),
                "given twice",
            ),
            (
                "[[identity]]\nclient_id=''\nobject_id='o'\nresource_id='r'",
                "client_id is empty",
            ),
            ("[[identities]]\nclient_id='x'", "unknown field"),
        ] {
            let error = IdentitySet::from_toml(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_selector_is_named_by_label_or_by_id() {
        let selector = IdentitySelector::ClientId("AbCd".into());
        assert_eq!(selector.to_string(), "client_id:abcd");
        assert!(selector.is_named("abcd") && selector.is_named("client_id:ABCD"));
        assert!(!selector.is_named("object_id:abcd") && !selector.is_named("default"));
        assert!(IdentitySelector::Default.is_named("default"));
    }
}
