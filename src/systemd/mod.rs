//! All that is told to systemd and taken from it; nothing of it is needed where there is no systemd.

mod activation;
mod fdstore;
mod notify;
mod snapshot;
mod watchdog;

pub use self::activation::{Activation, ActivationError};
pub use self::fdstore::FdStore;
pub use self::notify::notify;
pub use self::watchdog::{keep_informed, stopping};
