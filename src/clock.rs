//! Time, handed in. Everything that judges a lifetime takes a [`Now`]; only [`SystemClock`] asks the system.
//!
//! Two clocks, because each lies in its own way: the wall clock can be stepped, and `CLOCK_BOOTTIME` says nothing of
//! the date that a token's `expires_on` is written in. It does count the time that the VM sleeps, which
//! `CLOCK_MONOTONIC` (tokio's timers) does not.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since 1970-01-01T00:00:00Z; zero if the clock stands before that.
    pub wall: Duration,
    /// Since the machine's boot, suspended time included. Never goes back.
    pub boot: Duration,
}

/// Where the time comes from: the system's clocks in the daemon, a simulated one in tests.
pub trait Clock: Send + Sync {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            wall: read(ClockId::CLOCK_REALTIME),
            boot: read(ClockId::CLOCK_BOOTTIME),
        }
    }
}

/// A clock that cannot be read (no Linux has that) counts as standing at zero: nothing expires late by it, since
/// the other clock still judges.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
