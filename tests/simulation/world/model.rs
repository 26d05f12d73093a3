//! What is to be expected of the broker, one key at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use msi_tokend::broker::Fetch;
use msi_tokend::clock::Now;
use msi_tokend::failure::Class;
use msi_tokend::token::Token;

use crate::upstream::Verdict;

/// What is to be expected of one key.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Model {
    pub exists: bool,
    pub warm: bool,
    pub owner: u32,
    pub lease: Option<Lease>,
    /// There was a lease that was over when the reply at hand came.
    pub was_over: bool,
    pub given: Vec<usize>,
    pub running: bool,
    /// Running, or in line; as of the last look.
    pub fetching: bool,
    pub last_start: Option<Duration>,
    pub last_forced: Option<Duration>,
    pub force_asked: Option<Duration>,
    pub last_asked: Duration,
    /// The last failure since a good reply, and until when nothing is asked for it.
    pub failing: Option<(Class, Duration)>,
    /// When it is renewed if nothing happens.
    pub planned: Duration,
    pub asked_by: BTreeSet<u32>,
    /// Everybody who asked for it since it came, and uid 0 where it was made warm.
    pub users: BTreeSet<u32>,
    /// For whoever waits for it to start.
    pub turns: Vec<Turn>,
}

/// Somebody of this uid waits for a key's turn: the starts before, and how many there may be.
pub struct Turn {
    pub uid: u32,
    pub before: u64,
    pub most: u64,
}

#[derive(Clone, Copy)]
pub struct Lease {
    pub token: usize,
    pub expires_boot: Duration,
}

pub struct Running {
    pub fetch: Fetch,
    pub key: usize,
    pub ends: Duration,
    pub verdict: Verdict,
    /// Of an upstream that is not asked any more.
    pub former: bool,
}

pub struct Waiting {
    pub key: usize,
    pub uid: u32,
    pub deadline: Duration,
    pub patience: Duration,
}

pub struct Issued {
    pub key: usize,
    pub expires_on: Duration,
    pub client: Option<&'static str>,
    pub size: usize,
}

pub fn left_of(lease: &Lease, tokens: &[Issued], now: Now) -> Duration {
    let wall = tokens[lease.token].expires_on.saturating_sub(now.wall);
    let boot = lease.expires_boot.saturating_sub(now.boot);
    Duration::from_secs(wall.min(boot).as_secs())
}

/// Some are much larger than others.
pub fn secret(token: usize) -> String {
    format!("t{token}.{}", "x".repeat(token % 300 * 37 % 300))
}

/// Which token this is, read from the answer that a caller would get.
pub fn token_of(token: &Token) -> usize {
    let json = token.members();
    let text = std::str::from_utf8(&json).unwrap();
    let secret = text.strip_prefix(r#""access_token":"t"#).unwrap();
    secret[..secret.find('.').unwrap()].parse().unwrap()
}
