//! What belongs to one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::admission::ListenerKind;
use super::guest::Guest;
use super::last_request::LastRequest;

/// One caller's connection.
pub struct Session {
    /// Whose it is.
    pub guest: Arc<Guest>,
    /// Where it came in.
    pub listener: Arc<ListenerKind>,
    /// What it asked before.
    pub last_request: LastRequest,
    /// Whether it was answered since it was last its turn.
    pub answered: AtomicBool,
}

impl Session {
    /// It is the connection's turn, among all those that have something to do.
    pub fn begin_turn(&self) {
        self.answered.store(false, Ordering::Relaxed);
    }

    /// Whether one more answer may be given in this turn, which may be one.
    pub fn takes_answer(&self) -> bool {
        let takes = !self.answered.load(Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
        takes
    }
}
