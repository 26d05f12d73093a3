//! Does what the broker decides: reads the clock, drives the timer, sends requests to the upstream, wakes callers.
//!
//! One mutex around the broker, never held across an await; one task for the timer; one detached task a fetch, so that
//! a caller that hangs up takes nothing with it.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::broker::{
    Answer, Ask, Broker, Decision, Effect, Entry, Fetch, KeySnapshot, Note, Policy, Unserved, WaiterId,
};
use crate::clock::{Clock, Now};
use crate::failure::{Cause, Class, Failure};
use crate::heartbeat::{self, Heartbeat};
use crate::key::Key;
use crate::token::Token;
use crate::upstream::Upstream;

/// What people are told of so many keys takes a hundred microseconds; after that callers have their turn.
pub const SLICE: usize = 64;

/// Learns of the broker's notes and of how the upstream answered.
pub trait Observer: Send + Sync {
    /// The broker noticed a change, at this time.
    fn note(&self, note: &Note, now: Now);
    /// A request to the upstream ended after `took`.
    fn fetched(&self, outcome: Result<&Token, &Failure>, took: Duration);
}

/// What becomes of one request.
pub enum Asked<'e> {
    /// It is answered from what there is.
    Answered(Answer),
    /// Its answer must be waited for.
    Waits(Waiting<'e>),
}

/// A caller that waits; it hangs up by being dropped.
pub struct Waiting<'e> {
    engine: &'e Engine,
    id: WaiterId,
    receiver: oneshot::Receiver<Answer>,
    since: Duration,
}

/// The broker at work.
pub struct Engine {
    state: Mutex<Locked>,
    upstream: Mutex<Arc<Upstream>>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    /// The timer must be set anew.
    rearm: Notify,
    /// The cache has changed.
    changed: Notify,
    /// How often it has.
    changes: AtomicU64,
    /// Beats at each round of the timer.
    beat: Heartbeat,
}

struct Locked {
    broker: Broker,
    waiting: HashMap<WaiterId, oneshot::Sender<Answer>>,
    /// When the timer comes round by itself, on the boot-time clock.
    armed: Duration,
}

impl Engine {
    /// Nothing happens before [`Engine::run`].
    pub fn new(policy: Policy, upstream: Upstream, clock: Arc<dyn Clock>, observer: Arc<dyn Observer>) -> Arc<Self> {
        let now = clock.now();
        Arc::new(Self {
            state: Mutex::new(Locked {
                broker: Broker::new(policy, fastrand::u64(..), now),
                waiting: HashMap::new(),
                armed: now.boot,
            }),
            upstream: Mutex::new(Arc::new(upstream)),
            clock,
            observer,
            rearm: Notify::new(),
            changed: Notify::new(),
            changes: AtomicU64::new(0),
            beat: Heartbeat::default(),
        })
    }

    /// Asks for one token.
    pub fn ask(self: &Arc<Self>, ask: Ask<'_>) -> Asked<'_> {
        self.with(|state, now, effects| match state.broker.ask(now, ask, effects) {
            Decision::Now(answer) => Asked::Answered(answer),
            Decision::Wait(id) => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(id, sender);
                Asked::Waits(Waiting {
                    engine: self,
                    id,
                    receiver,
                    since: now.boot,
                })
            }
        })
    }

    /// Drives the timer; never returns.
    pub async fn run(self: Arc<Self>) {
        loop {
            let (now, armed) = self.with(|state, now, effects| {
                state.broker.tick(now, effects);
                // The clocks are looked at even with nothing to wait for: they may be stepped, or the VM may sleep.
                let latest = now.boot.saturating_add(heartbeat::PERIOD);
                state.armed = state.broker.next_wake(now).map_or(latest, |wake| wake.min(latest));
                (now, state.armed)
            });
            self.beat.strike();
            // Either end of the pause leads to the same round.
            _ = timeout(armed.saturating_sub(now.boot), self.rearm.notified()).await;
        }
    }

    /// Whether the timer has come round lately.
    pub fn beats(&self) -> bool {
        self.beat.is_recent()
    }

    /// The time as everything in here sees it.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Takes over a new configuration; fetches under way end as they began.
    pub fn reconfigure(self: &Arc<Self>, policy: Policy, upstream: Upstream) {
        let former = std::mem::replace(&mut *self.upstream.lock(), Arc::new(upstream));
        let moved = former.name() != self.upstream_name();
        self.with(|state, now, effects| {
            if moved {
                state.broker.upstream_changed(now, effects);
            }
            state.broker.reconfigure(now, policy, effects);
        });
    }

    /// The endpoint that tokens come from.
    pub fn endpoint(&self) -> String {
        self.upstream.lock().uri().to_string()
    }

    /// The same for whom it matters whether it is another one.
    pub fn upstream_name(&self) -> String {
        self.upstream.lock().name()
    }

    /// All keys, in slices. What goes through them lets others have their turn after each, however many there are: a key that
    /// goes meanwhile may be missing, and one that comes is not among them.
    pub fn slices(&self, size: usize) -> impl Iterator<Item = Vec<Arc<Key>>> {
        let mut rest = self.state.lock().broker.numbers();
        iter::from_fn(move || {
            let (keys, others) = self.state.lock().broker.slice(rest.clone(), size);
            rest = others;
            (!keys.is_empty()).then_some(keys)
        })
    }

    /// What the next process should take over of those of `keys` that are still known.
    pub fn snapshot(&self, keys: &[Arc<Key>]) -> Vec<KeySnapshot> {
        self.state.lock().broker.snapshot(keys)
    }

    /// Takes over what the previous process left.
    pub fn restore(self: &Arc<Self>, keys: Vec<KeySnapshot>) {
        self.with(|state, now, effects| state.broker.restore(now, keys, effects));
    }

    /// Waits until the cache has changed since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How often the cache has changed since the start. Hits are no change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The 429 in force, if any: nothing is asked until its end.
    pub fn throttle(&self) -> Option<Arc<Failure>> {
        let state = self.state.lock();
        state.broker.throttle(self.clock.now())
    }

    /// Each key that is cached, as of `now` where it is still known when its slice comes.
    pub async fn each_entry(&self, now: Now, mut take: impl FnMut(Entry)) {
        for keys in self.slices(SLICE) {
            let entries = self.state.lock().broker.entries(&keys, now);
            entries.into_iter().for_each(&mut take);
            tokio::task::yield_now().await;
        }
    }

    /// Runs one event through the broker and does what follows from it.
    fn with<T>(self: &Arc<Self>, event: impl FnOnce(&mut Locked, Now, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let (result, answers, now) = {
            let mut state = self.state.lock();
            let now = self.clock.now();
            let result = event(&mut state, now, &mut effects);
            if let Some(wake) = state.broker.next_wake(now)
                && wake < state.armed
            {
                state.armed = wake;
                self.rearm.notify_one();
            }
            let mut answers = Vec::new();
            effects.retain_mut(|effect| {
                let Effect::Answer(id, answer) = effect else {
                    return true;
                };
                if let Some(sender) = state.waiting.remove(id) {
                    answers.push((sender, answer.clone()));
                }
                false
            });
            (result, answers, now)
        };
        for (sender, answer) in answers {
            // A receiver that is gone is a caller that hung up.
            _ = sender.send(answer);
        }
        for effect in effects {
            match effect {
                Effect::Fetch(fetch) => self.spawn(fetch),
                Effect::Note(note) => {
                    self.changed.notify_one();
                    self.changes.fetch_add(1, Ordering::Relaxed);
                    self.observer.note(&note, now);
                }
                Effect::Answer(..) => {}
            }
        }
        result
    }

    fn spawn(self: &Arc<Self>, fetch: Fetch) {
        let engine = Arc::clone(self);
        let upstream = self.upstream.lock().clone();
        tokio::spawn(async move {
            // Reports back whatever happens: a fetch that panics must not leave its callers waiting.
            let mut report = FetchReport {
                engine,
                fetch,
                outcome: None,
            };
            let started = report.engine.clock.now().boot;
            let outcome = upstream
                .fetch(&report.fetch.key, report.fetch.bypass, &*report.engine.clock)
                .await;
            let took = report.engine.clock.now().boot.saturating_sub(started);
            report.engine.observer.fetched(outcome.as_ref(), took);
            report.outcome = Some(outcome);
        });
    }
}

impl Waiting<'_> {
    /// The answer, and how long it took to have it.
    pub async fn answer(mut self) -> (Answer, Duration) {
        let answer = (&mut self.receiver).await;
        let waited = self.engine.now().boot.saturating_sub(self.since);
        (answer.unwrap_or(Err(Unserved::TimedOut(None))), waited)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock();
        state.waiting.remove(&self.id);
        state.broker.forget(self.id);
    }
}

struct FetchReport {
    engine: Arc<Engine>,
    fetch: Fetch,
    outcome: Option<Result<Token, Failure>>,
}

impl Drop for FetchReport {
    fn drop(&mut self) {
        let lost = || {
            Err(Failure::new(
                Class::Faulty,
                Cause::Reset,
                "the fetch ended without an answer",
            ))
        };
        let outcome = self.outcome.take().unwrap_or_else(lost);
        self.engine
            .with(|state, now, effects| state.broker.reply(now, &self.fetch, outcome, effects));
    }
}

/// What comes of `work`, and how often others had their turn meanwhile.
#[cfg(test)]
pub async fn turns_beside<T>(work: impl Future<Output = T>) -> (T, usize) {
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    let done = tokio::select! {
        biased;
        done = work => done,
        () = others => unreachable!(),
    };
    (done, turns)
}
