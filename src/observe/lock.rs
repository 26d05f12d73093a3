//! Whether the lock is there: what one look at it says is not believed until the next ones say the same, since a flood of
//! connections can make a single one wrong.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::LockMode;

/// Where `msi-token lock load` notes which rules it loaded. The directory is there as long as msi-tokend-lock.service is
/// active.
pub const STATE: &str = "/run/msi-tokend-lock/mode";

/// Which rules are loaded; `None` where the lock is switched off.
pub fn loaded_mode() -> Option<LockMode> {
    LockMode::named(fs::read_to_string(STATE).ok()?.trim())
}

/// The daemon writes this file where the rules are to be loaded again; what is in it says why. A path unit watches it.
pub const REQUEST: &str = "/run/msi-tokend/lock-lost";

/// Lost rules are asked for so often as long as they are gone, or it cannot be found out whether they are there.
const REPAIR_PERIOD: Duration = Duration::from_secs(30);

/// So many looks in a row must agree.
const ENOUGH: u8 = 3;

/// What one look at the lock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A request of the daemon's own was led back to it.
    Locked,
    /// The metadata service itself answered.
    Open,
    /// There was no answer.
    Unknown,
}

/// What is held to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was not looked at often enough yet.
    Untried,
    /// It is there.
    Locked,
    /// It cannot be found out.
    Unknown,
    /// Its rules were loaded and are gone.
    Lost,
}

/// In `/ready`, where the lock is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Told")]
pub struct LockHealth {
    /// Whether it is there.
    pub state: Standing,
    /// Whether it denies anything.
    pub mode: LockMode,
}

/// With what that means.
#[derive(Serialize)]
struct Told {
    state: Standing,
    mode: LockMode,
    note: &'static str,
}

impl From<LockHealth> for Told {
    fn from(lock: LockHealth) -> Self {
        Self {
            state: lock.state,
            mode: lock.mode,
            note: lock.note(),
        }
    }
}

/// The looks so far.
#[derive(Debug)]
pub struct Watch {
    standing: Standing,
    last: Reading,
    in_a_row: u8,
}

/// When the rules are asked for.
#[derive(Debug, Default)]
pub struct Repair {
    asked: Option<Duration>,
    mismatch: Option<(LockMode, LockMode)>,
}

/// Why the rules are to be loaded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// They are gone.
    Lost,
    /// They may be gone: users can keep the daemon from finding out, and to load rules that are there changes nothing.
    Unknown,
    /// The configuration has another mode by now.
    Mode,
}

impl Why {
    /// What the request says.
    pub fn text(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Unknown => "unknown",
            Self::Mode => "mode",
        }
    }
}

impl Repair {
    /// Whether to ask now. Rules of another mode are asked for once, as the loader may have its reasons. The pause between two
    /// requests for lost ones is theirs alone, and over when they are there.
    pub fn wanted(&mut self, now: Duration, watch: &Watch, loaded: LockMode, configured: LockMode) -> Option<Why> {
        let why = match (watch.standing, watch.last) {
            (Standing::Lost, Reading::Open) => Some(Why::Lost),
            (Standing::Lost | Standing::Unknown, Reading::Unknown) => Some(Why::Unknown),
            _ => None,
        };
        if watch.last == Reading::Locked {
            self.asked = None;
        }
        let again = self.asked.is_none_or(|at| now.saturating_sub(at) >= REPAIR_PERIOD);
        if why.is_some() && again {
            self.asked = Some(now);
            return why;
        }
        let pair = (loaded, configured);
        if loaded == configured {
            self.mismatch = None;
        } else if self.mismatch != Some(pair) {
            self.mismatch = Some(pair);
            return Some(Why::Mode);
        }
        None
    }
}

impl LockHealth {
    /// For people.
    pub fn note(self) -> &'static str {
        match self.mode {
            LockMode::Observe => "lock observing: nothing is denied",
            LockMode::Enforce => "lock enforcing",
        }
    }

    /// What is wrong with it, and what to do.
    pub fn problem(self) -> Option<&'static str> {
        match self.state {
            Standing::Untried | Standing::Locked => None,
            Standing::Unknown => Some(
                "whether the lock is there cannot be found out: neither the metadata service nor the daemon answers at \
                 169.254.169.254",
            ),
            Standing::Lost => Some(
                "every user reaches the metadata service by itself: the lock's firewall rules are gone, or something takes \
                 connections away before them; `systemctl reload msi-tokend-lock` loads them, or says why not",
            ),
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            standing: Standing::Untried,
            last: Reading::Unknown,
            in_a_row: 0,
        }
    }
}

impl Watch {
    /// Takes a look into account. That the lock is there is believed at once: only the daemon answers so.
    pub fn note(&mut self, reading: Reading) -> Standing {
        self.in_a_row = if reading == self.last {
            self.in_a_row.saturating_add(1)
        } else {
            1
        };
        self.last = reading;
        match reading {
            Reading::Locked => self.standing = Standing::Locked,
            Reading::Open if self.in_a_row >= ENOUGH => self.standing = Standing::Lost,
            Reading::Unknown if self.in_a_row >= ENOUGH && self.standing != Standing::Lost => {
                self.standing = Standing::Unknown;
            }
            Reading::Open | Reading::Unknown => {}
        }
        self.standing
    }

    /// Whether the last look said what is held to be so, so that the next one has time.
    pub fn is_settled(&self) -> bool {
        matches!(
            (self.last, self.standing),
            (Reading::Locked, Standing::Locked)
                | (Reading::Unknown, Standing::Unknown)
                | (Reading::Open, Standing::Lost)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Reading::{Locked, Open, Unknown};
    use super::*;

    /// The standing after each of these looks.
    fn after(readings: &[Reading]) -> Vec<Standing> {
        let mut watch = Watch::default();
        readings.iter().map(|reading| watch.note(*reading)).collect()
    }

    #[test]
    fn one_look_alone_says_that_it_is_there_and_three_in_a_row_that_it_is_not() {
        assert_eq!(after(&[Locked]), [Standing::Locked]);
        assert_eq!(
            after(&[Locked, Open, Open, Open, Locked]),
            [
                Standing::Locked,
                Standing::Locked,
                Standing::Locked,
                Standing::Lost,
                Standing::Locked
            ]
        );
        assert_eq!(after(&[Open, Open]), [Standing::Untried; 2]);
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_lost_and_breaks_the_row() {
        let flood = [Locked, Open, Unknown, Open, Unknown, Unknown, Open, Open];
        assert!(!after(&flood).contains(&Standing::Lost), "{:?}", after(&flood));
        assert_eq!(after(&[Locked, Unknown, Unknown, Unknown])[3], Standing::Unknown);
        assert_eq!(after(&[Unknown; 100]).last(), Some(&Standing::Unknown));
    }

    #[test]
    fn lost_rules_wait_for_no_other_request_and_another_mode_is_asked_for_once() {
        let (observe, enforce) = (LockMode::Observe, LockMode::Enforce);
        let mut repair = Repair::default();
        let watch = |standing, last| Watch {
            standing,
            last,
            in_a_row: ENOUGH,
        };
        let mut at = |second, is_gone, loaded, configured| {
            // While they are gone there may be no answer.
            let watch = match (is_gone, second % 2) {
                (true, 1) if second < 30 => watch(Standing::Lost, Unknown),
                (true, _) => watch(Standing::Lost, Open),
                (false, _) => watch(Standing::Locked, Locked),
            };
            repair.wanted(Duration::from_secs(second), &watch, loaded, configured)
        };
        assert_eq!(at(0, false, observe, observe), None);
        assert_eq!(at(1, false, observe, enforce), Some(Why::Mode));
        assert_eq!(at(2, true, observe, enforce), Some(Why::Lost), "at once");
        assert_eq!(at(3, true, observe, enforce), None);
        assert_eq!(at(31, true, enforce, enforce), None);
        assert_eq!(at(32, true, enforce, enforce), Some(Why::Lost));
        assert_eq!(at(33, true, enforce, observe), Some(Why::Mode));
        assert_eq!(at(34, false, enforce, observe), None, "the loader did not take it over");
        assert_eq!(at(35, false, observe, observe), None);
        assert_eq!(at(36, false, observe, enforce), Some(Why::Mode));
        assert_eq!(at(37, true, observe, enforce), Some(Why::Lost), "lost anew");
    }

    #[test]
    fn rules_are_asked_for_also_while_it_cannot_be_found_out_whether_they_are_there() {
        let mut repair = Repair::default();
        let mut watch = Watch::default();
        let mut at = |second, reading| {
            watch.note(reading);
            repair.wanted(
                Duration::from_secs(second),
                &watch,
                LockMode::Enforce,
                LockMode::Enforce,
            )
        };
        assert_eq!([0, 1].map(|second| at(second, Unknown)), [None; 2]);
        assert_eq!(at(2, Unknown), Some(Why::Unknown));
        assert_eq!(at(31, Unknown), None);
        assert_eq!(at(32, Unknown), Some(Why::Unknown));
        assert_eq!([33, 34, 35].map(|second| at(second, Open)), [None; 3], "just asked");
        // Never as lost rules, which would be refused where they are there by now.
        assert_eq!(at(62, Unknown), Some(Why::Unknown));
        assert_eq!(at(92, Locked), None);
    }

    #[test]
    fn a_lock_that_is_lost_is_so_until_it_is_seen_again() {
        assert_eq!(
            after(&[Open, Open, Open, Unknown, Unknown, Unknown, Unknown]).last(),
            Some(&Standing::Lost)
        );
    }
}
