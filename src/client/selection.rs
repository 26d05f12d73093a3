//! The options that choose a token; several commands share them.

use clap::Args;

use super::error::{ClientError, Exit};
use crate::key::{Identity, InvalidKey, Key, Resource};

/// The options that choose a resource and an identity.
#[derive(Args)]
pub struct Selection {
    #[command(flatten)]
    audience: ResourceOptions,
    #[command(flatten)]
    selector: IdentityOptions,
}

/// The resource, in one of three forms.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct ResourceOptions {
    /// The resource, as with --resource.
    #[arg(value_name = "RESOURCE", value_parser = Resource::new)]
    named: Option<Resource>,
    /// The resource that the token is for, byte for byte, such as `https://storage.azure.com/`; the last slash counts.
    #[arg(long, value_parser = Resource::new)]
    resource: Option<Resource>,
    /// The resource as an SDK's scope, such as `https://storage.azure.com/.default`.
    #[arg(long, value_parser = of_scope)]
    scope: Option<Resource>,
}

/// The identity; without any of these, the VM's default identity.
#[derive(Args)]
#[group(multiple = false)]
#[expect(clippy::struct_field_names, reason = "the fields are named as the options are")]
pub struct IdentityOptions {
    /// The identity's client id (application id).
    #[arg(long, value_name = "ID", value_parser = Identity::client_id)]
    client_id: Option<Identity>,
    /// The identity's object id (principal id).
    #[arg(long, value_name = "ID", value_parser = Identity::object_id)]
    object_id: Option<Identity>,
    /// The identity's ARM resource id.
    #[arg(long, value_name = "ID", value_parser = Identity::resource_id)]
    resource_id: Option<Identity>,
}

impl Selection {
    /// The daemon's key for this token.
    pub fn key(&self) -> Result<Key, ClientError> {
        let ResourceOptions { named, resource, scope } = &self.audience;
        let resource = named.as_ref().or(resource.as_ref()).or(scope.as_ref());
        // clap requires one of the three, so this error never shows.
        let resource =
            resource.ok_or_else(|| ClientError::new(Exit::Usage, "no resource is named", "Add --resource."))?;
        Ok(Key::new(resource.clone(), self.selector.identity()))
    }
}

/// SDKs remove `/.default` from a scope and change nothing else (`docs/protocol.md`, "Requests", row "Resource").
fn of_scope(text: &str) -> Result<Resource, InvalidKey> {
    Resource::new(text.strip_suffix("/.default").unwrap_or(text))
}

impl IdentityOptions {
    /// The identity that was named, or the VM's default.
    pub fn identity(&self) -> Identity {
        let Self {
            client_id,
            object_id,
            resource_id,
        } = self;
        let named = client_id.as_ref().or(object_id.as_ref()).or(resource_id.as_ref());
        named.cloned().unwrap_or(Identity::Default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_scope_only_its_ending_goes() {
        for (scope, resource) in [
            ("https://storage.azure.com/.default", "https://storage.azure.com"),
            (
                "https://management.azure.com//.default",
                "https://management.azure.com/",
            ),
            ("api://a/user_impersonation", "api://a/user_impersonation"),
            ("https://a/.default/", "https://a/.default/"),
        ] {
            assert_eq!(of_scope(scope).unwrap().as_str(), resource);
        }
        assert!(of_scope("a/.default b/.default").is_err() && of_scope("/.default").is_err());
    }
}
