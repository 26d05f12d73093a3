//! Who is in line for a fetch, and whose turn is next.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::key::Key;

/// Who waits for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Tokens that are renewed ahead, soonest expiry first.
    Refresh,
    /// A caller of this uid waits.
    Caller(u32),
}

/// The lanes with keys in line, which take turns.
#[derive(Debug, Default)]
pub struct Lanes {
    /// The first has the turn.
    turns: VecDeque<Lane>,
    /// Keys by their order within each lane.
    queues: HashMap<Lane, BTreeSet<(u128, Arc<Key>)>>,
    /// Where each key stands. It may stand in several lanes and is taken from one of them for all.
    places: HashMap<Arc<Key>, Vec<(Lane, u128)>>,
    last_ticket: u128,
}

impl Lanes {
    /// Puts a key in line, unless it stands in this lane already.
    pub fn enqueue(&mut self, key: &Arc<Key>, lane: Lane, expiry: Duration) {
        let places = self.places.entry(key.clone()).or_default();
        if places.iter().any(|(known, _)| *known == lane) {
            return;
        }
        let order = match lane {
            Lane::Refresh => expiry.as_nanos(),
            Lane::Caller(_) => {
                self.last_ticket += 1;
                self.last_ticket
            }
        };
        places.push((lane, order));
        let queue = self.queues.entry(lane).or_insert_with(|| {
            self.turns.push_back(lane);
            BTreeSet::new()
        });
        queue.insert((order, key.clone()));
    }

    pub fn contain(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    pub fn are_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The lanes, the one whose turn is next first.
    pub fn in_turn(&self) -> impl Iterator<Item = Lane> {
        self.turns.iter().copied()
    }

    /// The lane has its turn: takes its first key, out of all lanes in which that stands.
    pub fn take_from(&mut self, lane: Lane) -> Option<Arc<Key>> {
        let (_, key) = self.queues.get(&lane)?.first()?.clone();
        for (lane, order) in self.places.remove(&key).into_iter().flatten() {
            let Some(queue) = self.queues.get_mut(&lane) else {
                continue;
            };
            queue.remove(&(order, key.clone()));
            if queue.is_empty() {
                self.queues.remove(&lane);
                self.turns.retain(|other| *other != lane);
            }
        }
        if self.queues.contains_key(&lane) {
            self.turns.retain(|other| *other != lane);
            self.turns.push_back(lane);
        }
        Some(key)
    }
}
