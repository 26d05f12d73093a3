//! This machine's units and accounts, for callers over TCP, of whom the kernel tells only the uid and the cgroup.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::accounts::Accounts;
use super::loopback;
use super::units::Units;
use crate::clock::Clock;

/// Finds units and group members.
pub struct Machine {
    pub(super) units: Units,
    pub(super) accounts: Accounts,
}

impl Machine {
    /// Has no group's members before [`Machine::follow`].
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            units: Units::new(clock),
            accounts: Accounts::default(),
        })
    }

    /// Takes over which groups and units rules name, for callers over TCP; these rules shall be in force right after it
    /// returns. From then on it is also known whose subordinate uids are.
    pub async fn follow(&self, groups: HashSet<u32>, units: HashSet<Box<str>>) {
        self.accounts.look_for(groups).await;
        self.units.look_for(units);
    }

    /// Whom a uid counts as where users share something: one that `/etc/subuid` gives to a user is his. Known once rules are
    /// followed.
    pub fn owner_of(&self, uid: u32) -> u32 {
        self.accounts.owner_of(uid)
    }

    /// The name of the uid's account, if `/etc/passwd` has it.
    pub fn name_of(&self, uid: u32) -> Option<Arc<str>> {
        self.accounts.name_of(uid)
    }

    /// Why no caller's unit can be known over TCP, if so.
    pub fn units_unknown_because(&self) -> Option<&'static str> {
        if !self.units.can_be_found() {
            return Some("there is no unified cgroup hierarchy");
        }
        let ours = loopback::try_out().ok()?;
        ours.cgroup
            .is_none()
            .then_some("this kernel does not tell the cgroup of a connection, which came with Linux 5.8")
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}
