//! Which keys are cached: their number is bounded, in all and by uid, and each is looked at when it is due.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::event::{Bound, Effect, Note, Policy};
use super::slot::Slot;
use crate::key::Key;

#[derive(Debug, Default)]
pub struct Store {
    /// Looked up at every request, so by a hasher that is faster than the standard one (2 % of a hit's instructions). It
    /// is seeded at random, and the bounds keep small what a caller could gain by guessing the seed.
    slots: HashMap<Arc<Key>, Slot, RandomState>,
    /// The keys that count for a uid's bound: those it first asked for, except warm ones.
    owned: HashMap<u32, BTreeSet<Arc<Key>>>,
    /// When to look at which slot.
    due: BTreeSet<(Duration, Arc<Key>)>,
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Slot> {
        self.slots.get(key)
    }

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Slot> {
        self.slots.get_mut(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// Every key, in an order that is the same in every run: what follows may draw jitter.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<Arc<Key>> = self.slots.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// A slot for a key that has none; it takes the place of the least recently used one, if need be.
    pub fn admit(
        &mut self,
        key: &Key,
        uid: u32,
        policy: &Policy,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<&mut Slot, Bound> {
        while self.owned_by(uid) >= policy.max_tokens_per_uid {
            if !self.evict(Some(uid), effects) {
                return Err(Bound::PerUid);
            }
        }
        while self.slots.len() >= policy.max_tokens {
            if !self.evict(None, effects) {
                return Err(Bound::Total);
            }
        }
        Ok(self.insert(Slot::new(Arc::new(key.clone()), uid, false, now)))
    }

    /// Whether one more key of this uid fits without evicting any.
    pub fn has_room_for(&self, uid: u32, policy: &Policy) -> bool {
        self.owned_by(uid) < policy.max_tokens_per_uid && self.slots.len() < policy.max_tokens
    }

    /// Takes in a slot for a key that has none; the bounds are the caller's concern.
    pub fn insert(&mut self, slot: Slot) -> &mut Slot {
        if !slot.warm {
            self.owned.entry(slot.owner).or_default().insert(slot.key.clone());
        }
        self.slots.entry(slot.key.clone()).insert_entry(slot).into_mut()
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            if let Some(due) = slot.due {
                self.due.remove(&(due, slot.key.clone()));
            }
            self.disown(slot.owner, key);
        }
    }

    /// Makes exactly these keys warm. One that was warm and is not any more counts as asked for just now.
    pub fn keep_warm(&mut self, warm: &[Key], now: Duration) {
        let wanted: HashSet<&Key> = warm.iter().collect();
        for slot in self.slots.values_mut().filter(|slot| slot.warm) {
            if !wanted.contains(&*slot.key) {
                slot.warm = false;
                slot.last_asked = now;
                self.owned.entry(slot.owner).or_default().insert(slot.key.clone());
            }
        }
        for key in warm {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.warm = true;
                let owner = slot.owner;
                self.disown(owner, key);
            } else {
                self.insert(Slot::new(Arc::new(key.clone()), 0, true, now));
            }
        }
    }

    /// Evicts until the bounds hold again, as far as something may go.
    pub fn trim(&mut self, policy: &Policy, effects: &mut Vec<Effect>) {
        let mut uids: Vec<u32> = self.owned.keys().copied().collect();
        uids.sort_unstable();
        for uid in uids {
            while self.owned_by(uid) > policy.max_tokens_per_uid && self.evict(Some(uid), effects) {}
        }
        while self.slots.len() > policy.max_tokens && self.evict(None, effects) {}
    }

    /// Puts a slot where it belongs in the queue, after anything about it has changed.
    pub fn reschedule(&mut self, key: &Key, idle_drop: Duration) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let due = slot.next_due(idle_drop);
        if due != slot.due {
            if let Some(old) = slot.due {
                self.due.remove(&(old, slot.key.clone()));
            }
            if let Some(new) = due {
                self.due.insert((new, slot.key.clone()));
            }
            slot.due = due;
        }
    }

    /// When the next slot is due.
    pub fn first_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the next slot that is due out of the queue; [`Store::reschedule`] puts it back.
    pub fn pop_due(&mut self, now: Duration) -> Option<Arc<Key>> {
        if self.first_due()? > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.due = None;
        }
        Some(key)
    }

    /// Drops the least recently used slot that may go, of this uid or of all; false if there is none.
    fn evict(&mut self, uid: Option<u32>, effects: &mut Vec<Effect>) -> bool {
        fn least<'a>(slots: impl Iterator<Item = &'a Slot>) -> Option<Arc<Key>> {
            slots
                .filter(|slot| slot.is_evictable())
                .min_by(|a, b| (a.last_asked, &a.key).cmp(&(b.last_asked, &b.key)))
                .map(|slot| slot.key.clone())
        }
        let found = match uid {
            None => least(self.slots.values()),
            Some(uid) => {
                let owned = self.owned.get(&uid).into_iter().flatten();
                least(owned.filter_map(|key| self.slots.get(key)))
            }
        };
        let Some(key) = found else { return false };
        self.remove(&key);
        effects.push(Effect::Note(Note::Evicted(key)));
        true
    }

    fn owned_by(&self, uid: u32) -> usize {
        self.owned.get(&uid).map_or(0, BTreeSet::len)
    }

    fn disown(&mut self, owner: u32, key: &Key) {
        if let Some(keys) = self.owned.get_mut(&owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }
}
