//! How many requests may be under way to the upstream, and whose turn it is.
//!
//! The VM's endpoint allows 20 requests a second and 5 at once for the whole machine (`docs/protocol.md`, "Limits", row
//! "Rate"), so every fetch passes here. Each uid's misses wait in a lane of their own and refreshes share one more;
//! lanes take turns, so nobody's flood of misses delays anybody else by more than one request a turn. Neither do slow
//! fetches: no uid that has a slot takes the last one, nor more than its share of the starts ([`crate::fairness`]). So it takes
//! as many uids with slow fetches as there are slots to make another one wait.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::lanes::{Lane, Lanes};
use crate::failure::Failure;
use crate::fairness;
use crate::key::Key;

/// No more than `max_per_second` starts fall into any span of this length. It is longer than a second, because requests
/// that start a second apart may reach the endpoint less than that apart.
const WINDOW: Duration = Duration::from_millis(1100);

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
    /// In all.
    used: Used,
    /// By the lanes of these uids, where there is anything.
    used_by: HashMap<u32, Used>,
    /// The lane in whose turn each key started.
    running: HashMap<Arc<Key>, Lane>,
    throttle: Option<Throttle>,
    /// Rounds of 429s in a row, and when the latest began.
    rounds: u32,
    round_began: Option<Duration>,
    lanes: Lanes,
}

/// Fetches that count at this moment.
#[derive(Debug, Default)]
struct Used {
    slots: usize,
    /// The starts within the window, oldest first.
    starts: VecDeque<Duration>,
}

impl Governor {
    /// Both bounds are at least 1.
    pub fn new(max_concurrent: usize, max_per_second: usize) -> Self {
        Self {
            max_concurrent,
            max_per_second,
            used: Used::default(),
            used_by: HashMap::new(),
            running: HashMap::new(),
            throttle: None,
            rounds: 0,
            round_began: None,
            lanes: Lanes::default(),
        }
    }

    /// Takes over new bounds; what runs goes on.
    pub fn set_bounds(&mut self, max_concurrent: usize, max_per_second: usize) {
        (self.max_concurrent, self.max_per_second) = (max_concurrent, max_per_second);
    }

    /// Puts a key in line, also where it stands in another lane already. Within [`Lane::Refresh`] the earliest `expiry`
    /// goes first, within the others who came first.
    pub fn enqueue(&mut self, key: &Arc<Key>, lane: Lane, expiry: Duration) {
        self.lanes.enqueue(key, lane, expiry);
    }

    /// Whether the key waits for its turn.
    pub fn is_in_line(&self, key: &Key) -> bool {
        self.lanes.contain(key)
    }

    /// The key whose fetch may start now, if any may, and the lane whose turn it is; it counts as running from here on.
    pub fn start_next(&mut self, now: Duration) -> Option<(Arc<Key>, Lane)> {
        self.used.forget(now);
        self.used_by.retain(|_, used| used.forget(now));
        if self.all_may_start_at(now)? > now {
            return None;
        }
        let may_start = |lane: &Lane| self.lane_may_start_at(*lane, now) == Some(now);
        let lane = self.lanes.in_turn().find(may_start)?;
        let key = self.lanes.take_from(lane)?;
        self.used.add(now);
        if let Lane::Caller(uid) = lane {
            self.used_by.entry(uid).or_default().add(now);
        }
        self.running.insert(key.clone(), lane);
        Some((key, lane))
    }

    /// The key's fetch ended.
    pub fn finished(&mut self, key: &Key) {
        let Some(lane) = self.running.remove(key) else { return };
        self.used.free_slot();
        if let Lane::Caller(uid) = lane
            && let Some(used) = self.used_by.get_mut(&uid)
        {
            used.free_slot();
        }
    }

    /// When the next start may come, if somebody is in line and no running fetch must end first.
    pub fn may_start_at(&self, now: Duration) -> Option<Duration> {
        if self.lanes.are_empty() {
            return None;
        }
        let all = self.all_may_start_at(now)?;
        let mut soonest = None;
        for at in self
            .lanes
            .in_turn()
            .filter_map(|lane| self.lane_may_start_at(lane, now))
        {
            if at <= all {
                return Some(all);
            }
            soonest = soonest.into_iter().chain([at]).min();
        }
        soonest
    }

    fn all_may_start_at(&self, now: Duration) -> Option<Duration> {
        let at = self.used.may_start_at(now, self.max_concurrent, self.max_per_second)?;
        let throttle = self.throttled(now).map_or(now, |throttle| throttle.until);
        Some(at.max(throttle))
    }

    /// As far as the lane's own share goes.
    fn lane_may_start_at(&self, lane: Lane, now: Duration) -> Option<Duration> {
        let Lane::Caller(uid) = lane else { return Some(now) };
        let Some(used) = self.used_by.get(&uid) else {
            return Some(now);
        };
        let slots = fairness::slots_for_more(self.max_concurrent);
        if used.slots > 0 && self.used.slots >= slots {
            return None;
        }
        used.may_start_at(now, slots.max(1), fairness::starts_of_one(self.max_per_second))
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
        std::iter::from_fn(|| {
            let lane = self.lanes.in_turn().next()?;
            self.lanes.take_from(lane)
        })
        .collect()
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
}

impl Used {
    /// When one more may start, or `None` while one must end first.
    fn may_start_at(&self, now: Duration, slots: usize, starts: usize) -> Option<Duration> {
        if self.slots >= slots {
            return None;
        }
        let excess = self.starts.len().checked_sub(starts);
        let oldest = excess.and_then(|excess| self.starts.get(excess));
        Some(oldest.map_or(now, |oldest| now.max(oldest.saturating_add(WINDOW))))
    }

    fn add(&mut self, now: Duration) {
        self.slots += 1;
        self.starts.push_back(now);
    }

    fn free_slot(&mut self) {
        self.slots = self.slots.saturating_sub(1);
    }

    /// Forgets starts that matter no more. Whether anything is left.
    fn forget(&mut self, now: Duration) -> bool {
        while self
            .starts
            .front()
            .is_some_and(|start| start.saturating_add(WINDOW) <= now)
        {
            self.starts.pop_front();
        }
        self.slots > 0 || !self.starts.is_empty()
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
            .map(|(key, _)| key.resource.to_string())
            .collect()
    }

    fn finish(governor: &mut Governor, names: &[String]) {
        for name in names {
            governor.finished(&key(name));
        }
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
            governor.enqueue(&key(&format!("k{i}")), Lane::Refresh, Duration::from_secs(i));
        }
        let at = Duration::from_millis;
        let first = names(&mut governor, at(0));
        assert_eq!(first.len(), 3, "at once");
        assert_eq!(governor.may_start_at(at(0)), None, "a fetch must end first");
        finish(&mut governor, &first);
        let second = names(&mut governor, at(600));
        assert_eq!(second.len(), 2, "five within the second");
        finish(&mut governor, &second);
        assert_eq!(governor.may_start_at(at(700)), Some(at(1100)));
        assert_eq!(names(&mut governor, at(1099)).len(), 0);
        assert_eq!(
            names(&mut governor, at(1100)).len(),
            3,
            "the first three have left the window, concurrency binds"
        );
    }

    #[test]
    fn one_uid_has_neither_the_last_slot_nor_all_starts_of_a_second() {
        let mut governor = Governor::new(4, 10);
        for i in 0..40 {
            governor.enqueue(&key(&format!("a{i}")), Lane::Caller(1), Duration::ZERO);
        }
        let at = Duration::from_millis;
        let slow = names(&mut governor, at(0));
        assert_eq!(slow, ["a0", "a1", "a2"]);
        assert_eq!(governor.may_start_at(at(0)), None, "one of its own must end first");
        governor.enqueue(&key("b"), Lane::Caller(2), Duration::ZERO);
        assert_eq!(names(&mut governor, at(0)), ["b"], "the last one is another's");
        finish(&mut governor, &["b".to_owned()]);
        let mut running = slow;
        for _ in 0..2 {
            finish(&mut governor, &running);
            running = names(&mut governor, at(10));
        }
        finish(&mut governor, &running);
        assert_eq!(running, ["a6", "a7"], "eight of the ten starts");
        assert_eq!(governor.may_start_at(at(20)), Some(at(1100)));
        governor.enqueue(&key("c"), Lane::Caller(3), Duration::ZERO);
        assert_eq!(governor.may_start_at(at(20)), Some(at(20)));
        assert_eq!(names(&mut governor, at(20)), ["c"]);
        assert_eq!(names(&mut governor, at(1100)), ["a8", "a9"], "beside the third's");
        governor.set_bounds(1, 1);
        finish(&mut governor, &["a8", "a9", "c"].map(str::to_owned));
        assert_eq!(names(&mut governor, at(3000)), ["a10"], "of one it may have that one");
    }

    #[test]
    fn who_has_a_slot_does_not_take_the_last() {
        let mut governor = Governor::new(4, 10);
        let now = Duration::ZERO;
        for i in 0..4 {
            governor.enqueue(&key(&format!("a{i}")), Lane::Caller(1), now);
            governor.enqueue(&key(&format!("b{i}")), Lane::Caller(2), now);
        }
        assert_eq!(names(&mut governor, now), ["a0", "b0", "a1"]);
        assert_eq!(governor.may_start_at(now), None, "one of theirs must end first");
        governor.enqueue(&key("c0"), Lane::Caller(3), now);
        governor.enqueue(&key("c1"), Lane::Caller(3), now);
        assert_eq!(names(&mut governor, now), ["c0"], "the last one is a third's");
        finish(&mut governor, &["a0".to_owned()]);
        governor.enqueue(&key("ahead"), Lane::Refresh, now);
        assert_eq!(names(&mut governor, now), ["ahead"], "or for what is renewed ahead");
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
        assert!(governor.lanes.are_empty() && governor.lanes.in_turn().next().is_none());
        finish(&mut governor, &["a0", "a1", "a2", "a3", "a4", "b"].map(str::to_owned));
        assert_eq!(governor.start_next(2 * WINDOW), None);
        assert!(governor.used_by.is_empty(), "nothing is kept of who has nothing");
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
