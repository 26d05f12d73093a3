//! What is known of the lock's callers, for the administrator.

use super::shared::{Server, Settings};
use crate::access::{Caller, Rules};
use crate::key::Key;
use crate::observe::evidence::{Findings, MissingRule};
use crate::observe::status::LockStatus;

impl Server {
    /// Takes into account how the lock and the audit are at this moment.
    pub(super) fn look_at_lock(&self) {
        let lost = self.metrics.log_dropped.get() + self.audit.unseen();
        let (lock, audit) = (*self.metrics.lock.read(), self.settings.read().audit);
        self.evidence.look(self.engine.now().boot, lock, audit, lost);
    }

    /// `None` where the lock is off, and for callers whom others' requests do not concern.
    pub(super) fn lock_status(&self, settings: &Settings, caller: &Caller) -> Option<LockStatus> {
        (*self.metrics.lock.read())?;
        if !settings.rules.is_administrator(caller.uid) {
            return None;
        }
        self.look_at_lock();
        let Findings {
            observed,
            gap,
            mut missing,
            breaks,
            users,
        } = self.evidence.findings(self.engine.now().boot);
        missing.retain(|missing| !self.is_allowed(&settings.rules, missing));
        Some(LockStatus {
            mode: settings.lock.mode,
            observed: observed.map(|time| time.as_secs()),
            gap,
            missing,
            breaks,
            users,
        })
    }

    /// Whether there is a rule by now.
    pub(super) fn is_allowed(&self, rules: &Rules, missing: &MissingRule) -> bool {
        let caller = Caller::recorded(missing.uid, missing.unit.as_deref(), &self.machine);
        let mut key = Key::new(missing.resource.clone(), missing.identity.clone());
        if let Some((identity, _)) = rules.default_for(&caller, &key) {
            key.identity = identity.clone();
        }
        rules.judge(&caller, &key).is_some()
    }
}
