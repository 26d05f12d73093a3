//! What an administrator does: other configurations, and restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use msi_tokend::broker::Broker;
use msi_tokend::failure::Class;

use super::World;
use super::all_keys;
use super::model::Lease;
use crate::op::{KEYS, UIDS, policy};
use crate::promise::{Kept, promise};

impl World {
    pub(super) fn reload(&mut self, n: usize) -> Kept {
        self.policy = policy(n, &self.keys);
        self.allowed = self.policy.max_tokens.max(self.existing().count());
        self.allowed_bytes = self.policy.max_bytes.max(self.bytes());
        self.allowed_of = (0..=UIDS).map(|uid| (uid, self.owned(uid).count())).collect();
        self.note_warm();
        let mut effects = Vec::new();
        self.broker.reconfigure(self.now, self.policy.clone(), &mut effects);
        self.apply(effects)
    }

    /// Nothing that the former one failed in is waited out.
    pub(super) fn upstream_changes(&mut self) -> Kept {
        self.forget_failures();
        for running in &mut self.running {
            running.former = true;
        }
        let mut effects = Vec::new();
        self.broker.upstream_changed(self.now, &mut effects);
        self.apply(effects)?;
        self.nothing_keeps_still()
    }

    fn forget_failures(&mut self) {
        (self.silent_until, self.may_be_silent_until) = (self.now.boot, self.now.boot);
        for key in 0..KEYS {
            let latest = self.now.boot + self.left(key) / 2;
            let model = &mut self.models[key];
            let failed = model.failing.take().is_some();
            model.planned = if failed {
                self.now.boot
            } else {
                model.planned.min(latest)
            };
        }
    }

    fn nothing_keeps_still(&self) -> Kept {
        for entry in self.broker.entries(&all_keys(&self.broker), self.now) {
            promise!(
                entry.fetching || entry.next_in <= entry.left / 2,
                "another upstream is asked at once for what failed, and soon for the rest",
                "{}: {:?} left, next in {:?}",
                entry.key,
                entry.left,
                entry.next_in
            );
        }
        Ok(())
    }

    /// Callers and running requests end with the process, and what was asked and when is not known to the next one.
    pub(super) fn restart(&mut self, elsewhere: bool) -> Kept {
        let mut carried = self.broker.snapshot(&all_keys(&self.broker));
        self.waiting.clear();
        self.running.clear();
        self.starts.clear();
        let throttled = self
            .models
            .iter()
            .filter(|model| model.exists)
            .filter_map(|model| match model.failing {
                Some((Class::Throttled(_), until)) => Some(until),
                _ => None,
            });
        self.silent_until = throttled.max().unwrap_or_default();
        if elsewhere {
            self.forget_failures();
            for carried in &mut carried {
                carried.forget_failure(self.now);
            }
        }
        for key in 0..KEYS {
            let over = self.left(key).is_zero();
            let model = &mut self.models[key];
            // A lack of room is not carried over.
            model.failing = model.failing.take().filter(|(class, _)| *class != Class::Full);
            (model.running, model.fetching, model.last_start) = (false, false, None);
            (model.last_forced, model.force_asked, model.planned) = (None, None, Duration::ZERO);
            model.turns.clear();
            model.lease = model.lease.filter(|_| !over).map(|lease| {
                let left = self.tokens[lease.token].expires_on.saturating_sub(self.now.wall);
                let expires_boot = lease.expires_boot.min(self.now.boot + left);
                Lease { expires_boot, ..lease }
            });
        }
        let too_many = self.existing().count() > self.policy.max_tokens || self.bytes() > self.policy.max_bytes;
        let has_too_many = |uid| self.owned(uid).count() > self.policy.max_tokens_per_uid;
        let over: Vec<bool> = self
            .models
            .iter()
            .map(|model| too_many || has_too_many(model.owner))
            .collect();
        self.broker = Broker::new(self.policy.clone(), self.tally.steps, self.now);
        let mut effects = Vec::new();
        self.broker.restore(self.now, carried, &mut effects);
        self.apply(effects)?;
        let entries = self.broker.entries(&all_keys(&self.broker), self.now);
        let kept: BTreeMap<usize, bool> = entries
            .iter()
            .map(|entry| (self.index(&entry.key), entry.expires_on.is_some()))
            .collect();
        for (key, over) in over.into_iter().enumerate() {
            let model = &mut self.models[key];
            let has_token = kept.get(&key).copied();
            promise!(
                over || (has_token.is_some() == model.exists && has_token.unwrap_or(false) == model.lease.is_some()),
                "a restart loses nothing that fits",
                "{key}"
            );
            match has_token {
                None => self.gone(key),
                Some(true) => {}
                Some(false) => model.lease = None,
            }
        }
        if elsewhere { self.nothing_keeps_still() } else { Ok(()) }
    }

    pub(super) fn note_warm(&mut self) {
        for (key, model) in self.keys.iter().zip(&mut self.models) {
            let warm = self.policy.warm.contains(key);
            if model.warm && !warm {
                model.last_asked = self.now.boot;
            }
            if warm && !model.exists {
                (model.exists, model.owner, model.last_asked) = (true, 0, self.now.boot);
                model.users.insert(0);
            }
            model.warm = warm;
        }
        // Warm keys count in all, but for no uid, so a list that loses some gives a uid more than it may have.
        self.allowed = self.allowed.max(self.existing().count());
        let mine: Vec<(u32, usize)> = (0..=UIDS).map(|uid| (uid, self.owned(uid).count())).collect();
        for (uid, count) in mine {
            let allowed = self.allowed_of.entry(uid).or_default();
            *allowed = (*allowed).max(count);
        }
    }
}
