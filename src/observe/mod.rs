//! What the daemon tells of itself: the log, metrics, and documents of what is cached.

pub mod audit;
pub mod events;
pub mod evidence;
pub mod health;
pub mod labels;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod report;
pub mod scrape;
pub mod status;

mod audit_hour;
mod journal;
mod listed;
mod process;
mod queue;
mod record;
