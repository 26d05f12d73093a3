//! Decides, and does nothing else: no I/O, no clock, no task. Each event is a call with its time; what must be done comes out
//! as [`Effect`]s.
//!
//! The promises kept here: never an expired token; one request to the upstream per key, whatever the number of callers;
//! never more requests than the governor allows; a token that can be served is served, whatever the upstream says;
//! every caller gets an answer by its deadline.

mod backoff;
mod core;
mod event;
mod governor;
mod lanes;
mod lifetime;
mod outcome;
mod owned;
mod room;
mod slot;
mod snapshot;
mod store;
mod waiters;

pub use self::backoff::Streak;
pub use self::core::Broker;
pub use self::event::{
    Answer, Ask, Bound, Decision, Effect, Entry, Fetch, Note, Policy, Renewal, Served, Unserved, WaiterId,
};
pub use self::lifetime::LOW;
pub use self::slot::Failing;
pub use self::snapshot::KeySnapshot;
