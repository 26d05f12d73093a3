//! The broker in a world where everything happens to it, one [`Op`] after the other, each checked against a model of what
//! it has promised. A run is a list of ops and nothing else, so it can be repeated, and made shorter.

mod administrator;
mod ask;
mod model;
mod promises;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use msi_tokend::broker::{Broker, Effect, Note, Policy};
use msi_tokend::clock::Now;
use msi_tokend::failure::{Cause, Class, Failure};
use msi_tokend::key::{Identity, Key};
use msi_tokend::token::{Parts, Token};
use zeroize::Zeroizing;

use self::model::{Issued, Lease, Model, Running, Waiting, left_of, secret};
use self::promises::has_no_room;
use crate::op::{KEYS, Op, UIDS, keys, policy};
use crate::promise::{Kept, promise};
use crate::upstream::{Mood, Verdict};

/// Everybody's lanes: one a uid, one for the keys that uid 0 got by being warm, one for refreshes.
const LANES: usize = UIDS as usize + 2;
/// So many events are played at most while time passes.
const BUDGET: usize = 400;
const LOW: Duration = Duration::from_mins(5);
const LOW_WAIT: Duration = Duration::from_secs(2);
const HALF_A_MINUTE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
/// What counts as within a second.
const WINDOW: Duration = Duration::from_millis(1100);

/// What went on, for people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub steps: u64,
    pub asks: u64,
    pub served: u64,
    pub told: u64,
    pub fetches: u64,
    pub time: Duration,
}

pub struct World {
    pub tally: Tally,
    broker: Broker,
    policy: Policy,
    now: Now,
    /// The upstream's clock, which is right.
    true_wall: Duration,
    mood: Mood,
    keys: Vec<Arc<Key>>,
    indices: HashMap<Arc<Key>, usize>,
    models: Vec<Model>,
    running: Vec<Running>,
    waiting: BTreeMap<u64, Waiting>,
    tokens: Vec<Issued>,
    /// When, and which uid's misses.
    starts: VecDeque<(Duration, Option<u32>)>,
    /// Until when nothing may be asked for, for a 429, and until when that may be a reason for silence.
    silent_until: Duration,
    may_be_silent_until: Duration,
    /// How many keys there may be, in all and of one uid; more than configured while a reload's excess lasts.
    allowed: usize,
    allowed_bytes: usize,
    /// The key whose token comes in at this moment, the key that gets a slot at this moment, and the uid whose new key it is
    /// that something may go for.
    arriving: Option<usize>,
    entering: Option<usize>,
    newcomer: Option<u32>,
    allowed_of: BTreeMap<u32, usize>,
}

/// All that it knows at once, however many.
pub fn all_keys(broker: &Broker) -> Vec<Arc<Key>> {
    broker.slice(broker.numbers(), usize::MAX).0
}

impl World {
    pub fn new(seed: u64, variant: usize) -> Self {
        let keys = keys();
        let policy = policy(variant, &keys);
        let now = Now {
            wall: Duration::from_secs(1_764_000_000),
            boot: Duration::from_secs(100),
        };
        let mut world = Self {
            tally: Tally::default(),
            broker: Broker::new(policy.clone(), seed, now),
            now,
            true_wall: now.wall,
            mood: Mood::HEALTHY,
            models: keys.iter().map(|_| Model::default()).collect(),
            indices: keys.iter().cloned().zip(0..).collect(),
            keys,
            running: Vec::new(),
            waiting: BTreeMap::new(),
            tokens: Vec::new(),
            starts: VecDeque::new(),
            silent_until: Duration::ZERO,
            may_be_silent_until: Duration::ZERO,
            allowed: policy.max_tokens,
            allowed_bytes: policy.max_bytes,
            arriving: None,
            entering: None,
            newcomer: None,
            allowed_of: BTreeMap::new(),
            policy,
        };
        world.note_warm();
        world
    }

    /// Plays one op. The run is over when a promise was broken.
    pub fn play(&mut self, op: Op) -> Kept {
        self.tally.steps += 1;
        match op {
            Op::Ask { uid, key, want } => self.ask(uid, key % KEYS, want)?,
            Op::HangUp(n) => self.hang_up(n),
            Op::Pass(time) => self.pass(time)?,
            Op::Sleep(time) => self.advance(time),
            Op::Step(by) => {
                // Whatever was planned may come earlier now.
                self.models.iter_mut().for_each(|model| model.planned = Duration::ZERO);
                let by_ms = Duration::from_millis(by.unsigned_abs());
                self.now.wall = if by < 0 {
                    self.now.wall.saturating_sub(by_ms)
                } else {
                    self.now.wall.saturating_add(by_ms)
                };
            }
            Op::Tick => self.tick()?,
            Op::Mood(mood) => self.mood = mood,
            Op::Reload(n) => self.reload(n)?,
            Op::Move => self.upstream_changes()?,
            Op::Restart { elsewhere } => self.restart(elsewhere)?,
        }
        self.inspect()
    }

    /// The end of every run: the upstream recovers, nobody asks any more, and nothing is left.
    pub fn finish(&mut self) -> Kept {
        self.mood = Mood::HEALTHY;
        self.reload(0)?;
        for _ in 0..40 {
            self.pass(Duration::from_secs(10))?;
        }
        promise!(
            self.waiting.is_empty(),
            "waiters always wake",
            "{} still wait",
            self.waiting.len()
        );
        let end = self.now.boot + 2 * self.policy.idle_drop;
        while self.now.boot < end {
            self.pass(end.saturating_sub(self.now.boot))?;
        }
        let left = self.broker.entries(&all_keys(&self.broker), self.now).len();
        promise!(left == 0, "nothing is left in the end", "{left} slots");
        let wake = self.broker.next_wake(self.now);
        promise!(wake.is_none(), "nothing is left in the end", "wakes at {wake:?}");
        Ok(())
    }

    fn advance(&mut self, by: Duration) {
        self.now.boot += by;
        self.now.wall += by;
        self.true_wall += by;
        self.tally.time += by;
    }

    fn advance_to(&mut self, boot: Duration) {
        self.advance(boot.saturating_sub(self.now.boot));
    }

    fn pass(&mut self, time: Duration) -> Kept {
        let end = self.now.boot + time;
        for _ in 0..BUDGET {
            let wake = self.broker.next_wake(self.now);
            let reply = self.running.iter().map(|running| running.ends).min();
            match (wake, reply) {
                (Some(wake), reply) if wake <= end && reply.is_none_or(|reply| wake <= reply) => {
                    // A timer is late by a little, and on a busy machine by a lot.
                    let late = match wake.subsec_micros() % 64 {
                        0 => 3000,
                        n if n % 8 == 0 => u64::from(n),
                        _ => 0,
                    };
                    self.advance_to(wake + Duration::from_millis(late));
                    self.tick()?;
                }
                (_, Some(reply)) if reply <= end => {
                    self.advance_to(reply);
                    self.reply()?;
                }
                _ => {
                    self.advance_to(end);
                    break;
                }
            }
            self.tally.steps += 1;
            self.inspect()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Kept {
        let mut effects = Vec::new();
        self.broker.tick(self.now, &mut effects);
        self.apply(effects)?;
        let now = self.now.boot;
        self.wait_on();
        for (id, waiting) in &self.waiting {
            promise!(
                waiting.deadline > now,
                "waiters wake by their deadline",
                "{id} for {} at {now:?}, deadline {:?}",
                waiting.key,
                waiting.deadline
            );
        }
        let wake = self.broker.next_wake(self.now);
        promise!(
            wake.is_none_or(|wake| wake > now),
            "the timer does not spin",
            "wake {wake:?} at {now:?}"
        );
        for entry in self.broker.entries(&all_keys(&self.broker), self.now) {
            let key = self.index(&entry.key);
            promise!(
                entry.fetching || !entry.next_in.is_zero() || now < self.may_be_silent_until,
                "what is due is asked for",
                "{key} at {now:?}"
            );
            let keep = if entry.left.is_zero() {
                self.policy.idle_drop.min(Duration::from_mins(1))
            } else {
                self.policy.idle_drop
            };
            let free = !entry.warm && !entry.fetching && !self.is_awaited(key) && entry.expires_on.is_some();
            promise!(
                !free || entry.left.is_zero() || entry.asked_ago < keep,
                "nobody's tokens are dropped",
                "{key}, last asked {:?} ago",
                entry.asked_ago
            );
        }
        Ok(())
    }

    fn hang_up(&mut self, n: usize) {
        let id = self.waiting.keys().nth(n % self.waiting.len().max(1)).copied();
        if let Some(id) = id {
            self.waiting.remove(&id);
            self.broker.forget(id);
        }
    }

    /// The request that ends first ends.
    fn reply(&mut self) -> Kept {
        let Some((first, _)) = self.running.iter().enumerate().min_by_key(|(_, running)| running.ends) else {
            return Ok(());
        };
        let Running {
            fetch,
            key,
            verdict,
            former,
            ..
        } = self.running.remove(first);
        let outcome = self.outcome(key, verdict);
        let over = self.left(key).is_zero();
        let model = &mut self.models[key];
        model.was_over = over && model.lease.is_some();
        (model.running, model.fetching) = (false, false);
        self.arriving = Some(key);
        self.newcomer = (over && !model.warm).then_some(model.owner);
        let mut kept = None;
        if let Ok((token, client)) = &outcome {
            let expires_on = self.tokens[*token].expires_on;
            let new = Lease {
                token: *token,
                expires_boot: self.now.boot + expires_on.saturating_sub(self.now.wall),
            };
            if !left_of(&new, &self.tokens, self.now).is_zero() {
                let keep = model.lease.is_some_and(|old| {
                    let is_another = self.tokens[old.token]
                        .client
                        .zip(*client)
                        .is_some_and(|(old, new)| !old.eq_ignore_ascii_case(new));
                    let longer = left_of(&old, &self.tokens, self.now) > left_of(&new, &self.tokens, self.now);
                    old.token != new.token && !is_another && !fetch.bypass && longer
                });
                kept = if keep { model.lease } else { Some(new) };
            }
        }
        let outcome = outcome.map(|(token, client)| self.token(token, client));
        let mut effects = Vec::new();
        self.broker.reply(self.now, &fetch, outcome, &mut effects);
        if let Some(lease) = kept {
            if has_no_room(&effects) {
                self.judge_no_room(key, lease, &effects)?;
            } else {
                let model = &mut self.models[key];
                (model.lease, model.failing) = (Some(lease), None);
                model.asked_by.clear();
            }
        } else if former {
            let told = |effect: &Effect| matches!(effect, Effect::Note(Note::Failed { .. } | Note::Throttled { .. }));
            promise!(
                !effects.iter().any(told),
                "a former upstream's failure counts for nothing",
                "{key}"
            );
            self.models[key].planned = self.now.boot;
        }
        self.apply(effects)?;
        self.models[key].was_over = false;
        (self.arriving, self.newcomer) = (None, None);
        Ok(())
    }

    /// What the fetch makes of the upstream's verdict: it lets no token through that cannot be.
    fn outcome(&mut self, key: usize, verdict: Verdict) -> Result<(usize, Option<&'static str>), Failure> {
        let faulty = |cause: &str| Failure::new(Class::Faulty, Cause::Status, cause);
        let token = match verdict {
            Verdict::Failure(class) => return Err(Failure::new(class, Cause::Status, "scripted")),
            Verdict::Token { life, client } => {
                let client = match self.keys[key].identity {
                    Identity::Default => client,
                    _ => Some("one"),
                };
                let token = self.tokens.len();
                self.tokens.push(Issued {
                    key,
                    expires_on: self.true_wall + life,
                    client,
                    size: 0,
                });
                self.tokens[token].size = self.token(token, client).size();
                self.models[key].given.push(token);
                token
            }
            Verdict::Again(back) => {
                let given = &self.models[key].given;
                let nth = given
                    .len()
                    .checked_sub(back + 1)
                    .ok_or_else(|| faulty("nothing given yet"))?;
                given[nth]
            }
        };
        let Issued { expires_on, client, .. } = self.tokens[token];
        if expires_on <= self.now.wall || expires_on.saturating_sub(self.now.wall) >= Duration::from_hours(28) {
            return Err(faulty("a life that cannot be"));
        }
        Ok((token, client))
    }

    fn token(&self, token: usize, client: Option<&'static str>) -> Token {
        let parts = Parts {
            access_token: Zeroizing::new(secret(token)),
            client_id: client.map(str::to_owned),
            expires_on: self.tokens[token].expires_on,
            not_before: self.true_wall,
        };
        Token::new(&self.keys[self.tokens[token].key].resource, &parts).unwrap()
    }

    /// Who hoped for a better token than one that is over by now waits as if there had been none, also when a clock's
    /// step makes that one good again.
    fn wait_on(&mut self) {
        let over: Vec<bool> = (0..KEYS).map(|key| self.left(key).is_zero()).collect();
        for waiting in self.waiting.values_mut().filter(|waiting| over[waiting.key]) {
            waiting.deadline = waiting.patience;
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) -> Kept {
        for effect in effects {
            match effect {
                Effect::Fetch(fetch) => self.started(fetch)?,
                Effect::Answer(id, answer) => self.answered(id, answer)?,
                Effect::Note(note) => self.noted(&note)?,
            }
        }
        Ok(())
    }

    fn left(&self, key: usize) -> Duration {
        let lease = self.models[key].lease.as_ref();
        lease.map_or(Duration::ZERO, |lease| left_of(lease, &self.tokens, self.now))
    }

    fn size(&self, key: usize) -> usize {
        let lease = self.models[key].lease.as_ref();
        lease.map_or(0, |lease| self.tokens[lease.token].size)
    }

    fn bytes(&self) -> usize {
        (0..KEYS).map(|key| self.size(key)).sum()
    }

    fn existing(&self) -> impl Iterator<Item = usize> {
        (0..KEYS).filter(|key| self.models[*key].exists)
    }

    /// The keys that count for the uid's bound.
    fn owned(&self, uid: u32) -> impl Iterator<Item = usize> {
        self.existing()
            .filter(move |key| self.models[*key].owner == uid && !self.models[*key].warm)
    }

    /// The keys that wait for their turn at the upstream, as of the last look.
    fn queued(&self) -> impl Iterator<Item = usize> {
        (0..KEYS).filter(|key| self.models[*key].fetching && !self.models[*key].running)
    }

    fn is_awaited(&self, key: usize) -> bool {
        self.waiting.values().any(|waiting| waiting.key == key)
    }

    fn is_interested(&self, uid: u32, key: usize) -> bool {
        self.models[key].asked_by.contains(&uid) || self.models[key].owner == uid
    }

    /// Whether it may be evicted or dropped.
    fn may_go(&self, key: usize) -> bool {
        let model = &self.models[key];
        !model.warm && !model.fetching && !self.is_awaited(key)
    }

    /// Whether it may be evicted for a new key of this uid, or for the configuration and what is in use.
    fn may_go_for(&self, newcomer: Option<u32>, key: usize) -> bool {
        let is_its_own = |uid| self.models[key].users.iter().all(|user| *user == uid);
        self.may_go(key) && (self.left(key).is_zero() || newcomer.is_none_or(is_its_own))
    }

    fn index(&self, key: &Key) -> usize {
        self.indices[key]
    }
}
