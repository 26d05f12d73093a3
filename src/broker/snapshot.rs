//! What one process leaves to the next: every key with its token, its failures and its times.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::LONGEST_THROTTLE;
use super::core::Broker;
use super::event::Effect;
use super::governor::Throttle;
use super::lifetime::Lease;
use super::slot::{Failing, Slot};
use crate::clock::Now;
use crate::failure::Class;
use crate::key::Key;
use crate::token::Token;

/// One key. All times are the boot-time clock's, so they hold within one boot only.
#[derive(Debug)]
pub struct KeySnapshot {
    /// Which token.
    pub key: Key,
    /// The uid whose bound counts it.
    pub owner: u32,
    /// Another uid that asked.
    pub other: Option<u32>,
    /// When somebody last asked.
    pub last_asked: Duration,
    /// When to ask the upstream next.
    pub next_try: Duration,
    /// The token and its end on the boot-time clock.
    pub token: Option<(Arc<Token>, Duration)>,
    /// What has failed since the last good reply.
    pub trouble: Option<Failing>,
}

impl Broker {
    /// What is worth carrying over of those of `keys` that are still known.
    pub fn snapshot(&self, keys: &[Arc<Key>]) -> Vec<KeySnapshot> {
        let slots = keys.iter().filter_map(|key| self.store.get(key));
        slots.map(KeySnapshot::from).collect()
    }

    /// Takes over what the previous process left, as far as it fits the bounds now in force: what is warm first, then what
    /// has a token, the latest used first, and no key that is known already. A token that has expired meanwhile is not
    /// taken; of a warm key whose token does not fit, its failure and its owner are.
    pub fn restore(&mut self, now: Now, mut carried: Vec<KeySnapshot>, effects: &mut Vec<Effect>) {
        for carried in &mut carried {
            if carried.lease(now).is_none() {
                carried.token = None;
            }
        }
        carried.sort_by_cached_key(|carried| {
            let is_warm = self.store.get(&carried.key).is_some_and(|slot| slot.warm);
            // By key at last, so that every run takes the same ones.
            let key = carried.key.clone();
            (!is_warm, carried.token.is_none(), Reverse(carried.last_asked), key)
        });
        for mut carried in carried {
            self.resume_throttle(now, &carried);
            let known = self.store.get(&carried.key);
            let warm = known.is_some_and(|slot| slot.warm && slot.flight.is_none());
            let size = carried.token.as_ref().map_or(0, |(token, _)| token.size());
            let fits = self.store.fits(size, &self.policy);
            let has_place = warm || (fits && self.store.has_room_for(carried.owner, &self.policy));
            if known.is_some() != warm || !has_place {
                continue;
            }
            carried.token = carried.token.filter(|_| fits);
            let slot = carried.into_slot(warm, now);
            self.store.remove(&slot.key);
            self.store.insert(slot);
        }
        self.tick(now, effects);
    }

    /// A 429 counts for all keys, also after a restart.
    fn resume_throttle(&mut self, now: Now, carried: &KeySnapshot) {
        if let Some(trouble) = &carried.trouble
            && matches!(trouble.failure.class, Class::Throttled(_))
            && carried.next_try > now.boot
        {
            let until = carried.next_try.min(now.boot.saturating_add(LONGEST_THROTTLE));
            let failure = trouble.failure.clone();
            let throttle = Throttle { until, failure };
            self.governor.silence(now.boot, now.boot, throttle);
        }
    }
}

impl KeySnapshot {
    /// What failed was the doing of an upstream that is not asked any more.
    pub fn forget_failure(&mut self, now: Now) {
        if self.trouble.take().is_some() {
            self.next_try = now.boot;
        }
    }

    /// The token's life that is left, if any is.
    fn lease(&self, now: Now) -> Option<Lease> {
        let (token, expires_boot) = self.token.clone()?;
        let lease = Lease::new(token, now).until(expires_boot);
        (!lease.left(now).is_zero()).then_some(lease)
    }

    /// No time of the previous process may lie further ahead than this one would set it.
    fn into_slot(self, warm: bool, now: Now) -> Slot {
        let lease = self.lease(now);
        let latest = match (&self.trouble, &lease) {
            (Some(_), _) => LONGEST_THROTTLE,
            (None, Some(lease)) => lease.left(now) / 2,
            (None, None) => Duration::ZERO,
        };
        Slot {
            next_try: self.next_try.min(now.boot.saturating_add(latest)),
            lease,
            trouble: self.trouble.map(Box::new),
            last_asked: self.last_asked.min(now.boot),
            other: self.other,
            ..Slot::new(Arc::new(self.key), self.owner, warm, now.boot)
        }
    }
}

impl From<&Slot> for KeySnapshot {
    fn from(slot: &Slot) -> Self {
        Self {
            key: (*slot.key).clone(),
            owner: slot.owner,
            other: slot.other,
            last_asked: slot.last_asked,
            next_try: slot.next_try,
            token: slot
                .lease
                .as_ref()
                .map(|lease| (lease.token.clone(), lease.expires_boot())),
            trouble: slot
                .trouble
                .as_deref()
                .filter(|trouble| trouble.failure.class != Class::Full)
                .cloned(),
        }
    }
}
