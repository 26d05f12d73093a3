//! Closes connections over which descriptors were sent, where the kernel cannot refuse those (before Linux 6.16).
//!
//! To close such a connection is to close the descriptors in it, which waits for as long as their sender likes: for a TCP
//! socket with `SO_LINGER` and unsent data, until the other end takes the data. The kernel does not let a thread wait that
//! is ending (`PF_EXITING` in `inet_release`). So a thread with a descriptor table of its own is the last that has the
//! connection open, and ends.

use std::io;
use std::iter;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Hands connections to a thread that closes them, so that whoever serves callers does not.
#[derive(Clone, Debug)]
pub struct Closer(Sender<UnixStream>);

impl Closer {
    /// Starts the thread. It ends with the last clone.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start() -> io::Result<Self> {
        let (sender, connections) = mpsc::channel();
        thread::Builder::new().name("closer".into()).spawn(move || {
            while let Ok(first) = connections.recv() {
                close_at_once(iter::once(first).chain(connections.try_iter()).collect());
            }
        })?;
        Ok(Self(sender))
    }

    /// Has the connection closed soon.
    pub fn close(&self, connection: UnixStream) {
        // The thread ends no earlier than this.
        _ = self.0.send(connection);
    }
}

/// Where there can be no thread or no table for it, this one waits, and nobody else does.
fn close_at_once(connections: Vec<UnixStream>) {
    let (copied, is_copied) = mpsc::channel();
    let (closed, is_closed) = mpsc::channel::<()>();
    let last = thread::Builder::new().spawn(move || {
        _ = copied.send(unshare(CloneFlags::CLONE_FILES));
        _ = is_closed.recv();
    });
    _ = is_copied.recv();
    drop(connections);
    drop(closed);
    _ = last.map(thread::JoinHandle::join);
}
