//! What the broker does, held against what it has promised.

use std::cmp::max;
use std::time::Duration;

use msi_tokend::broker::{Effect, Entry, Fetch, Note, Served, Unserved};
use msi_tokend::failure::Class;

use super::all_keys;
use super::model::{Lease, Model, Running, Turn, token_of};
use super::{HALF_A_MINUTE, LOW, SECOND, WINDOW, World};
use crate::op::{KEYS, UIDS};
use crate::promise::{Kept, broken, promise};
use crate::upstream::Fate;

impl World {
    pub(super) fn started(&mut self, fetch: Fetch) -> Kept {
        let now = self.now.boot;
        let key = self.index(&fetch.key);
        let left = self.left(key);
        self.excuse_who_has_his_share(fetch.uid);
        while self.starts.front().is_some_and(|(start, _)| *start + WINDOW <= now) {
            self.starts.pop_front();
        }
        self.starts.push_back((now, fetch.uid));
        let in_a_second = self.starts.iter().filter(|(start, _)| *start + SECOND > now).count();
        let at_once = self.running.len() + 1;
        promise!(
            at_once <= self.policy.max_concurrent,
            "max_concurrent",
            "{at_once} at once"
        );
        promise!(
            in_a_second <= self.policy.max_per_second,
            "max_per_second",
            "{in_a_second} in a second"
        );
        self.judge_share(&fetch)?;
        promise!(now >= self.silent_until, "a 429 silences all keys", "{key} at {now:?}");
        let Fate { takes, verdict } = self.mood.fate(self.tally.fetches);
        let model = &mut self.models[key];
        promise!(!model.running, "one request a key", "{key}");
        promise!(model.exists, "one request a key", "{key} is gone");
        if let Some((_, until)) = &model.failing {
            promise!(
                now >= *until,
                "a failure is waited out",
                "{key} at {now:?}, not before {until:?}"
            );
        }
        if fetch.bypass && !left.is_zero() {
            let lately = model.last_forced.is_some_and(|at| now < at + HALF_A_MINUTE);
            promise!(!lately, "one forced fetch in 30 s", "{key}");
            model.last_forced = Some(now);
        } else if !left.is_zero() && model.failing.is_none() && now < model.planned {
            let lately = model.last_start.is_some_and(|at| now < at + HALF_A_MINUTE);
            promise!(
                left < LOW && !lately,
                "no request without a reason",
                "{key} has {left:?} left, planned for {:?}, now {now:?}",
                model.planned
            );
        }
        for Turn { before, most, .. } in model.turns.drain(..) {
            let between = self.tally.fetches - before;
            promise!(
                between <= most,
                "nobody starves",
                "{key} came after {between} others, at most {most} are fair"
            );
        }
        model.running = true;
        model.last_start = Some(now);
        self.tally.fetches += 1;
        self.running.push(Running {
            fetch,
            key,
            ends: now + takes,
            verdict,
            former: false,
        });
        Ok(())
    }

    /// Its running fetches, and its starts that count.
    fn usage(&self, uid: u32) -> (usize, usize) {
        let now = self.now.boot;
        let slots = self.running.iter().filter(|running| running.fetch.uid == Some(uid));
        let counts = |(start, by): &&(Duration, Option<u32>)| *start + WINDOW > now && *by == Some(uid);
        (slots.count(), self.starts.iter().filter(counts).count())
    }

    /// Four fifths of the starts.
    fn most_starts(&self) -> usize {
        max(1, self.policy.max_per_second * 4 / 5)
    }

    /// Who has a slot may have any but the last.
    fn may_have_a_slot(&self, slots: usize) -> bool {
        slots == 0 || self.running.len() + 1 < self.policy.max_concurrent
    }

    fn has_its_share(&self, uid: u32) -> bool {
        let (slots, starts) = self.usage(uid);
        !self.may_have_a_slot(slots) || starts >= self.most_starts()
    }

    fn judge_share(&self, fetch: &Fetch) -> Kept {
        let Some(uid) = fetch.uid else { return Ok(()) };
        let (slots, starts) = self.usage(uid);
        promise!(
            self.may_have_a_slot(slots),
            "who has a slot does not take the last",
            "{uid} had {slots} already"
        );
        promise!(
            starts <= self.most_starts(),
            "no uid's misses have all starts",
            "{uid} has {starts} in a second"
        );
        Ok(())
    }

    /// Whoever waits because he has his share of the upstream lets others go first.
    fn excuse_who_has_his_share(&mut self, starts: Option<u32>) {
        let full: Vec<u32> = (0..=UIDS)
            .filter(|uid| starts != Some(*uid) && self.has_its_share(*uid))
            .collect();
        let turns = self.models.iter_mut().flat_map(|model| &mut model.turns);
        for turn in turns.filter(|turn| full.contains(&turn.uid)) {
            turn.most += 1;
        }
    }

    /// Whether a key in line needs nothing but its turn: somebody waits for it who has not his share, or nobody asked.
    fn may_have_its_turn(&self, key: usize) -> bool {
        let model = &self.models[key];
        let may_start = |uid| self.may_have_a_slot(self.usage(uid).0);
        let mut waiting = self.waiting.values().filter(|waiting| waiting.key == key);
        let renewed = (model.warm || model.lease.is_some()) && model.asked_by.is_empty();
        renewed || waiting.any(|waiting| may_start(waiting.uid))
    }

    pub(super) fn answered(&mut self, id: u64, answer: Result<Served, Unserved>) -> Kept {
        let Some(waiting) = self.waiting.remove(&id) else {
            return Err(broken("an answer to each who waits", || format!("{id} does not wait")));
        };
        let key = waiting.key;
        match answer {
            Ok(served) => self.check_served(key, &served),
            Err(unserved) => {
                self.tally.told += 1;
                let left = self.left(key);
                promise!(
                    left.is_zero(),
                    "what can be served is served",
                    "{key} has {left:?}: {unserved:?}"
                );
                let early = matches!(unserved, Unserved::TimedOut(_)) && self.now.boot < waiting.patience;
                promise!(!early, "nobody is told to have waited who has not", "{key}");
                Ok(())
            }
        }
    }

    pub(super) fn noted(&mut self, note: &Note) -> Kept {
        let now = self.now.boot;
        match note {
            Note::Failed {
                key, failure, next_in, ..
            } => {
                let key = self.index(key);
                let seconds = |least, most| Duration::from_secs(least)..=Duration::from_secs(most);
                let waits = match &failure.class {
                    Class::Restarting | Class::Faulty | Class::Full | Class::Throttled(None) => seconds(1, 60),
                    Class::Throttled(Some(asked)) => {
                        let asked = (*asked).clamp(SECOND, Duration::from_mins(5));
                        asked..=asked
                    }
                    Class::Refused(_) => seconds(10, 60),
                };
                promise!(waits.contains(next_in), "waits as the table says", "{key}: {next_in:?}");
                if matches!(failure.class, Class::Throttled(_)) {
                    self.silent_until = self.silent_until.max(now + *next_in);
                    self.may_be_silent_until = self.may_be_silent_until.max(self.silent_until);
                }
                self.models[key].failing = Some((failure.class.clone(), now + *next_in));
            }
            Note::Refreshed {
                key,
                left,
                next_in,
                same,
                ..
            } => {
                let key = self.index(key);
                let least = if *same { Duration::from_mins(1) } else { SECOND };
                promise!(*left == self.left(key), "what is left is known", "{key}: {left:?}");
                promise!(
                    (*left / 2).max(least) >= *next_in && (*left / 20 * 9).max(least) <= *next_in + SECOND / 100,
                    "renewed at half of the life, jitter only earlier",
                    "{key}: {left:?} left, next in {next_in:?}"
                );
                self.models[key].planned = now + *next_in;
            }
            Note::Evicted(key) => {
                let key = self.index(key);
                self.judge_eviction(key)?;
                self.gone(key);
            }
            Note::Dropped(key) => {
                let key = self.index(key);
                let keep = if self.left(key).is_zero() {
                    self.policy.idle_drop.min(Duration::from_mins(1))
                } else {
                    self.policy.idle_drop
                };
                promise!(self.may_go(key), "no warm or running key is dropped", "{key}");
                let asked = self.models[key].last_asked;
                promise!(
                    now >= asked + keep,
                    "dropped only when nobody asks",
                    "{key}, asked at {asked:?}"
                );
                self.gone(key);
            }
            Note::Lapsed { key, .. } => {
                let key = self.index(key);
                // A clock's step that is noticed at a reply is judged before it.
                let over = self.left(key).is_zero() || self.models[key].was_over;
                promise!(over, "what is told of an end is true", "{key}");
            }
            Note::ClockStepped { .. }
            | Note::Throttled { .. }
            | Note::Unthrottled { .. }
            | Note::IdentityChanged { .. } => {}
        }
        Ok(())
    }

    fn judge_eviction(&self, key: usize) -> Kept {
        let model = &self.models[key];
        let live = !self.left(key).is_zero();
        promise!(self.may_go(key), "no warm or running key is evicted", "{key}");
        promise!(
            self.may_go_for(self.newcomer, key),
            "no live token of somebody else is thrown out for a new key",
            "{key} of {:?} for {:?}",
            model.users,
            self.newcomer
        );
        // Who shares a key may have got or lost it at this very moment.
        let alone = |key: usize| self.models[key].users.len() == 1;
        // A key without a token makes no room for bytes.
        let helps = |other: usize| self.newcomer.is_some() && self.arriving.is_none() || self.size(other) > 0;
        let alike = |other: usize| {
            let another = other != key && ![self.arriving, self.entering].contains(&Some(other));
            another && alone(key) && alone(other) && self.may_go(other) && helps(other)
        };
        let dead = self
            .owned(model.owner)
            .find(|other| alike(*other) && self.left(*other).is_zero());
        promise!(
            !live || dead.is_none(),
            "a key without a live token goes first",
            "{key} before {dead:?}"
        );
        let older = self.owned(model.owner).find(|other| {
            alike(*other) && live != self.left(*other).is_zero() && self.models[*other].last_asked < model.last_asked
        });
        promise!(
            older.is_none(),
            "the least recently used goes first",
            "{key} before {older:?}"
        );
        promise!(
            self.existing().count() >= self.policy.max_tokens
                || self.owned(model.owner).count() >= self.policy.max_tokens_per_uid
                || self.bytes() > self.policy.max_bytes,
            "evicted only for want of room",
            "{key}"
        );
        Ok(())
    }

    /// The broker says that it has no room for the token of this lease.
    pub(super) fn judge_no_room(&self, key: usize, lease: Lease, effects: &[Effect]) -> Kept {
        let lost = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Note(Note::Evicted(_))));
        promise!(!lost, "nobody loses a token for one that is not kept", "{key}");
        let others = (0..KEYS).filter(|other| *other != key && !self.may_go_for(self.newcomer, *other));
        let stays: usize = others.map(|other| self.size(other)).sum();
        let size = self.tokens[lease.token].size;
        promise!(
            size > self.size(key) && stays + size > self.policy.max_bytes,
            "no room only where nothing can go",
            "{key} of {size} bytes beside {stays}"
        );
        Ok(())
    }

    pub(super) fn gone(&mut self, key: usize) {
        let given = std::mem::take(&mut self.models[key].given);
        self.models[key] = Model {
            given,
            ..Model::default()
        };
    }

    pub(super) fn check_served(&mut self, key: usize, served: &Served) -> Kept {
        self.tally.served += 1;
        let token = token_of(&served.token);
        promise!(
            self.tokens[token].key == key,
            "no token of another key",
            "{key} got {token}"
        );
        let left = self.tokens[token].expires_on.saturating_sub(self.now.wall);
        promise!(
            served.left >= SECOND && served.left <= left,
            "never an expired token",
            "{key}: {:?} said to be left, {left:?} is",
            served.left
        );
        let Some(lease) = self.models[key].lease else {
            return Err(broken("no token out of nothing", || key.to_string()));
        };
        promise!(
            lease.token == token,
            "the token that was kept",
            "{key}: {token}, not {}",
            lease.token
        );
        let known = self.left(key);
        promise!(
            served.left == known,
            "what is left is known",
            "{key}: {:?}, not {known:?}",
            served.left
        );
        Ok(())
    }

    /// Takes note of what the broker says that it has.
    pub(super) fn look(&mut self) -> Kept {
        let entries: Vec<Entry> = self.broker.entries(&all_keys(&self.broker), self.now);
        let mut present = [false; KEYS];
        for entry in &entries {
            let key = self.index(&entry.key);
            present[key] = true;
            let left = self.left(key);
            promise!(
                entry.left == left,
                "what is left is known",
                "{key}: {:?}, not {left:?}",
                entry.left
            );
            promise!(
                !self.models[key].running || entry.fetching,
                "a running fetch is known",
                "{key}"
            );
            self.models[key].fetching = entry.fetching;
            if !entry.fetching {
                self.models[key].turns.clear();
            }
        }
        for carried in self.broker.snapshot(&all_keys(&self.broker)) {
            let key = self.index(&carried.key);
            let model = &mut self.models[key];
            promise!(
                model.users.contains(&carried.owner),
                "a key counts for somebody who asked for it",
                "{key}: {} of {:?}",
                carried.owner,
                model.users
            );
            model.owner = carried.owner;
        }
        for (key, model) in self.models.iter().enumerate() {
            promise!(
                model.exists == present[key],
                "slots come and go as told",
                "{key}: {}",
                model.exists
            );
        }
        Ok(())
    }

    /// What holds at any time.
    pub(super) fn inspect(&mut self) -> Kept {
        self.look()?;
        let count = self.existing().count();
        self.allowed = self.policy.max_tokens.max(self.allowed.min(count));
        promise!(count <= self.allowed, "max_tokens", "{count} keys");
        let bytes = self.bytes();
        self.allowed_bytes = self.policy.max_bytes.max(self.allowed_bytes.min(bytes));
        promise!(bytes <= self.allowed_bytes, "max_bytes", "{bytes} bytes");
        for uid in 0..=UIDS {
            let owned = self.owned(uid).count();
            let allowed = self.allowed_of.get(&uid).copied().unwrap_or(0).min(owned);
            let allowed = allowed.max(self.policy.max_tokens_per_uid);
            promise!(owned <= allowed, "max_tokens_per_uid", "{uid} has {owned}");
            self.allowed_of.insert(uid, allowed);
        }
        let wake = self.broker.next_wake(self.now);
        self.wait_on();
        if let Some(first) = self.waiting.values().map(|waiting| waiting.deadline).min() {
            promise!(
                wake.is_some_and(|wake| wake <= first),
                "the timer knows who waits",
                "{wake:?}, {first:?}"
            );
        }
        if self.queued().any(|key| self.may_have_its_turn(key)) && self.running.len() < self.policy.max_concurrent {
            let soon = self
                .may_be_silent_until
                .max(self.now.boot + Duration::from_millis(1100));
            promise!(
                wake.is_some_and(|wake| wake <= soon),
                "who is in line gets a turn",
                "wake {wake:?}"
            );
        }
        Ok(())
    }
}

/// Whether the broker said so of the token that came.
pub fn has_no_room(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Note(Note::Failed { failure, .. }) if failure.class == Class::Full))
}
