//! The broker on a clock that only moves when a test moves it, in front of an upstream that answers as the test says.

use std::sync::Arc;
use std::time::Duration;

use msi_tokend::broker::{Answer, Ask, Broker, Decision, Effect, Fetch, Note, Policy, Renewal};
use msi_tokend::clock::Now;
use msi_tokend::failure::{Cause, Class, Failure, Refusal};
use msi_tokend::key::{Identity, Key, Resource};
use msi_tokend::token::{Parts, Token};
use zeroize::Zeroizing;

pub const HOUR: Duration = Duration::from_hours(1);

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn key(name: &str) -> Key {
    Key::new(Resource::new(name).unwrap(), Identity::Default)
}

/// The packaged configuration's values, nothing warm.
pub fn policy() -> Policy {
    Policy {
        max_tokens: 1000,
        max_bytes: 8_000_000,
        max_tokens_per_uid: 64,
        idle_drop: secs(24 * 3600),
        caller_wait: secs(20),
        max_concurrent: 4,
        max_per_second: 10,
        warm: Vec::new(),
    }
}

pub fn warm(name: &str) -> Policy {
    Policy {
        warm: vec![key(name)],
        ..policy()
    }
}

/// What the upstream says to one request.
#[derive(Clone, Debug)]
pub enum Says {
    /// A token of this name that ends so long after the start of the test.
    Token {
        name: &'static str,
        ends: Duration,
        client: &'static str,
    },
    /// One of a name of its own that lives so long.
    Fresh(Duration),
    Fails(Class),
    /// Nothing, ever.
    Nothing,
}

pub fn refused() -> Class {
    Class::Refused(Refusal {
        error: Some("invalid_request".to_owned()),
        error_description: "Identity not found".to_owned(),
    })
}

pub fn throttled(seconds: u64) -> Class {
    Class::Throttled(Some(secs(seconds)))
}

type Upstream = Box<dyn FnMut(&Key, Duration) -> Says>;

pub struct Clockwork {
    pub broker: Broker,
    pub now: Now,
    /// How long the upstream takes.
    pub takes: Duration,
    start: Now,
    upstream: Upstream,
    running: Vec<(Duration, Fetch)>,
    /// Since the start of the test, like all times here.
    pub fetches: Vec<(Duration, Fetch)>,
    pub answers: Vec<(Duration, u64, Answer)>,
    pub notes: Vec<(Duration, Note)>,
}

impl Clockwork {
    pub fn keys(&self) -> Vec<Arc<Key>> {
        self.broker.slice(self.broker.numbers(), usize::MAX).0
    }

    /// `upstream` is told what is asked for, and when.
    pub fn new(policy: Policy, upstream: impl FnMut(&Key, Duration) -> Says + 'static) -> Self {
        let start = Now {
            wall: secs(1_764_000_000),
            boot: secs(5000),
        };
        Self {
            broker: Broker::new(policy, 7, start),
            now: start,
            takes: Duration::ZERO,
            start,
            upstream: Box::new(upstream),
            running: Vec::new(),
            fetches: Vec::new(),
            answers: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn upstream(&mut self, upstream: impl FnMut(&Key, Duration) -> Says + 'static) {
        self.upstream = Box::new(upstream);
    }

    /// Time since the start of the test.
    pub fn time(&self) -> Duration {
        self.now.boot.saturating_sub(self.start.boot)
    }

    pub fn ask_as(&mut self, uid: u32, name: &str, renewal: Renewal) -> Decision {
        let key = key(name);
        let ask = Ask {
            key: &key,
            uid,
            renewal,
        };
        let mut effects = Vec::new();
        let decision = self.broker.ask(self.now, ask, &mut effects);
        self.take(effects);
        decision
    }

    pub fn ask(&mut self, name: &str) -> Decision {
        self.ask_as(1, name, Renewal::No)
    }

    /// Asks, and lets the upstream answer where that takes no time.
    pub fn get(&mut self, name: &str) -> Option<Answer> {
        match self.ask(name) {
            Decision::Now(answer) => Some(answer),
            Decision::Wait(id) => {
                self.run_for(Duration::ZERO);
                self.answer(id).map(|(_, answer)| answer)
            }
        }
    }

    /// Whether a token is served at once, and how much is left of it.
    pub fn hit(&mut self, name: &str) -> Option<Duration> {
        match self.ask(name) {
            Decision::Now(Ok(served)) => Some(served.left),
            _ => None,
        }
    }

    /// When and how somebody who waits was answered.
    pub fn answer(&self, id: u64) -> Option<(Duration, Answer)> {
        let found = self.answers.iter().find(|(_, answered, _)| *answered == id);
        found.map(|(at, _, answer)| (*at, answer.clone()))
    }

    /// Lets time pass, and what is due in it happen when it is due.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.time() + time);
    }

    pub fn run_until(&mut self, time: Duration) {
        let end = self.start.boot + time;
        loop {
            let wake = self.broker.next_wake(self.now);
            let reply = self.running.iter().map(|(ends, _)| *ends).min();
            match (wake, reply) {
                (_, Some(reply)) if reply <= end && wake.is_none_or(|wake| reply <= wake) => {
                    self.move_to(reply);
                    self.reply();
                }
                (Some(wake), _) if wake <= end => {
                    self.move_to(wake);
                    self.tick();
                }
                _ => break,
            }
        }
        self.move_to(end);
    }

    pub fn tick(&mut self) {
        let mut effects = Vec::new();
        self.broker.tick(self.now, &mut effects);
        self.take(effects);
    }

    /// Both clocks go on and nothing else happens: the VM is suspended.
    pub fn sleep(&mut self, time: Duration) {
        self.now.boot += time;
        self.now.wall += time;
    }

    pub fn step_wall(&mut self, by: i64) {
        let by_secs = secs(by.unsigned_abs());
        self.now.wall = if by < 0 {
            self.now.wall.checked_sub(by_secs).unwrap()
        } else {
            self.now.wall + by_secs
        };
    }

    pub fn reconfigure(&mut self, policy: Policy) {
        let mut effects = Vec::new();
        self.broker.reconfigure(self.now, policy, &mut effects);
        self.take(effects);
    }

    pub fn upstream_changes(&mut self, upstream: impl FnMut(&Key, Duration) -> Says + 'static) {
        self.upstream(upstream);
        let mut effects = Vec::new();
        self.broker.upstream_changed(self.now, &mut effects);
        self.take(effects);
    }

    /// The pauses between requests upstream.
    pub fn gaps(&self) -> Vec<Duration> {
        self.fetches
            .windows(2)
            .map(|pair| pair[1].0.saturating_sub(pair[0].0))
            .collect()
    }

    pub fn failures(&self) -> Vec<(Duration, bool)> {
        let failed = |note: &Note| match note {
            Note::Failed { next_in, first, .. } => Some((*next_in, *first)),
            _ => None,
        };
        self.notes.iter().filter_map(|(_, note)| failed(note)).collect()
    }

    pub fn count_notes(&self, is: impl Fn(&Note) -> bool) -> usize {
        self.notes.iter().filter(|(_, note)| is(note)).count()
    }

    fn move_to(&mut self, boot: Duration) {
        let by = boot.saturating_sub(self.now.boot);
        self.sleep(by);
    }

    fn reply(&mut self) {
        let first = self.running.iter().enumerate().min_by_key(|(_, (ends, _))| *ends);
        let (_, fetch) = self.running.remove(first.unwrap().0);
        let time = self.time();
        let said = (self.upstream)(&fetch.key, time);
        let (name, ends, client) = match said {
            Says::Nothing => return,
            Says::Fails(class) => {
                let mut effects = Vec::new();
                self.broker.reply(
                    self.now,
                    &fetch,
                    Err(Failure::new(class, Cause::Status, "as told")),
                    &mut effects,
                );
                return self.take(effects);
            }
            Says::Token { name, ends, client } => (name.to_owned(), ends, client),
            Says::Fresh(life) => (format!("t{}", self.fetches.len()), time + life, "one"),
        };
        let parts = Parts {
            access_token: Zeroizing::new(name),
            client_id: Some(client.to_owned()),
            expires_on: self.start.wall + ends,
            not_before: self.start.wall,
        };
        let token = Token::new(&fetch.key.resource, &parts).unwrap();
        let mut effects = Vec::new();
        self.broker.reply(self.now, &fetch, Ok(token), &mut effects);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        let time = self.time();
        for effect in effects {
            match effect {
                Effect::Fetch(fetch) => {
                    self.fetches.push((time, fetch.clone()));
                    self.running.push((self.now.boot + self.takes, fetch));
                }
                Effect::Answer(id, answer) => self.answers.push((time, id, answer)),
                Effect::Note(note) => self.notes.push((time, note)),
            }
        }
    }
}

/// The names of what was fetched, in order.
pub fn names(fetches: &[(Duration, Fetch)]) -> Vec<String> {
    fetches
        .iter()
        .map(|(_, fetch)| fetch.key.resource.to_string())
        .collect()
}

/// A secret's SHA-256, as callers name a bad token.
pub fn sha256(secret: &str) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(secret).into()
}
