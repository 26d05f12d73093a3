//! What the daemon tells systemd and takes from it. Without systemd the daemon runs as well.

mod activation;
mod fdstore;
mod notify;
mod snapshot;
mod watchdog;

pub use self::activation::{Activation, ActivationError};
pub use self::fdstore::FdStore;
pub use self::notify::notify;
pub use self::watchdog::{keep_informed, stopping};
