//! Opens each listener, or says why there is none.
//!
//! A listener that systemd passes lives on, with the callers in its queue, for the next process. A listener that the
//! daemon binds itself ends with the process.

mod listener;
mod lock;
mod own_file;
mod sdk;
mod sdk_env;
mod tcp;
mod unix;
mod unix_acceptor;

pub use self::listener::{Acceptor, ListenError, Listener, RECEIVE_BUFFER, Stream};
pub use self::lock::{METADATA_HOST, METADATA_SERVICE, dialled, open as open_lock};
pub use self::sdk::{Sdk, open as open_sdk};
pub use self::tcp::bind as bind_loopback;
pub use self::unix::bind as bind_unix;
