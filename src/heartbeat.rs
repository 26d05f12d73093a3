//! Whether a loop still comes round: what `/live` says and the watchdog is fed by.
//!
//! By the clock of the loops' own pauses, which stands while the machine sleeps: a loop does not stand still because the
//! VM did. Nothing that judges a lifetime goes by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A loop with nothing to do comes round at least this often.
pub const PERIOD: Duration = Duration::from_secs(5);

/// When a loop last came round.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// In milliseconds.
    last: AtomicU64,
}

/// The loop is about to start.
impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Heartbeat {
    /// The loop comes round.
    pub fn strike(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Whether it did so within twice [`PERIOD`].
    pub fn is_recent(&self) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last) < 2 * PERIOD
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_noticed() {
        let beat = Heartbeat::default();
        advance(Duration::from_millis(9_999)).await;
        assert!(beat.is_recent());
        advance(Duration::from_millis(1)).await;
        assert!(!beat.is_recent());
        beat.strike();
        advance(PERIOD).await;
        assert!(beat.is_recent());
    }
}
