//! The bounds on keys, in all and by uid, and on the bytes of their tokens; and which key is evicted when one is reached.
//!
//! A key without a live token goes first, then the least recently used of the heaviest user; never a warm one, nor one
//! whose fetch runs. Nobody loses a live token for somebody else's new key, so a uid that asks for endless keys throws
//! out no more than what it alone uses.

use std::cmp::Reverse;
use std::sync::Arc;

use super::event::{Bound, Effect, Note, Policy};
use super::slot::Slot;
use super::store::{Edit, Store};
use crate::clock::Now;
use crate::key::Key;

/// For what a key is evicted.
#[derive(Clone, Copy, Debug)]
enum Claim {
    /// A key of this uid that has no live token yet.
    New(u32),
    /// A warm key, a token in place of a live one, or a configuration with narrower bounds.
    Kept,
}

impl Edit<'_> {
    /// A caller of this uid asks for the key. When a second uid does, the key counts for that one from then on, if that is
    /// below its bound.
    pub fn note_asker(&mut self, uid: u32, policy: &Policy) {
        if self.owner != uid && self.other != Some(uid) {
            let alone = self.other.replace(uid).is_none();
            if alone && !self.warm && self.owned.count(uid) < policy.max_tokens_per_uid {
                self.owned.hand_over(self.slot, uid);
            }
        }
    }
}

impl Store {
    /// A slot for a key that has none.
    pub fn admit(
        &mut self,
        key: &Key,
        uid: u32,
        policy: &Policy,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Bound> {
        let cause = Claim::New(uid);
        while self.owned.count(uid) >= policy.max_tokens_per_uid {
            if !self.relieve(uid, cause, policy, now, effects) {
                return Err(Bound::PerUid);
            }
        }
        while self.slots.len() >= policy.max_tokens {
            let first = self.first_to_go(self.iter(), cause, now);
            if !self.evict(first, effects) {
                return Err(Bound::Total);
            }
        }
        self.insert(Slot::new(Arc::new(key.clone()), uid, false, now.boot));
        Ok(())
    }

    /// Makes room for a token of so many bytes in place of what the key has. Returns false, and
    /// evicts nothing, if not enough may be evicted.
    pub fn make_room(&mut self, key: &Key, size: usize, policy: &Policy, now: Now, effects: &mut Vec<Effect>) -> bool {
        let Some(slot) = self.get(key) else { return false };
        let more = size.saturating_sub(slot.size());
        if more == 0 {
            return true;
        }
        let cause = if slot.warm || slot.is_live(now) {
            Claim::Kept
        } else {
            Claim::New(slot.owner)
        };
        let excess = (self.bytes + more).saturating_sub(policy.max_bytes);
        if excess == 0 {
            return true;
        }
        let others = self.iter().filter(|slot| *slot.key != *key);
        let may_go: usize = others.filter(|slot| cause.may_take(slot, now)).map(Slot::size).sum();
        if excess > may_go {
            return false;
        }
        self.shrink_to(policy.max_bytes.saturating_sub(more), Some(key), cause, now, effects);
        true
    }

    /// Whether one more key of this uid fits as things are.
    pub fn has_room_for(&self, uid: u32, policy: &Policy) -> bool {
        self.owned.count(uid) < policy.max_tokens_per_uid && self.slots.len() < policy.max_tokens
    }

    /// Whether a token of so many bytes fits as things are.
    pub fn fits(&self, size: usize, policy: &Policy) -> bool {
        self.bytes.saturating_add(size) <= policy.max_bytes
    }

    /// Evicts until the bounds hold again, as far as something may go.
    pub fn trim(&mut self, policy: &Policy, now: Now, effects: &mut Vec<Effect>) {
        for uid in self.owned.uids() {
            while self.owned.count(uid) > policy.max_tokens_per_uid
                && self.relieve(uid, Claim::Kept, policy, now, effects)
            {}
        }
        while self.slots.len() > policy.max_tokens {
            let first = self.first_to_go(self.iter(), Claim::Kept, now);
            if !self.evict(first, effects) {
                break;
            }
        }
        self.shrink_to(policy.max_bytes, None, Claim::Kept, now, effects);
    }

    /// Makes room for one more key of the uid: passes a key on to another uid, or evicts one. False where neither can be.
    fn relieve(&mut self, uid: u32, cause: Claim, policy: &Policy, now: Now, effects: &mut Vec<Effect>) -> bool {
        let owned = self.owned.of(uid).filter_map(|key| self.get(key));
        let first = self.first_to_go(owned, cause, now);
        let costs_nothing = first.as_ref().is_some_and(|key| !self.is_live(key, now));
        (!costs_nothing && self.pass_on(uid, policy)) || self.evict(first, effects)
    }

    /// A key that others use as well counts for one of them from now on, where one has room for it.
    fn pass_on(&mut self, uid: u32, policy: &Policy) -> bool {
        let shared = self.owned.of(uid).filter_map(|key| {
            let slot = self.get(key)?;
            Some((slot.last_asked, slot.key.clone(), slot.other?))
        });
        let first = shared
            .filter(|(_, _, other)| self.owned.count(*other) < policy.max_tokens_per_uid)
            .min();
        let Some((_, key, other)) = first else { return false };
        if let Some(slot) = self.slots.get_mut(&key) {
            self.owned.hand_over(slot, other);
        }
        true
    }

    /// Evicts until the tokens have at most so many bytes, but never this key.
    fn shrink_to(&mut self, most: usize, except: Option<&Key>, cause: Claim, now: Now, effects: &mut Vec<Effect>) {
        while self.bytes > most {
            let heavy = self.iter().filter(|slot| slot.size() > 0);
            let others = heavy.filter(|slot| except != Some(&*slot.key));
            let first = self.first_to_go(others, cause, now);
            if !self.evict(first, effects) {
                break;
            }
        }
    }

    /// The slot to evict first, of those among `slots` that may be evicted.
    fn first_to_go<'s>(&self, slots: impl Iterator<Item = &'s Slot>, cause: Claim, now: Now) -> Option<Arc<Key>> {
        slots
            .filter(|slot| cause.may_take(slot, now))
            .min_by_key(|slot| {
                let weight = self.owned.count(slot.owner);
                (slot.is_live(now), Reverse(weight), slot.last_asked, &slot.key)
            })
            .map(|slot| slot.key.clone())
    }

    fn evict(&mut self, key: Option<Arc<Key>>, effects: &mut Vec<Effect>) -> bool {
        let Some(key) = key else { return false };
        self.remove(&key);
        effects.push(Effect::Note(Note::Evicted(key)));
        true
    }

    fn is_live(&self, key: &Key, now: Now) -> bool {
        self.get(key).is_some_and(|slot| slot.is_live(now))
    }
}

impl Claim {
    fn may_take(self, slot: &Slot, now: Now) -> bool {
        let its_own = || match self {
            Self::New(uid) => slot.owner == uid && slot.other.is_none(),
            Self::Kept => true,
        };
        slot.is_evictable() && (!slot.is_live(now) || its_own())
    }
}
