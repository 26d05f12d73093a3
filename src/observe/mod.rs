//! What the daemon tells of itself.

pub mod events;
pub mod log;

mod journal;
mod queue;
mod record;
