//! Who waits for an answer, and until when.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::event::WaiterId;
use crate::key::Key;

#[derive(Debug, Default)]
pub struct Waiters {
    by_id: HashMap<WaiterId, Waiter>,
    deadlines: BTreeSet<(Duration, WaiterId)>,
    last_id: WaiterId,
}

/// One caller that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub key: Arc<Key>,
    pub uid: u32,
    /// Until when it waits for the token that it asked for, on the boot-time clock.
    pub deadline: Duration,
    /// Until when it waits where there is no token at all to answer with.
    pub patience: Duration,
}

impl Waiters {
    pub fn add(&mut self, waiter: Waiter) -> WaiterId {
        self.last_id += 1;
        self.put(self.last_id, waiter);
        self.last_id
    }

    /// Lets a waiter wait on, until the deadline that it now has.
    pub fn put(&mut self, id: WaiterId, waiter: Waiter) {
        self.deadlines.insert((waiter.deadline, id));
        self.by_id.insert(id, waiter);
    }

    pub fn get(&self, id: WaiterId) -> Option<&Waiter> {
        self.by_id.get(&id)
    }

    pub fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.by_id.remove(&id)?;
        self.deadlines.remove(&(waiter.deadline, id));
        Some(waiter)
    }

    /// The keys that somebody waits for.
    pub fn keys(&self) -> BTreeSet<Arc<Key>> {
        self.by_id.values().map(|waiter| waiter.key.clone()).collect()
    }

    /// When the first wait runs out.
    pub fn first_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out a waiter whose deadline has passed.
    pub fn pop_over(&mut self, now: Duration) -> Option<(WaiterId, Waiter)> {
        let (deadline, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(id).map(|waiter| (id, waiter))
    }
}
