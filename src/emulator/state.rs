//! What every connection to the stand-in shares.

use super::arc;
use super::identity::IdentitySet;
use super::issue::Issuer;
use super::script::Script;
use super::storage_account::StorageAccount;
use super::traffic::Traffic;
use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct EmulatorState {
    pub storage_accounts: Vec<StorageAccount>,
    pub inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub identities: IdentitySet,
    pub script: Script,
    pub issuer: Issuer,
    pub traffic: Traffic,
    pub challenges: arc::Challenges,
}
