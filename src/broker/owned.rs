//! Which keys count for which uid's bound.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::slot::Slot;
use crate::key::Key;

/// The keys that count for each uid's bound, which warm ones do not.
#[derive(Debug, Default)]
pub struct Owned(HashMap<u32, BTreeSet<Arc<Key>>, RandomState>);

impl Owned {
    /// The slot's key counts for its owner, unless it is warm.
    pub fn add(&mut self, slot: &Slot) {
        if !slot.warm {
            self.0.entry(slot.owner).or_default().insert(slot.key.clone());
        }
    }

    /// The key counts for the uid no more.
    pub fn remove(&mut self, uid: u32, key: &Key) {
        if let Some(keys) = self.0.get_mut(&uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(&uid);
            }
        }
    }

    /// How many keys count for the uid.
    pub fn count(&self, uid: u32) -> usize {
        self.0.get(&uid).map_or(0, BTreeSet::len)
    }

    /// The keys that count for the uid.
    pub fn of(&self, uid: u32) -> impl Iterator<Item = &Arc<Key>> {
        self.0.get(&uid).into_iter().flatten()
    }

    /// In an order that is the same in every run.
    pub fn uids(&self) -> BTreeSet<u32> {
        self.0.keys().copied().collect()
    }

    /// The slot's key counts for another uid from now on.
    pub fn hand_over(&mut self, slot: &mut Slot, to: u32) {
        self.remove(slot.owner, &slot.key);
        slot.other = Some(std::mem::replace(&mut slot.owner, to));
        self.add(slot);
    }
}
