//! Which token is meant: the options that several commands share.

use clap::Args;

use crate::key::{Identity, Key, Resource};

/// Which token.
#[derive(Args)]
pub struct Selection {
    /// Whom the token is for, byte for byte, such as `https://storage.azure.com/`; the last slash counts.
    #[arg(long, value_parser = Resource::new)]
    resource: Resource,
    #[command(flatten)]
    selector: Selector,
}

/// Whose token; without any of these the VM's default identity's.
#[derive(Args)]
#[group(multiple = false)]
#[expect(clippy::struct_field_names, reason = "the fields are named as the options are")]
pub struct Selector {
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
    /// What the daemon finds the token under.
    pub fn key(&self) -> Key {
        Key::new(self.resource.clone(), self.selector.identity())
    }
}

impl Selector {
    /// The one that was named, or the VM's default.
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
