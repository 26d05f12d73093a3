//! What the daemon tells systemd and takes from it. Without systemd the daemon runs as well.

mod activation;
mod cache_format;
mod fdstore;
mod message;
mod notify;

pub use self::activation::{Activation, ActivationError};
pub use self::fdstore::FdStore;
pub use self::message::notify;
pub use self::notify::{keep_informed, stopping};
