//! Which keys are cached, and when each is looked at. How many there may be is in [`super::room`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::owned::Owned;
use super::slot::Slot;
use crate::key::Key;

/// Where each slot stands in the queue.
type Due = BTreeSet<(Duration, Arc<Key>)>;

#[derive(Debug, Default)]
pub struct Store {
    /// Looked up at every request, so by a hasher that is faster than the standard one (2 % of a hit's instructions). It
    /// is seeded at random, and the bounds keep small what a caller could gain by guessing the seed.
    ///
    /// The slots lie outside of the table, since that has room for twice as many keys as there are.
    pub(super) slots: HashMap<Arc<Key>, Box<Slot>, RandomState>,
    pub(super) owned: Owned,
    /// Every key in the order in which they came, so that who goes through them can stop and go on.
    order: BTreeMap<u64, Arc<Key>>,
    /// The next one's number.
    next: u64,
    /// When to look at which slot.
    due: Due,
    /// Of all tokens.
    pub(super) bytes: usize,
    idle_drop: Duration,
}

/// A slot that is being changed. When it is let go, it stands where it then belongs in the queue, and the bytes of its
/// token count.
#[derive(Debug)]
pub struct Edit<'s> {
    pub(super) slot: &'s mut Slot,
    pub(super) owned: &'s mut Owned,
    due: &'s mut Due,
    bytes: &'s mut usize,
    size: usize,
    idle_drop: Duration,
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Slot> {
        self.slots.get(key).map(Box::as_ref)
    }

    /// The slot, to be changed.
    pub fn edit(&mut self, key: &Key) -> Option<Edit<'_>> {
        let slot = self.slots.get_mut(key)?;
        Some(Edit {
            size: slot.size(),
            slot,
            owned: &mut self.owned,
            due: &mut self.due,
            bytes: &mut self.bytes,
            idle_drop: self.idle_drop,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().map(Box::as_ref)
    }

    /// Every key, in an order that is the same in every run: what follows may draw jitter.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<Arc<Key>> = self.slots.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// The numbers of all keys.
    pub fn numbers(&self) -> Range<u64> {
        0..self.next
    }

    /// At most so many of the keys with these numbers, and the numbers of the others. A key that goes meanwhile is left out, and
    /// one that comes has a number beyond.
    pub fn slice(&self, numbers: Range<u64>, most: usize) -> (Vec<Arc<Key>>, Range<u64>) {
        let mut rest = self.order.range(numbers.clone());
        let keys = rest.by_ref().take(most).map(|(_, key)| key.clone()).collect();
        let next = rest.next().map_or(numbers.end, |(number, _)| *number);
        (keys, next..numbers.end)
    }

    /// Takes in a slot for a key that has none; the bounds are the caller's concern.
    pub fn insert(&mut self, mut slot: Slot) {
        let key = slot.key.clone();
        slot.number = self.next;
        self.next += 1;
        self.order.insert(slot.number, key.clone());
        self.owned.add(&slot);
        self.bytes += slot.size();
        self.slots.insert(key.clone(), Box::new(slot));
        self.edit(&key);
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            if let Some(due) = slot.due {
                self.due.remove(&(due, slot.key.clone()));
            }
            self.order.remove(&slot.number);
            self.owned.remove(slot.owner, key);
            self.bytes -= slot.size();
        }
    }

    /// Makes exactly these keys warm, and keeps the others for so long after their last request. One that was warm and is
    /// not any more counts as asked for just now.
    pub fn keep_warm(&mut self, warm: &[Key], idle_drop: Duration, now: Duration) {
        self.idle_drop = idle_drop;
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
        for key in self.keys() {
            self.edit(&key);
        }
    }

    /// When the next slot is due.
    pub fn first_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the next slot that is due out of the queue; the next [`Edit`] of it puts it back.
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

impl Deref for Edit<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot
    }
}

impl DerefMut for Edit<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        self.slot
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        let slot = &mut *self.slot;
        *self.bytes = *self.bytes - self.size + slot.size();
        let due = slot.next_due(self.idle_drop);
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
}
