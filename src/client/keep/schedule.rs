//! Decides when to ask the daemon for which token, and when a token has expired. It does no I/O and reads no clock.

use std::time::Duration;

use crate::clock::Now;

/// The pause between two requests for the same token. The daemon may have a newer one at any time.
const LOOK: Duration = Duration::from_secs(30);
/// The shortest pause between two requests for the same token.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(10);
/// The clocks are read this often: a timer does not notice that the machine slept or that its clock was set.
const GLANCE: Duration = Duration::from_secs(5);
/// Requests under way at once. It is far below the daemon's bound for one user, and requests that the daemon holds do not
/// block the others.
const MAX_ASKING: usize = 32;

/// The schedule of all tokens.
#[derive(Debug)]
pub struct Schedule(Vec<Course>);

/// The schedule of one token.
#[derive(Debug)]
struct Course {
    life: Option<Life>,
    /// When to ask again, by the boot-time clock.
    next: Duration,
    asking: bool,
}

/// When a token ends, by each clock. The first of the two ends it.
#[derive(Clone, Copy, Debug)]
struct Life {
    wall: Duration,
    boot: Duration,
}

impl Schedule {
    /// A schedule of this many tokens; all are due now.
    pub fn new(tokens: usize, now: Now) -> Self {
        let course = || Course {
            life: None,
            next: now.boot,
            asking: false,
        };
        Self(std::iter::repeat_with(course).take(tokens).collect())
    }

    /// The tokens to ask for now. Each needs a call of [`Schedule::got`] or [`Schedule::failed`].
    pub fn due(&mut self, now: Now) -> Vec<usize> {
        let free = MAX_ASKING.saturating_sub(self.0.iter().filter(|course| course.asking).count());
        let due = self.0.iter_mut().enumerate();
        let due = due.filter(|(_, course)| !course.asking && course.next <= now.boot);
        due.take(free)
            .map(|(index, course)| {
                course.asking = true;
                index
            })
            .collect()
    }

    /// A token came that ends at `expires_on`, and `left` from now by the daemon's clocks. It is asked for again after at
    /// most half of what is left. Returns whether it can be used.
    pub fn got(&mut self, index: usize, expires_on: Duration, left: Duration, now: Now) -> bool {
        let life = Life {
            wall: expires_on,
            boot: now.boot.saturating_add(left),
        };
        let left = life.left(now);
        let Some(course) = self.0.get_mut(index) else {
            return false;
        };
        course.asking = false;
        course.next = now.boot + (left / 2).clamp(SHORTEST, LOOK);
        course.life = (!left.is_zero()).then_some(life);
        course.life.is_some()
    }

    /// A request failed; `pause` is the wait that the daemon asks for. The former token stays in use.
    pub fn failed(&mut self, index: usize, pause: Option<Duration>, now: Now) {
        if let Some(course) = self.0.get_mut(index) {
            course.asking = false;
            course.next = now.boot + pause.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        }
    }

    /// The former process left a token that ends at `expires_on`.
    pub fn had(&mut self, index: usize, expires_on: Duration, now: Now) {
        if let Some(course) = self.0.get_mut(index) {
            course.life = Some(Life {
                wall: expires_on,
                boot: now.boot + expires_on.saturating_sub(now.wall),
            });
        }
    }

    /// The tokens that have expired. Each is returned once, and is due at once.
    pub fn expired(&mut self, now: Now) -> Vec<usize> {
        let courses = self.0.iter_mut().enumerate();
        let expired = courses.filter(|(_, course)| course.life.is_some_and(|life| life.left(now).is_zero()));
        expired
            .map(|(index, course)| {
                course.life = None;
                course.next = course.next.min(now.boot);
                index
            })
            .collect()
    }

    /// How long to sleep, unless an answer comes before.
    pub fn wait(&self, now: Now) -> Duration {
        let asks = self.0.iter().filter(|course| !course.asking);
        let asks = asks.map(|course| course.next.saturating_sub(now.boot));
        let ends = self.0.iter().filter_map(|course| course.life);
        let ends = ends.map(|life| life.left(now));
        // With MAX_ASKING requests under way a due token has to wait; the least pause keeps the loop from spinning.
        asks.chain(ends)
            .min()
            .map_or(GLANCE, |wait| wait.clamp(Duration::from_millis(50), GLANCE))
    }
}

impl Life {
    fn left(self, now: Now) -> Duration {
        let (wall, boot) = (self.wall.saturating_sub(now.wall), self.boot.saturating_sub(now.boot));
        wall.min(boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Both clocks, so long after the beginning.
    fn at(since: u64) -> Now {
        Now {
            wall: seconds(1_764_010_000 + since),
            boot: seconds(1000 + since),
        }
    }

    /// A schedule of one token that lives for `life` from the beginning on.
    fn kept(life: Duration) -> Schedule {
        let mut schedule = Schedule::new(1, at(0));
        assert_eq!(schedule.due(at(0)), [0]);
        assert!(schedule.got(0, at(0).wall + life, life, at(0)));
        schedule
    }

    /// The first second in which a token is asked for.
    fn next(schedule: &mut Schedule) -> u64 {
        (0..=3600).find(|second| !schedule.due(at(*second)).is_empty()).unwrap()
    }

    #[test]
    fn a_newer_token_is_looked_for_every_30_s_and_at_the_half_of_a_short_life() {
        assert_eq!(next(&mut kept(DAY)), 30);
        assert_eq!(next(&mut kept(seconds(40))), 20);
        assert_eq!(next(&mut kept(seconds(1))), 1);
    }

    #[test]
    fn a_question_under_way_is_not_asked_twice_and_others_are_not_too_many() {
        let mut schedule = Schedule::new(100, at(0));
        assert_eq!(schedule.due(at(0)).len(), MAX_ASKING);
        assert!(schedule.due(at(0)).is_empty());
        schedule.failed(7, None, at(0));
        assert_eq!(schedule.due(at(1)), [MAX_ASKING]);
        assert!(schedule.wait(at(1)) > Duration::ZERO);
    }

    #[test]
    fn a_failure_is_tried_again_soon_and_what_there_is_lives_on() {
        for (pause, second) in [
            (None, 40),
            (Some(Duration::ZERO), 31),
            (Some(seconds(3)), 33),
            (Some(DAY), 40),
        ] {
            let mut schedule = kept(DAY);
            assert_eq!(next(&mut schedule), 30);
            schedule.failed(0, pause, at(30));
            assert_eq!(next(&mut schedule), second);
            assert!(schedule.expired(at(24 * 3600 - 1)).is_empty());
        }
    }

    #[test]
    fn a_token_expires_once_by_whichever_clock_says_so_first() {
        let mut schedule = kept(seconds(600));
        assert!(schedule.expired(at(599)).is_empty());
        assert_eq!(
            (schedule.expired(at(600)), schedule.expired(at(601))),
            (vec![0], vec![])
        );
        assert_eq!(schedule.due(at(600)), [0]);
        let (mut set_forward, mut slept) = (at(1), at(1));
        set_forward.wall = at(600).wall;
        slept.boot = at(600).boot;
        for now in [set_forward, slept] {
            assert_eq!(kept(seconds(600)).expired(now), [0]);
        }
        let mut set_back = at(600);
        set_back.wall = at(0).wall;
        assert_eq!(kept(seconds(600)).expired(set_back), [0]);
    }

    #[test]
    fn a_token_that_is_over_when_it_comes_is_not_used_and_one_from_before_is_watched() {
        let mut schedule = Schedule::new(1, at(0));
        assert_eq!(schedule.due(at(0)), [0]);
        assert!(!schedule.got(0, at(0).wall, seconds(60), at(0)));
        assert_eq!(next(&mut schedule), 1);
        schedule.had(0, at(5).wall, at(0));
        assert!(schedule.expired(at(4)).is_empty());
        assert_eq!(schedule.expired(at(5)), [0]);
    }

    /// The machine may sleep, and its clock be set, while a timer runs: within 10 s all is seen.
    #[test]
    fn nothing_is_slept_through() {
        assert_eq!(kept(DAY).wait(at(0)), GLANCE);
        assert_eq!(kept(seconds(4)).wait(at(1)), seconds(1));
        assert_eq!(Schedule::new(0, at(0)).wait(at(0)), GLANCE);
    }
}
