//! The seats that connections take.
//!
//! A connection is accepted only when a seat is free. While all are taken, callers wait in the kernel's queue and cost no
//! memory here. No uid gets more seats than its share.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Connections that are told at the same time that their uid has its share.
const TOLD_AT_ONCE: usize = 16;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In all.
    pub total: usize,
    /// Of one uid.
    pub per_uid: usize,
}

/// The seats, and who has them.
pub struct Seats {
    taken: Mutex<Taken>,
    changed: Notify,
    refusals: Arc<Semaphore>,
    /// The kernel had no descriptor for a caller, and this was said.
    short: AtomicBool,
}

struct Taken {
    bounds: Bounds,
    total: usize,
    by_uid: HashMap<u32, usize>,
}

/// A connection's place; free again when dropped.
pub struct Seat {
    seats: Arc<Seats>,
    uid: u32,
}

impl Seats {
    /// All seats are free.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::new(Taken {
                bounds,
                total: 0,
                by_uid: HashMap::new(),
            }),
            changed: Notify::new(),
            refusals: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            short: AtomicBool::new(false),
        })
    }

    /// Takes over new bounds. Connections that are open stay open.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.taken.lock().bounds = bounds;
        self.changed.notify_waiters();
    }

    /// Connections at this moment.
    pub fn taken(&self) -> usize {
        self.taken.lock().total
    }

    /// Waits until one more connection may be accepted.
    pub async fn free(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let taken = self.taken.lock();
                if taken.total < taken.bounds.total {
                    return;
                }
            }
            changed.await;
        }
    }

    /// A seat for one of this uid's connections, unless it has its share.
    pub fn take(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let per_uid = taken.bounds.per_uid;
        let mine = taken.by_uid.entry(uid).or_default();
        if *mine >= per_uid {
            return None;
        }
        *mine += 1;
        taken.total += 1;
        Some(Seat {
            seats: Arc::clone(self),
            uid,
        })
    }

    /// Whether callers wait because no file descriptor is free. This ends as soon as one is free, even if no caller comes.
    pub fn are_short(&self) -> bool {
        if self.short.load(Ordering::Relaxed) && File::open("/dev/null").is_ok() {
            self.short.store(false, Ordering::Relaxed);
        }
        self.short.load(Ordering::Relaxed)
    }

    /// The bound, where so many are taken.
    pub fn full_at(&self) -> Option<usize> {
        let taken = self.taken.lock();
        (taken.total >= taken.bounds.total).then_some(taken.bounds.total)
    }

    /// Notes whether the kernel has descriptors for callers; true if this is news.
    pub fn note_shortage(&self, short: bool) -> bool {
        self.short.swap(short, Ordering::Relaxed) != short
    }

    /// A place for a connection that is closed after it was told that its uid has its share. There are few; without one the
    /// connection is closed at once.
    pub fn refusal_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.refusals).try_acquire_owned().ok()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(mine) = taken.by_uid.get_mut(&self.uid) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                taken.by_uid.remove(&self.uid);
            }
        }
        drop(taken);
        self.seats.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_uid_gets_its_share_and_the_house_its_bound() {
        let seats = Seats::new(Bounds { total: 3, per_uid: 2 });
        let first = seats.take(1).unwrap();
        let _second = seats.take(1).unwrap();
        assert!(seats.take(1).is_none(), "its share is two");
        let _third = seats.take(2).unwrap();
        let full = tokio::time::timeout(Duration::ZERO, seats.free()).await;
        assert!(full.is_err(), "three sit");
        drop(first);
        seats.free().await;
        assert!(seats.take(1).is_some());
        assert_eq!(seats.taken(), 2);
    }
}
