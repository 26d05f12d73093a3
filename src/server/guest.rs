//! A connection in its seat, as far as others have to do with it: whose it is, and whether it has to make room for another.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::access::Caller;

/// One caller's connection.
pub struct Guest {
    /// As the kernel had it when the connection was accepted.
    pub caller: Caller,
    /// When it came or last asked, counted in the requests of all.
    last_used: AtomicU64,
    waits: AtomicBool,
    makes_room: AtomicBool,
    ends: AtomicBool,
    end: Notify,
    /// Ends it without regard to what it has sent.
    cut_off: Notify,
}

impl Guest {
    /// It has come, after so many requests of all.
    pub fn new(caller: Caller, now: u64) -> Self {
        Self {
            caller,
            last_used: AtomicU64::new(now),
            waits: AtomicBool::new(false),
            makes_room: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            end: Notify::new(),
            cut_off: Notify::new(),
        }
    }

    /// It asks something.
    pub fn use_at(&self, now: u64) {
        self.last_used.store(now, Ordering::Relaxed);
    }

    /// Whether it waits for a token from now on.
    pub fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// The lowest of a user's connections makes room first: an idle one, the one that was idle for longest.
    pub fn order(&self) -> (bool, u64) {
        (
            self.waits.load(Ordering::Relaxed),
            self.last_used.load(Ordering::Relaxed),
        )
    }

    /// Ends the connection. What it has sent already is answered.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
        self.end.notify_waiters();
    }

    /// Whether it ends.
    pub fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Waits until it is to end.
    pub async fn is_ended(&self) {
        let end = self.end.notified();
        if !self.ends() {
            end.await;
        }
    }

    /// Ends it in favour of another.
    pub fn make_room(&self) {
        self.makes_room.store(true, Ordering::Relaxed);
        self.end();
    }

    /// Ends it at once: too many make room already.
    pub fn cut_off(&self) {
        self.cut_off.notify_one();
    }

    /// Waits until it is cut off.
    pub async fn is_cut_off(&self) {
        self.cut_off.notified().await;
    }

    /// Whether it ends in favour of another.
    pub fn makes_room(&self) -> bool {
        self.makes_room.load(Ordering::Relaxed)
    }

    /// Waits until it has to make room.
    pub async fn room_is_wanted(&self) {
        self.is_ended().await;
        if !self.makes_room() {
            pending::<()>().await;
        }
    }
}
