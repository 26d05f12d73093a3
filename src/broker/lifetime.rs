//! How long a token may be served and when it is renewed. Nothing else knows these rules.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::token::Token;

/// SDKs take a token with less than this left for expired and ask again at every use (`docs/protocol.md`, "What SDKs
/// do", row "Five minutes").
pub const LOW: Duration = Duration::from_mins(5);

/// A token and how long it may be served, on both clocks.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What is handed out.
    pub token: Arc<Token>,
    /// The token's own end. Beside it, since who looks for a key to evict looks at all, and would look into each token.
    expires_on: Duration,
    /// End of validity on the boot-time clock, fixed when the reply came.
    expires_boot: Duration,
}

impl Lease {
    /// Fixes the expiry on both clocks as of `now`.
    pub fn new(token: Arc<Token>, now: Now) -> Self {
        let expires_on = token.expires_on();
        let left = expires_on.saturating_sub(now.wall);
        Self {
            token,
            expires_on,
            expires_boot: now.boot.saturating_add(left),
        }
    }

    /// The same lease, with the boot-time end that it had in the previous process, if that is sooner.
    pub fn until(self, expires_boot: Duration) -> Self {
        Self {
            expires_boot: self.expires_boot.min(expires_boot),
            ..self
        }
    }

    /// What is left by the clock that says less; zero means: not servable. Whole seconds count as they do for clients,
    /// so a token with a fraction of a second left has expired.
    pub fn left(&self, now: Now) -> Duration {
        let wall = self.expires_on.saturating_sub(now.wall);
        let boot = self.expires_boot.saturating_sub(now.boot);
        Duration::from_secs(wall.min(boot).as_secs())
    }

    /// End of validity on the boot-time clock.
    pub fn expires_boot(&self) -> Duration {
        self.expires_boot
    }
}

/// How long to wait before the next refresh: half of the life that is `left`, less up to a tenth of that by `draw`
/// (0 to 1), so that the VMs of a fleet drift apart. The `same` token back again means that the endpoint caches too:
/// it is left alone for a minute at least.
pub fn refresh_in(left: Duration, same: bool, draw: f64) -> Duration {
    let least = if same {
        Duration::from_mins(1)
    } else {
        Duration::from_secs(1)
    };
    let half = left / 2;
    half.saturating_sub(half.mul_f64(draw.clamp(0.0, 1.0) / 10.0))
        .max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refresh_comes_at_half_life_and_jitter_makes_it_earlier_only() {
        let day = Duration::from_hours(24);
        assert_eq!(refresh_in(day, false, 0.0), day / 2);
        assert_eq!(refresh_in(day, false, 1.0), (day / 2).mul_f64(0.9));
        assert_eq!(refresh_in(Duration::from_secs(10), true, 0.5), Duration::from_mins(1));
        assert_eq!(refresh_in(Duration::ZERO, false, 0.5), Duration::from_secs(1));
    }

    proptest::proptest! {
        #[test]
        fn half_of_any_life_less_a_tenth_of_it_at_most(seconds: u64, nanos in 0_u32..1_000_000_000, same: bool, draw in 0.0..=1.0) {
            let left = Duration::new(seconds, nanos);
            let least = Duration::from_secs(if same { 60 } else { 1 });
            let next_in = refresh_in(left, same, draw);
            proptest::prop_assert!(next_in <= (left / 2).max(least), "{next_in:?}");
            // Floating point loses a little of lives that are longer than the universe.
            let earliest = (left / 2).mul_f64(0.899_999);
            proptest::prop_assert!(next_in >= earliest.max(least), "{next_in:?}");
        }
    }
}
