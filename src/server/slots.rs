//! Places for what is passed on to the metadata service at the same time: so many in all and of each user. Who finds none is
//! told to come back.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::seats::Bounds;

/// How many there are. An answer about scheduled events can take two minutes, and there is one agent or two that ask for
/// them.
pub const SLOTS: Bounds = Bounds { total: 32, per_uid: 8 };

/// The places, and who has them.
pub struct Slots {
    bounds: Bounds,
    by_uid: Mutex<HashMap<u32, usize>>,
}

/// A place; free again when dropped.
pub struct TakenSlot {
    slots: Arc<Slots>,
    uid: u32,
}

impl Slots {
    /// All are free.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            by_uid: Mutex::default(),
        })
    }

    /// A place for this user, unless it has its share or all are taken.
    pub fn take(self: &Arc<Self>, uid: u32) -> Option<TakenSlot> {
        let mut by_uid = self.by_uid.lock();
        let taken: usize = by_uid.values().sum();
        let mine = by_uid.get(&uid).copied().unwrap_or_default();
        if taken >= self.bounds.total || mine >= self.bounds.per_uid {
            return None;
        }
        by_uid.insert(uid, mine + 1);
        drop(by_uid);
        let slots = Arc::clone(self);
        Some(TakenSlot { slots, uid })
    }
}

impl Drop for TakenSlot {
    fn drop(&mut self) {
        let mut by_uid = self.slots.by_uid.lock();
        if let Some(mine) = by_uid.get_mut(&self.uid) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_share_and_all_together_no_more_than_there_are() {
        let slots = Slots::new(Bounds { total: 3, per_uid: 2 });
        let first = slots.take(1).unwrap();
        let _second = slots.take(1).unwrap();
        assert!(slots.take(1).is_none(), "its share is two");
        let third = slots.take(2).unwrap();
        assert!(slots.take(3).is_none(), "all are taken");
        drop(first);
        assert!(slots.take(3).is_some());
        drop(third);
        assert!(slots.take(1).is_some());
        assert_eq!(slots.by_uid.lock().len(), 1, "who has none is forgotten");
    }
}
