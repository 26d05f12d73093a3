//! Who is calling, and what they may have. The kernel names the caller; the rules judge each request before anything
//! is looked up.

mod caller;
pub mod loopback;
mod peer_groups;
mod rules;

pub use self::caller::Caller;
pub use self::rules::{Grant, Part, Rule, Rules, UnknownName};
