//! Callers: a connection, who it is, what it asks, what it gets. [`handle`] reads from a request's bytes to its answer.

mod accept;
mod admin;
mod admission;
mod connection;
mod documents;
mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handle;
mod last_request;
mod problem;
mod protocol;
mod request;
mod request_metrics;
mod response;
mod seats;
mod session;
mod shared;
mod write_timeout;

pub use self::accept::accept;
pub use self::admission::ListenerKind;
pub use self::seats::Bounds;
pub use self::shared::{ReloadRequest, Server, Settings};
