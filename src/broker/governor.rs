//! How many requests may be under way to the upstream, and whose turn it is.
//!
//! The VM's endpoint allows 20 requests a second and 5 at once for the whole machine (`protocol.md` 3, row "Rate"), so
//! every fetch passes here. Each uid's misses wait in a lane of their own and refreshes share one more; lanes take
//! turns, so nobody's flood of misses delays anybody else by more than one request a turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::key::Key;

/// No more than `max_per_second` starts fall into any span of this length.
const WINDOW: Duration = Duration::from_secs(1);

/// Who waits for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Tokens that are renewed ahead, soonest expiry first.
    Refresh,
    /// A caller of this uid has no token.
    Caller(u32),
}

/// A throttle by the upstream, which silences all keys.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// Until when, on the boot-time clock.
    pub until: Duration,
    /// What callers are told meanwhile.
    pub failure: Arc<Failure>,
}

#[derive(Debug)]
pub struct Governor {
    max_concurrent: usize,
    max_per_second: usize,
    running: usize,
    /// The latest starts, oldest first, as many as can matter.
    starts: VecDeque<Duration>,
    throttle: Option<Throttle>,
    /// 429s in a row.
    throttles: u32,
    /// Lanes with somebody in them; the first has the turn.
    turns: VecDeque<Lane>,
    refreshes: BTreeSet<(Duration, Arc<Key>)>,
    callers: HashMap<u32, VecDeque<Arc<Key>>>,
}

impl Governor {
    /// Both bounds are at least 1.
    pub fn new(max_concurrent: usize, max_per_second: usize) -> Self {
        Self {
            max_concurrent,
            max_per_second,
            running: 0,
            starts: VecDeque::new(),
            throttle: None,
            throttles: 0,
            turns: VecDeque::new(),
            refreshes: BTreeSet::new(),
            callers: HashMap::new(),
        }
    }

    /// Takes over new bounds; what runs goes on.
    pub fn set_bounds(&mut self, max_concurrent: usize, max_per_second: usize) {
        (self.max_concurrent, self.max_per_second) = (max_concurrent, max_per_second);
    }

    /// Puts a key in line; within [`Lane::Refresh`] the earliest `expiry` goes first.
    pub fn enqueue(&mut self, key: Arc<Key>, lane: Lane, expiry: Duration) {
        if !self.turns.contains(&lane) {
            self.turns.push_back(lane);
        }
        match lane {
            Lane::Refresh => _ = self.refreshes.insert((expiry, key)),
            Lane::Caller(uid) => self.callers.entry(uid).or_default().push_back(key),
        }
    }

    /// The key whose fetch may start now, if any may; it counts as running from here on.
    pub fn start_next(&mut self, now: Duration) -> Option<Arc<Key>> {
        if self.may_start_at(now)? > now {
            return None;
        }
        let key = self.take_next()?;
        self.running += 1;
        self.starts.push_back(now);
        while self.starts.len() > self.max_per_second {
            self.starts.pop_front();
        }
        Some(key)
    }

    /// One running fetch ended.
    pub fn finished(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// When the next start may come, if somebody is in line and no running fetch must end first.
    pub fn may_start_at(&self, now: Duration) -> Option<Duration> {
        if self.turns.is_empty() || self.running >= self.max_concurrent {
            return None;
        }
        let excess = self.starts.len().checked_sub(self.max_per_second);
        let window = excess
            .and_then(|i| self.starts.get(i))
            .map_or(now, |oldest| *oldest + WINDOW);
        let throttle = self.throttled(now).map_or(now, |throttle| throttle.until);
        Some(window.max(throttle).max(now))
    }

    /// The throttle in force.
    pub fn throttled(&self, now: Duration) -> Option<&Throttle> {
        self.throttle.as_ref().filter(|throttle| throttle.until > now)
    }

    /// The upstream answered 429: nothing starts until then. Gives back every key in line, whose callers are to be told.
    pub fn silence(&mut self, throttle: Throttle) -> Vec<Arc<Key>> {
        self.throttles = self.throttles.saturating_add(1);
        if self.throttle.as_ref().is_none_or(|old| old.until < throttle.until) {
            self.throttle = Some(throttle);
        }
        std::iter::from_fn(|| self.take_next()).collect()
    }

    /// The upstream answered something else: the next throttle is the first in a row.
    pub fn not_throttled(&mut self) {
        self.throttles = 0;
    }

    /// 429s in a row so far.
    pub fn throttles(&self) -> u32 {
        self.throttles
    }

    fn take_next(&mut self) -> Option<Arc<Key>> {
        let lane = self.turns.pop_front()?;
        let (key, empty) = match lane {
            Lane::Refresh => (
                self.refreshes.pop_first().map(|(_, key)| key),
                self.refreshes.is_empty(),
            ),
            Lane::Caller(uid) => {
                let queue = self.callers.entry(uid).or_default();
                let key = queue.pop_front();
                let empty = queue.is_empty();
                if empty {
                    self.callers.remove(&uid);
                }
                (key, empty)
            }
        };
        if !empty {
            self.turns.push_back(lane);
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Identity, Resource};

    fn key(name: &str) -> Arc<Key> {
        Arc::new(Key::new(Resource::new(name).unwrap(), Identity::Default))
    }

    fn names(governor: &mut Governor, now: Duration) -> Vec<String> {
        std::iter::from_fn(|| governor.start_next(now))
            .map(|key| key.resource.to_string())
            .collect()
    }

    #[test]
    fn lanes_take_turns_and_refreshes_go_by_expiry() {
        let mut governor = Governor::new(100, 100);
        for name in ["a1", "a2", "a3"] {
            governor.enqueue(key(name), Lane::Caller(1), Duration::ZERO);
        }
        governor.enqueue(key("late"), Lane::Refresh, Duration::from_secs(90));
        governor.enqueue(key("soon"), Lane::Refresh, Duration::from_secs(30));
        governor.enqueue(key("b1"), Lane::Caller(2), Duration::ZERO);
        assert_eq!(
            names(&mut governor, Duration::from_secs(5)),
            ["a1", "soon", "b1", "a2", "late", "a3"]
        );
    }

    #[test]
    fn no_second_sees_more_starts_than_allowed_and_no_moment_more_at_once() {
        let mut governor = Governor::new(3, 5);
        for i in 0..20 {
            governor.enqueue(key(&format!("k{i}")), Lane::Caller(1), Duration::ZERO);
        }
        let at = Duration::from_millis;
        assert_eq!(names(&mut governor, at(0)).len(), 3, "at once");
        assert_eq!(governor.may_start_at(at(0)), None, "a fetch must end first");
        for _ in 0..3 {
            governor.finished();
        }
        assert_eq!(names(&mut governor, at(600)).len(), 2, "five within the second");
        governor.finished();
        governor.finished();
        assert_eq!(governor.may_start_at(at(700)), Some(at(1000)));
        assert_eq!(names(&mut governor, at(999)).len(), 0);
        assert_eq!(
            names(&mut governor, at(1000)).len(),
            3,
            "the first three have left the window, concurrency binds"
        );
    }

    #[test]
    fn a_throttle_silences_everybody_and_gives_back_those_in_line() {
        let mut governor = Governor::new(1, 1);
        governor.enqueue(key("a"), Lane::Caller(1), Duration::ZERO);
        governor.enqueue(key("b"), Lane::Refresh, Duration::ZERO);
        let failure = Arc::new(Failure::new(crate::failure::Class::Throttled(None), "HTTP 429"));
        let until = Duration::from_secs(9);
        assert_eq!(
            governor
                .silence(Throttle {
                    until,
                    failure: failure.clone()
                })
                .len(),
            2
        );
        governor.silence(Throttle {
            until: Duration::from_secs(4),
            failure,
        });
        governor.enqueue(key("c"), Lane::Caller(1), Duration::ZERO);
        assert_eq!(
            governor.may_start_at(Duration::from_secs(3)),
            Some(until),
            "the longer throttle stands"
        );
        assert_eq!(names(&mut governor, Duration::from_secs(8)), Vec::<String>::new());
        assert_eq!(names(&mut governor, until), ["c"]);
    }
}
