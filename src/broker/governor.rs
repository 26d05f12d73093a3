//! How many requests may be under way to the upstream, and whose turn it is.
//!
//! The VM's endpoint allows 20 requests a second and 5 at once for the whole machine (`docs/protocol.md`, "Limits", row
//! "Rate"), so every fetch passes here. Each uid's misses wait in a lane of their own and refreshes share one more;
//! lanes take turns, so nobody's flood of misses delays anybody else by more than one request a turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::key::Key;

/// No more than `max_per_second` starts fall into any span of this length. It is longer than a second, because requests
/// that start a second apart may reach the endpoint less than that apart.
const WINDOW: Duration = Duration::from_millis(1100);

/// Who waits for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Tokens that are renewed ahead, soonest expiry first.
    Refresh,
    /// A caller of this uid waits.
    Caller(u32),
}

/// A 429 of the upstream: until its end nothing is asked for any key.
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
    /// Rounds of 429s in a row, and when the latest began.
    rounds: u32,
    round_began: Option<Duration>,
    /// Lanes that have a queue; the first has the turn.
    turns: VecDeque<Lane>,
    /// Keys in line, by their order within each lane.
    queues: HashMap<Lane, BTreeSet<(u128, Arc<Key>)>>,
    /// Where each key stands. It may stand in several lanes and starts from the one whose turn comes first.
    places: HashMap<Arc<Key>, Vec<(Lane, u128)>>,
    last_ticket: u128,
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
            rounds: 0,
            round_began: None,
            turns: VecDeque::new(),
            queues: HashMap::new(),
            places: HashMap::new(),
            last_ticket: 0,
        }
    }

    /// Takes over new bounds; what runs goes on.
    pub fn set_bounds(&mut self, max_concurrent: usize, max_per_second: usize) {
        (self.max_concurrent, self.max_per_second) = (max_concurrent, max_per_second);
    }

    /// Puts a key in line, also where it stands in another lane already. Within [`Lane::Refresh`] the earliest `expiry`
    /// goes first, within the others who came first.
    pub fn enqueue(&mut self, key: &Arc<Key>, lane: Lane, expiry: Duration) {
        let places = self.places.entry(key.clone()).or_default();
        if places.iter().any(|(known, _)| *known == lane) {
            return;
        }
        let order = match lane {
            Lane::Refresh => expiry.as_nanos(),
            Lane::Caller(_) => {
                self.last_ticket += 1;
                self.last_ticket
            }
        };
        places.push((lane, order));
        let queue = self.queues.entry(lane).or_insert_with(|| {
            self.turns.push_back(lane);
            BTreeSet::new()
        });
        queue.insert((order, key.clone()));
    }

    /// Whether the key waits for its turn.
    pub fn is_in_line(&self, key: &Key) -> bool {
        self.places.contains_key(key)
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
        if self.places.is_empty() || self.running >= self.max_concurrent {
            return None;
        }
        let excess = self.starts.len().checked_sub(self.max_per_second);
        let window = excess
            .and_then(|i| self.starts.get(i))
            .map_or(now, |oldest| oldest.saturating_add(WINDOW));
        let throttle = self.throttled(now).map_or(now, |throttle| throttle.until);
        Some(window.max(throttle).max(now))
    }

    /// Another upstream is asked from now on; the 429s of the former one do not count.
    pub fn forget_throttles(&mut self) {
        (self.throttle, self.rounds, self.round_began) = (None, 0, None);
    }

    /// The throttle in force.
    pub fn throttled(&self, now: Duration) -> Option<&Throttle> {
        self.throttle.as_ref().filter(|throttle| throttle.until > now)
    }

    /// How many rounds of 429s came in a row before the one that answers a request which started at `started`. Answers
    /// to requests that were under way together are one round.
    pub fn rounds_before(&self, started: Duration) -> u32 {
        if self.is_news(started) {
            self.rounds
        } else {
            self.rounds.saturating_sub(1)
        }
    }

    /// A request that started at `started` was answered by a 429: nothing starts until the throttle's end. Gives back
    /// every key in line.
    pub fn silence(&mut self, now: Duration, started: Duration, throttle: Throttle) -> Vec<Arc<Key>> {
        if self.is_news(started) {
            self.rounds = self.rounds.saturating_add(1);
            self.round_began = Some(now);
        }
        if self.throttle.as_ref().is_none_or(|old| old.until < throttle.until) {
            self.throttle = Some(throttle);
        }
        std::iter::from_fn(|| self.take_next()).collect()
    }

    /// A request that started at `started` was answered by anything but a 429. Gives back how many rounds of 429s have
    /// ended with it.
    pub fn answered(&mut self, started: Duration) -> u32 {
        if self.is_news(started) {
            std::mem::take(&mut self.rounds)
        } else {
            0
        }
    }

    /// Whether a request that started then saw an upstream that had answered the last 429 before.
    pub fn is_news(&self, started: Duration) -> bool {
        self.round_began.is_none_or(|began| started > began)
    }

    fn take_next(&mut self) -> Option<Arc<Key>> {
        while let Some(lane) = self.turns.pop_front() {
            let Some(mut queue) = self.queues.remove(&lane) else {
                continue;
            };
            let first = queue.pop_first();
            if !queue.is_empty() {
                self.queues.insert(lane, queue);
                self.turns.push_back(lane);
            }
            // A queue is empty where its keys started from other lanes.
            let Some((_, key)) = first else { continue };
            for (lane, order) in self.places.remove(&key).into_iter().flatten() {
                if let Some(queue) = self.queues.get_mut(&lane) {
                    queue.remove(&(order, key.clone()));
                }
            }
            return Some(key);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Cause, Class};
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
            governor.enqueue(&key(name), Lane::Caller(1), Duration::ZERO);
        }
        governor.enqueue(&key("late"), Lane::Refresh, Duration::from_secs(90));
        governor.enqueue(&key("soon"), Lane::Refresh, Duration::from_secs(30));
        governor.enqueue(&key("b1"), Lane::Caller(2), Duration::ZERO);
        assert_eq!(
            names(&mut governor, Duration::from_secs(5)),
            ["a1", "soon", "b1", "a2", "late", "a3"]
        );
    }

    #[test]
    fn no_second_sees_more_starts_than_allowed_and_no_moment_more_at_once() {
        let mut governor = Governor::new(3, 5);
        for i in 0..20 {
            governor.enqueue(&key(&format!("k{i}")), Lane::Caller(1), Duration::ZERO);
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
        assert_eq!(governor.may_start_at(at(700)), Some(at(1100)));
        assert_eq!(names(&mut governor, at(1099)).len(), 0);
        assert_eq!(
            names(&mut governor, at(1100)).len(),
            3,
            "the first three have left the window, concurrency binds"
        );
    }

    #[test]
    fn a_throttle_silences_everybody_and_gives_back_those_in_line() {
        let mut governor = Governor::new(1, 1);
        governor.enqueue(&key("a"), Lane::Caller(1), Duration::ZERO);
        governor.enqueue(&key("b"), Lane::Refresh, Duration::ZERO);
        let failure = Arc::new(Failure::new(Class::Throttled(None), Cause::Status, "HTTP 429"));
        let until = Duration::from_secs(9);
        assert_eq!(
            governor
                .silence(
                    Duration::from_secs(1),
                    Duration::ZERO,
                    Throttle {
                        until,
                        failure: failure.clone()
                    }
                )
                .len(),
            2
        );
        let shorter = Throttle {
            until: Duration::from_secs(4),
            failure,
        };
        governor.silence(Duration::from_secs(2), Duration::ZERO, shorter);
        governor.enqueue(&key("c"), Lane::Caller(1), Duration::ZERO);
        assert_eq!(
            governor.may_start_at(Duration::from_secs(3)),
            Some(until),
            "the longer throttle stands"
        );
        assert_eq!(names(&mut governor, Duration::from_secs(8)), Vec::<String>::new());
        assert_eq!(names(&mut governor, until), ["c"]);
    }

    #[test]
    fn a_key_that_a_second_uid_waits_for_starts_from_the_lane_whose_turn_comes_first() {
        let mut governor = Governor::new(100, 100);
        for i in 0..5 {
            governor.enqueue(&key(&format!("a{i}")), Lane::Caller(1), Duration::ZERO);
        }
        governor.enqueue(&key("a4"), Lane::Caller(2), Duration::ZERO);
        governor.enqueue(&key("a4"), Lane::Caller(2), Duration::ZERO);
        governor.enqueue(&key("b"), Lane::Caller(2), Duration::ZERO);
        assert!(governor.is_in_line(&key("a4")));
        assert_eq!(
            names(&mut governor, Duration::ZERO),
            ["a0", "a4", "a1", "b", "a2", "a3"]
        );
        assert!(!governor.is_in_line(&key("a4")));
        assert_eq!(governor.may_start_at(Duration::ZERO), None);
        assert!(governor.queues.is_empty() && governor.turns.is_empty() && governor.places.is_empty());
    }

    #[test]
    fn answers_to_requests_that_ran_together_are_one_round_of_throttles() {
        let mut governor = Governor::new(9, 9);
        let at = Duration::from_secs;
        let failure = Arc::new(Failure::new(Class::Throttled(None), Cause::Status, "HTTP 429"));
        let throttle = |until| Throttle {
            until: at(until),
            failure: failure.clone(),
        };
        assert_eq!(governor.rounds_before(at(1)), 0);
        governor.silence(at(2), at(1), throttle(3));
        assert_eq!(governor.rounds_before(at(1)), 0, "the same round");
        governor.silence(at(2), at(1), throttle(3));
        assert_eq!(
            governor.answered(at(2)),
            0,
            "it says nothing of the upstream after the 429"
        );
        assert_eq!(governor.rounds_before(at(3)), 1);
        governor.silence(at(4), at(3), throttle(6));
        assert_eq!(governor.answered(at(6)), 2);
        assert_eq!(governor.rounds_before(at(7)), 0);
    }
}
