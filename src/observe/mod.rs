//! What the daemon tells of itself: the log, and documents of what is cached.

pub mod events;
pub mod log;
pub mod manager;
pub mod report;
pub mod status;

mod journal;
mod queue;
mod record;
