//! Whether a loop still comes round: what `/live` says and the watchdog is fed by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Now;

/// A loop with nothing to do comes round at least this often.
pub const PERIOD: Duration = Duration::from_secs(5);

/// When a loop last came round.
#[derive(Debug)]
pub struct Beat(AtomicU64);

impl Beat {
    /// The loop is about to start.
    pub fn new(now: Now) -> Self {
        Self(AtomicU64::new(millis(now.boot)))
    }

    /// The loop comes round.
    pub fn strike(&self, now: Now) {
        self.0.store(millis(now.boot), Ordering::Relaxed);
    }

    /// Whether it did so within twice [`PERIOD`].
    pub fn is_recent(&self, now: Now) -> bool {
        let last = Duration::from_millis(self.0.load(Ordering::Relaxed));
        now.boot.saturating_sub(last) < 2 * PERIOD
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_noticed() {
        let at = |seconds| Now {
            wall: Duration::ZERO,
            boot: Duration::from_secs(seconds),
        };
        let beat = Beat::new(at(100));
        assert!(beat.is_recent(at(109)));
        assert!(!beat.is_recent(at(110)));
        beat.strike(at(110));
        assert!(beat.is_recent(at(119)));
    }
}
