//! Which keys are cached, and when each is looked at. How many there may be is in [`super::room`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::room::Owned;
use super::slot::Slot;
use crate::key::Key;

#[derive(Debug, Default)]
pub struct Store {
    /// Looked up at every request, so by a hasher that is faster than the standard one (2 % of a hit's instructions). It
    /// is seeded at random, and the bounds keep small what a caller could gain by guessing the seed.
    pub(super) slots: HashMap<Arc<Key>, Slot, RandomState>,
    pub(super) owned: Owned,
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

    /// Takes in a slot for a key that has none; the bounds are the caller's concern.
    pub fn insert(&mut self, slot: Slot) -> &mut Slot {
        self.owned.add(&slot);
        self.slots.entry(slot.key.clone()).insert_entry(slot).into_mut()
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            if let Some(due) = slot.due {
                self.due.remove(&(due, slot.key.clone()));
            }
            self.owned.remove(slot.owner, key);
        }
    }

    /// Makes exactly these keys warm. One that was warm and is not any more counts as asked for just now.
    pub fn keep_warm(&mut self, warm: &[Key], now: Duration) {
        let wanted: HashSet<&Key> = warm.iter().collect();
        for slot in self.slots.values_mut().filter(|slot| slot.warm) {
            if !wanted.contains(&*slot.key) {
                slot.warm = false;
                slot.last_asked = now;
                self.owned.add(slot);
            }
        }
        for key in warm {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.warm = true;
                self.owned.remove(slot.owner, key);
            } else {
                self.insert(Slot::new(Arc::new(key.clone()), 0, true, now));
            }
        }
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
}
