//! Callers: a connection, who it is, what it asks, what it gets. [`handle`] reads from a request's bytes to its answer.

mod accept;
mod admin;
mod admission;
mod connection;
mod documents;
mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guest;
mod handle;
mod last_request;
mod lock_evidence;
mod lock_probe;
mod passthrough;
mod problem;
mod protocol;
mod request;
mod request_metrics;
mod response;
mod seats;
mod session;
mod shared;
mod slots;
mod unread;
mod write_timeout;

pub use self::accept::accept;
pub use self::admission::ListenerKind;
pub use self::connection::MAX_HEAD;
pub use self::documents::MAX_BYTES as MAX_DOCUMENTS;
pub use self::last_request::MAX_KEPT_TARGET;
pub use self::lock_probe::watch_lock;
pub use self::passthrough::{KERNEL_BUFFER, READ_BUFFER};
pub use self::seats::{BEYOND, Bounds};
pub use self::shared::{MONITORS, ReloadRequest, Server, Settings};
pub use self::slots::SLOTS;
