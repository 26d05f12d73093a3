//! When a failed key is tried again: `docs/protocol.md`, "When the endpoint fails", a row an arm.

use std::time::Duration;

use crate::failure::Class;

/// For this long a restarting endpoint is asked every few seconds, and callers are held.
const RESTART_PATIENCE: Duration = Duration::from_mins(2);
/// No back-off grows beyond it.
const LONGEST: Duration = Duration::from_mins(1);
/// No `Retry-After` and no failure delays the next try for longer.
pub const LONGEST_THROTTLE: Duration = Duration::from_mins(5);
const SECOND: Duration = Duration::from_secs(1);

/// The failures of one key since its last good reply. Each row counts for itself, so that an endpoint which alternates
/// between two kinds of failure is still asked less and less.
#[derive(Clone, Debug, Default)]
pub struct Streak {
    /// When the endpoint was first taken for restarting, on the boot-time clock.
    pub restarting_since: Option<Duration>,
    /// Tries since then, while callers are held.
    pub restarts: u32,
    /// Other failures, which grow the back-off.
    pub faults: u32,
    /// Refusals.
    pub refusals: u32,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Until the next try.
    pub for_: Duration,
    /// Whether callers without a token are held meanwhile, rather than told at once.
    pub hold_callers: bool,
}

impl Streak {
    /// The wait after one more failure of `class` at `now` (boot-time clock). `draw` (0 to 1) places a back-off between
    /// its half and its whole; `throttles` counts the 429s in a row, of all keys, this one not included.
    pub fn failed(&mut self, class: &Class, now: Duration, throttles: u32, draw: f64) -> Wait {
        let told = |for_| Wait {
            for_,
            hold_callers: false,
        };
        match class {
            Class::Restarting => {
                let since = *self.restarting_since.get_or_insert(now);
                if now.saturating_sub(since) < RESTART_PATIENCE {
                    let for_ = doubling(SECOND, count(&mut self.restarts), Duration::from_secs(5));
                    Wait {
                        for_,
                        hold_callers: true,
                    }
                } else {
                    told(jittered(count(&mut self.faults), draw))
                }
            }
            Class::Faulty | Class::Full => told(jittered(count(&mut self.faults), draw)),
            Class::Throttled(Some(asked)) => told((*asked).clamp(SECOND, LONGEST_THROTTLE)),
            Class::Throttled(None) => told(jittered(throttles, draw)),
            Class::Refused(_) => told(doubling(SECOND * 10, count(&mut self.refusals), LONGEST)),
        }
    }
}

/// Counts one more and says how many there were before.
fn count(counter: &mut u32) -> u32 {
    let before = *counter;
    *counter = before.saturating_add(1);
    before
}

fn doubling(first: Duration, before: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(before)).min(most)
}

fn jittered(before: u32, draw: f64) -> Duration {
    let whole = doubling(SECOND, before, LONGEST);
    (whole / 2 + (whole / 2).mul_f64(draw.clamp(0.0, 1.0))).max(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Refusal;

    /// Seconds waited by a key that fails with `class` again and again.
    fn waits(class: &Class, draw: f64, times: usize) -> Vec<(f64, bool)> {
        let (mut streak, mut now) = (Streak::default(), Duration::from_secs(1000));
        (0..times)
            .map(|throttles| {
                let wait = streak.failed(class, now, u32::try_from(throttles).unwrap(), draw);
                now += wait.for_;
                (wait.for_.as_secs_f64(), wait.hold_callers)
            })
            .collect()
    }

    #[test]
    fn a_restart_is_waited_for_two_minutes_and_then_backs_off() {
        let waits = waits(&Class::Restarting, 1.0, 35);
        let held: Vec<f64> = waits.iter().filter(|(_, held)| *held).map(|(wait, _)| *wait).collect();
        assert_eq!(held[..5], [1.0, 2.0, 4.0, 5.0, 5.0]);
        let total: f64 = held.iter().sum();
        assert!((120.0..125.0).contains(&total), "{total}");
        let told: Vec<f64> = waits.iter().filter(|(_, held)| !*held).map(|(wait, _)| *wait).collect();
        assert_eq!(told[..8], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    }

    #[test]
    fn a_fault_doubles_to_a_minute_and_never_waits_less_than_half() {
        let whole: Vec<f64> = waits(&Class::Faulty, 1.0, 9)
            .into_iter()
            .map(|(wait, _)| wait)
            .collect();
        assert_eq!(whole, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
        let half: Vec<f64> = waits(&Class::Faulty, 0.0, 9)
            .into_iter()
            .map(|(wait, _)| wait)
            .collect();
        assert_eq!(half, [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
    }

    #[test]
    fn a_throttle_lasts_as_long_as_it_says_within_bounds() {
        for (asked, waited) in [(0, 1), (7, 7), (300, 300), (86_400, 300)] {
            let class = Class::Throttled(Some(Duration::from_secs(asked)));
            assert_eq!(waits(&class, 0.5, 1), [(f64::from(waited), false)]);
        }
        let unsaid: Vec<f64> = waits(&Class::Throttled(None), 1.0, 8)
            .into_iter()
            .map(|(wait, _)| wait)
            .collect();
        assert_eq!(unsaid, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    }

    #[test]
    fn a_refusal_is_remembered_from_ten_seconds_to_a_minute() {
        let class = Class::Refused(Refusal {
            error: None,
            error_description: String::new(),
        });
        assert_eq!(
            waits(&class, 0.5, 5)
                .into_iter()
                .map(|(wait, _)| wait)
                .collect::<Vec<_>>(),
            [10.0, 20.0, 40.0, 60.0, 60.0]
        );
    }

    #[test]
    fn alternating_failures_still_back_off() {
        let (mut streak, mut now) = (Streak::default(), Duration::ZERO);
        let mut last = Duration::ZERO;
        for _ in 0..80 {
            now += streak.failed(&Class::Restarting, now, 0, 1.0).for_;
            last = streak.failed(&Class::Faulty, now, 0, 1.0).for_;
            now += last;
        }
        assert_eq!(last, LONGEST);
    }
}
