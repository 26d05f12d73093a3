//! Whether a loop of the daemon still runs. `/live` and the watchdog depend on it.
//!
//! It uses the clock that stops while the machine is suspended: a suspended VM is no hung loop. Lifetimes of tokens never use
//! this clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A loop with nothing to do beats at least this often.
pub const PERIOD: Duration = Duration::from_secs(5);

/// When a loop last beat.
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
    /// The loop runs.
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
