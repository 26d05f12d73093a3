//! The life of one key: what it has, what it waits for, and what a caller of it gets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Streak;
use super::event::{Effect, Note, Served, WaiterId};
use super::governor::Governor;
use super::lanes::Lane;
use super::lifetime::{LOW, Lease};
use crate::clock::Now;
use crate::failure::{Class, Failure};
use crate::key::Key;

/// One key is fetched by `bypass_cache` or `token_sha256_to_refresh` this often at most.
const FORCE_INTERVAL: Duration = Duration::from_secs(30);
/// A token with little left is asked for again this long after the last try.
const LOW_INTERVAL: Duration = Duration::from_secs(30);
/// A caller whose token has little left waits this long for a better one.
const LOW_WAIT: Duration = Duration::from_secs(2);
/// A key without a token is tried again while somebody asked within this time.
const INTEREST: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Slot {
    pub key: Arc<Key>,
    /// Its place in the order in which keys came.
    pub number: u64,
    /// The uid whose bound counts this slot: the first that asked, or one of those that asked since.
    pub owner: u32,
    /// Another uid that asked, the latest of them: who uses a key with others does not throw its token out.
    pub other: Option<u32>,
    /// Kept for ever by the configuration.
    pub warm: bool,
    pub lease: Option<Lease>,
    pub flight: Option<Flight>,
    /// When to ask the upstream next, on the boot-time clock.
    pub next_try: Duration,
    /// When a fetch last started.
    pub last_try: Option<Duration>,
    /// When a caller last forced a fetch, or a forced fetch last started.
    pub forced_at: Option<Duration>,
    /// What has failed since the last good reply: boxed, since few have failed.
    pub trouble: Option<Box<Failing>>,
    /// The expiry of this token was noted already.
    pub lapse_told: bool,
    /// When somebody last asked; the slot's creation where nobody did.
    pub last_asked: Duration,
    /// Answers given from the cache.
    pub hits: u64,
    pub waiters: BTreeSet<WaiterId>,
    /// Where the slot stands in the broker's queue.
    pub due: Option<Duration>,
}

/// The one fetch of a key.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// When it was asked for.
    pub since: Duration,
    /// The upstream is to answer past its own cache.
    pub bypass: bool,
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub struct Failing {
    /// The last failure.
    pub failure: Arc<Failure>,
    /// Counts them for the next back-off.
    pub streak: Streak,
    /// How many there were.
    pub failures: u32,
    /// Callers without a token are held until the next try.
    pub hold_callers: bool,
    /// The classes of failure that were noted already; throttles are noted for all keys together.
    pub told: Vec<String>,
}

/// What a caller wants of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The token that is cached.
    Current,
    /// A new one.
    Fresh,
}

/// What is done about one request.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Answer from the cache.
    Serve,
    /// Wait for the flight, or the next try, until then.
    Join(Duration),
    /// Ask the upstream and wait until then.
    Start { until: Duration, bypass: bool },
    /// The same failure still holds until then.
    Fail(Arc<Failure>, Duration),
}

impl Failing {
    /// No failure counted yet.
    pub fn new(failure: Arc<Failure>) -> Self {
        Self {
            failure,
            streak: Streak::default(),
            failures: 0,
            hold_callers: false,
            told: Vec::new(),
        }
    }

    /// Whether a failure of this class is to be noted: true once for each class.
    pub fn is_first_of(&mut self, class: &Class) -> bool {
        let name = class.name();
        let first = !matches!(class, Class::Throttled(_)) && !self.told.iter().any(|told| told == name);
        if first {
            self.told.push(name.to_owned());
        }
        first
    }
}

impl Slot {
    /// A slot that is due at once.
    pub fn new(key: Arc<Key>, owner: u32, warm: bool, now: Duration) -> Self {
        Self {
            key,
            number: 0,
            owner,
            other: None,
            warm,
            lease: None,
            flight: None,
            next_try: now,
            last_try: None,
            forced_at: None,
            trouble: None,
            lapse_told: false,
            last_asked: now,
            hits: 0,
            waiters: BTreeSet::new(),
            due: None,
        }
    }

    /// What is left of the token; zero without one.
    pub fn left(&self, now: Now) -> Duration {
        self.lease.as_ref().map_or(Duration::ZERO, |lease| lease.left(now))
    }

    /// Whether its token can be served.
    pub fn is_live(&self, now: Now) -> bool {
        !self.left(now).is_zero()
    }

    /// The bytes of its token, live or not.
    pub fn size(&self) -> usize {
        self.lease.as_ref().map_or(0, |lease| lease.token.size())
    }

    /// The token as an answer, unless it has expired.
    pub fn served(&self, now: Now) -> Option<Served> {
        let lease = self.lease.as_ref()?;
        let left = lease.left(now);
        (!left.is_zero()).then(|| Served {
            token: lease.token.clone(),
            left,
        })
    }

    /// The upstream is asked within this time at the latest.
    pub fn try_within(&mut self, now: Now, latest: Duration) {
        self.next_try = self.next_try.min(now.boot.saturating_add(latest));
    }

    /// Notes, once, that the token has expired because it could not be renewed.
    pub fn note_lapse(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let (Some(lease), Some(trouble)) = (&self.lease, &self.trouble)
            && !self.lapse_told
            && lease.left(now).is_zero()
        {
            effects.push(Effect::Note(Note::Lapsed {
                key: self.key.clone(),
                expires_on: lease.token.expires_on(),
                failure: trouble.failure.clone(),
                failures: trouble.failures,
            }));
            self.lapse_told = true;
        }
    }

    /// Decides one request, and moves `next_try` ahead where the token has little left.
    pub fn ask(&mut self, now: Now, want: Want, governor: &Governor, caller_wait: Duration) -> Plan {
        self.last_asked = now.boot;
        let until = now.boot.saturating_add(caller_wait);
        let left = self.left(now);
        if left.is_zero() {
            self.without_token(now.boot, want, governor, until)
        } else if want == Want::Fresh {
            self.forced(now.boot, governor, until)
        } else if left < LOW {
            self.running_low(now.boot, governor)
        } else {
            Plan::Serve
        }
    }

    fn without_token(&self, now: Duration, want: Want, governor: &Governor, until: Duration) -> Plan {
        if self.flight.is_some() {
            return Plan::Join(until);
        }
        if let Some(throttle) = governor.throttled(now) {
            return Plan::Fail(throttle.failure.clone(), throttle.until);
        }
        match &self.trouble {
            Some(trouble) if now < self.next_try && trouble.hold_callers => Plan::Join(until),
            Some(trouble) if now < self.next_try => Plan::Fail(trouble.failure.clone(), self.next_try),
            _ => Plan::Start {
                until,
                bypass: want == Want::Fresh,
            },
        }
    }

    fn forced(&mut self, now: Duration, governor: &Governor, until: Duration) -> Plan {
        if self.flight.is_some() {
            return Plan::Join(until);
        }
        let lately = self.forced_at.is_some_and(|at| now < at.saturating_add(FORCE_INTERVAL));
        if lately || self.must_keep_still(now, governor) {
            return Plan::Serve;
        }
        self.forced_at = Some(now);
        Plan::Start { until, bypass: true }
    }

    fn running_low(&mut self, now: Duration, governor: &Governor) -> Plan {
        if self.trouble.is_some() || governor.throttled(now).is_some() {
            return Plan::Serve;
        }
        if let Some(flight) = self.flight {
            let until = flight.since.saturating_add(LOW_WAIT);
            return if now < until { Plan::Join(until) } else { Plan::Serve };
        }
        let soonest = self.last_try.map_or(now, |last| last.saturating_add(LOW_INTERVAL));
        self.next_try = self.next_try.min(soonest);
        if now < self.next_try {
            Plan::Serve
        } else {
            Plan::Start {
                until: now.saturating_add(LOW_WAIT),
                bypass: false,
            }
        }
    }

    fn must_keep_still(&self, now: Duration, governor: &Governor) -> bool {
        governor.throttled(now).is_some() || (self.trouble.is_some() && now < self.next_try)
    }

    /// When the broker must look at this slot; never while a fetch is under way, whose end is an event of its own.
    pub fn next_due(&self, idle_drop: Duration) -> Option<Duration> {
        if self.flight.is_some() {
            return None;
        }
        let mut due = self.next_try;
        if let Some(lease) = &self.lease {
            if self.is_evictable() {
                due = due.min(self.last_asked.saturating_add(idle_drop));
            }
            if self.trouble.is_some() && !self.lapse_told {
                due = due.min(lease.expires_boot());
            }
        }
        Some(due)
    }

    /// Whether nobody will miss this slot: no token is lost by dropping it that anybody asked for lately, and no failure
    /// is forgotten that still spares the upstream.
    pub fn is_idle(&self, now: Now, idle_drop: Duration) -> bool {
        let keep = if self.left(now).is_zero() {
            INTEREST.min(idle_drop)
        } else {
            idle_drop
        };
        let forgotten = now.boot >= self.last_asked.saturating_add(keep);
        forgotten && self.is_evictable() && (self.lease.is_some() || now.boot >= self.next_try)
    }

    /// Whether the slot may make room for another.
    pub fn is_evictable(&self) -> bool {
        !self.warm && self.flight.is_none() && self.waiters.is_empty()
    }

    /// Where its fetch stands in line when nobody asks right now.
    pub fn lane(&self) -> Lane {
        if self.lease.is_some() || self.warm {
            Lane::Refresh
        } else {
            Lane::Caller(self.owner)
        }
    }
}
