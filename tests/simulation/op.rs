//! What happens, one thing after the other, and what it happens to.

use std::sync::Arc;
use std::time::Duration;

use msi_tokend::broker::Policy;
use msi_tokend::key::{Identity, Key, Resource};

use super::upstream::Mood;

pub const KEYS: usize = 24;
/// Uids from 1 on; 0 has what is warm.
pub const UIDS: u32 = 5;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Ask {
        uid: u32,
        key: usize,
        want: Want,
    },
    /// One of those who wait goes away.
    HangUp(usize),
    /// Time passes, and what is due in it happens.
    Pass(Duration),
    /// The VM is suspended: time passes and nothing happens.
    Sleep(Duration),
    /// The wall clock is stepped by so many milliseconds.
    Step(i64),
    /// The timer comes round for no reason.
    Tick,
    /// The upstream changes.
    Mood(Mood),
    /// The configuration changes to this [`policy`].
    Reload(usize),
    /// Another upstream is asked from now on.
    Move,
    /// The process ends, and the next one takes over what it left; with another upstream or the same.
    Restart {
        elsewhere: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Any,
    Bypass,
    /// Instead of the token that is cached.
    ReplaceThis,
    /// Instead of some other token.
    ReplaceOther,
}

/// The configurations that a run moves between.
pub fn policy(n: usize, keys: &[Arc<Key>]) -> Policy {
    let (max_tokens, max_bytes, max_tokens_per_uid, idle, wait, max_concurrent, max_per_second) = [
        (1000, 8_000_000, 64, 86_400, 20, 4, 10),
        (8, 1300, 3, 600, 5, 1, 1),
        (16, 900, 8, 86_400, 20, 2, 3),
        (6, 8_000_000, 5, 30, 60, 4, 10),
        (24, 2500, 12, 3600, 20, 3, 7),
    ][n % 5];
    Policy {
        max_tokens,
        max_bytes,
        max_tokens_per_uid,
        idle_drop: Duration::from_secs(idle),
        caller_wait: Duration::from_secs(wait),
        max_concurrent,
        max_per_second,
        warm: keys
            .iter()
            .take([0, 1, 3][n / 5 % 3])
            .map(|key| (**key).clone())
            .collect(),
    }
}

pub fn keys() -> Vec<Arc<Key>> {
    let key = |i: usize| {
        let resource = Resource::new(&format!("https://{}/", i / 2)).unwrap();
        let identity = if i.is_multiple_of(2) {
            Identity::Default
        } else {
            Identity::client_id("one").unwrap()
        };
        Arc::new(Key::new(resource, identity))
    };
    (0..KEYS).map(key).collect()
}
