//! What goes into the broker and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::key::Key;
use crate::token::Token;

/// A caller that waits; made by [`super::Broker::ask`].
pub type WaiterId = u64;

/// What the configuration says about the cache.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Keys in all.
    pub max_tokens: usize,
    /// Bytes of all tokens together.
    pub max_bytes: usize,
    /// Keys of one uid: those that it asked for first, or that are another's no more.
    pub max_tokens_per_uid: usize,
    /// After this long without a request a key is dropped.
    pub idle_drop: Duration,
    /// How long a caller without a token is held.
    pub caller_wait: Duration,
    /// Upstream requests at once.
    pub max_concurrent: usize,
    /// Upstream requests started within a second.
    pub max_per_second: usize,
    /// Keys that are kept for ever.
    pub warm: Vec<Key>,
}

/// One request of a caller that may have the key.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Which token.
    pub key: &'a Key,
    /// The uid that the caller counts as, for fairness and bounds.
    pub uid: u32,
    /// Whether the cached token will do.
    pub renewal: Renewal,
}

/// Whether the cached token will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It will.
    No,
    /// `bypass_cache=true`: a new one is wanted.
    Bypass,
    /// `token_sha256_to_refresh`: a new one is wanted in place of the token with this SHA-256.
    Replace([u8; 32]),
}

/// A token and what is left of it at the moment of the answer.
#[derive(Clone, Debug)]
pub struct Served {
    /// The token.
    pub token: Arc<Token>,
    /// Whole seconds, at least one.
    pub left: Duration,
}

/// Why a caller gets no token.
#[derive(Clone, Debug)]
pub enum Unserved {
    /// The upstream failed; it will be asked again after the given time.
    Failed(Arc<Failure>, Duration),
    /// The caller's wait ran out; with the upstream's last failure, if it has answered at all.
    TimedOut(Option<Arc<Failure>>),
    /// No room for another key, and nothing to evict.
    Full(Bound),
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `max_tokens`
    Total,
    /// `max_tokens_per_uid`
    PerUid,
}

/// The answer to a caller.
pub type Answer = Result<Served, Unserved>;

/// What the broker decides about one request.
#[derive(Debug)]
pub enum Decision {
    /// Answer now.
    Now(Answer),
    /// An [`Effect::Answer`] with this id will come.
    Wait(WaiterId),
}

/// What the engine must now do.
#[derive(Debug)]
pub enum Effect {
    /// Ask the upstream, detached from every caller, and come back with [`super::Broker::reply`].
    Fetch(Fetch),
    /// Wake this caller.
    Answer(WaiterId, Answer),
    /// Log this, and count it.
    Note(Note),
}

/// One request to the upstream.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What to ask for.
    pub key: Arc<Key>,
    /// The upstream is to answer past its own cache.
    pub bypass: bool,
    /// The uid whose miss it is; `None` where a token is renewed ahead.
    pub uid: Option<u32>,
    /// How often the upstream had changed when this was asked for.
    pub(super) upstream: u64,
}

/// A change that is logged or counted.
#[derive(Clone, Debug)]
pub enum Note {
    /// The upstream gave a token.
    Refreshed {
        /// The key.
        key: Arc<Key>,
        /// How long it can be served.
        left: Duration,
        /// End of validity since 1970.
        expires_on: Duration,
        /// Until it is renewed.
        next_in: Duration,
        /// It is the same token as before.
        same: bool,
        /// Failures in a row before it.
        failures: u32,
        /// The last of these failures, unless all were throttles: those concern every key and are noted by themselves.
        after: Option<Arc<Failure>>,
    },
    /// The upstream failed.
    Failed {
        /// The key.
        key: Arc<Key>,
        /// What happened.
        failure: Arc<Failure>,
        /// Failures in a row by now.
        failures: u32,
        /// The first failure of its class in that row. Never true for a throttle, which is noted by itself.
        first: bool,
        /// What can still be served of the token; zero if nothing.
        left: Duration,
        /// End of the token's validity since 1970, where there is a token.
        expires_on: Option<Duration>,
        /// Until the next try.
        next_in: Duration,
    },
    /// A token has expired because it could not be renewed: callers are refused from now on. Noted once for each token.
    Lapsed {
        /// The key.
        key: Arc<Key>,
        /// When it ended, since 1970.
        expires_on: Duration,
        /// The last failure.
        failure: Arc<Failure>,
        /// Failures in a row by now.
        failures: u32,
    },
    /// The upstream answered 429, so nothing is asked for any key. Noted once for all requests that ran together.
    Throttled {
        /// The failure.
        failure: Arc<Failure>,
        /// Rounds in a row by now.
        rounds: u32,
        /// Until anything is asked again.
        next_in: Duration,
    },
    /// The upstream answered something else than 429 again.
    Unthrottled {
        /// Rounds of 429s before it.
        rounds: u32,
    },
    /// The default identity's token belongs to another client id than the one before it.
    IdentityChanged {
        /// The key.
        key: Arc<Key>,
        /// The client id before.
        old: Option<String>,
        /// The client id now.
        new: Option<String>,
    },
    /// Nobody asked for the key any more.
    Dropped(Arc<Key>),
    /// The key made room for another.
    Evicted(Arc<Key>),
    /// The wall clock was stepped, or the boot-time clock stood still; refreshes were planned anew.
    ClockStepped {
        /// By how much the two clocks differ from what was expected.
        by: Duration,
        /// The wall clock was stepped forward.
        forward: bool,
    },
}

/// One cached key, for `/status`, `/ready` and `/metrics`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which token.
    pub key: Arc<Key>,
    /// Kept for ever by the configuration.
    pub warm: bool,
    /// End of validity since 1970, where there is a token.
    pub expires_on: Option<Duration>,
    /// What can still be served of it; zero if nothing.
    pub left: Duration,
    /// Until the upstream is asked again; zero while it is being asked.
    pub next_in: Duration,
    /// A fetch is under way or in line.
    pub fetching: bool,
    /// The upstream's last failure, if no good reply came since.
    pub last_failure: Option<Arc<Failure>>,
    /// Failures in a row.
    pub failures: u32,
    /// Time since somebody last asked.
    pub asked_ago: Duration,
    /// Answers given from the cache.
    pub hits: u64,
}
