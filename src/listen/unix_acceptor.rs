//! Accepts over the Unix socket, with as few system calls as it takes.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::access::{Closer, Socket};

/// A Unix socket that listens. Its connections are not registered with the runtime yet, which tokio's own listener does at
/// once.
#[derive(Debug)]
pub struct UnixAcceptor {
    listener: UnixListener,
    /// The same socket, as a type by which tokio tells when somebody waits.
    readiness: UnixStream,
    /// Whether somebody waited the last time we looked, and nobody looked since.
    accepted: bool,
    /// Where the kernel cannot refuse descriptors.
    closer: Option<Closer>,
}

impl UnixAcceptor {
    /// Takes the listener over. To be called inside the runtime.
    pub fn new(listener: UnixListener, closer: Option<Closer>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let same = StdStream::from(OwnedFd::from(listener.try_clone()?));
        Ok(Self {
            listener,
            readiness: UnixStream::from_std(same)?,
            accepted: false,
            closer,
        })
    }

    /// The next connection.
    pub async fn accept(&mut self) -> io::Result<Socket> {
        loop {
            poll_fn(|cx| self.readiness.poll_read_ready(cx)).await?;
            let accepted = self.readiness.try_io(Interest::READABLE, || {
                // An accept that finds nobody costs the kernel nearly as much as one that succeeds.
                if std::mem::take(&mut self.accepted) && !is_waiting(&self.listener)? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.listener.accept()
            });
            match accepted {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => {
                    self.accepted = accepted.is_ok();
                    return Ok(Socket::new(accepted?.0, self.closer.clone()));
                }
            }
        }
    }
}

/// Whether there is a caller in the queue.
fn is_waiting(listener: &UnixListener) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut descriptors, PollTimeout::ZERO)? > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn everybody_is_accepted_in_turn_whether_he_came_before_or_after_we_looked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut acceptor = UnixAcceptor::new(UnixListener::bind(&path).unwrap(), None).unwrap();
        let mut number = 0;
        for crowd in [1, 3, 1, 2] {
            let mut callers = Vec::new();
            for caller in 0..crowd {
                let mut stream = StdStream::connect(&path).unwrap();
                stream.write_all(&[number + caller]).unwrap();
                callers.push(stream);
            }
            for _ in 0..crowd {
                assert_eq!(acceptor.accept().await.unwrap().read_u8().await.unwrap(), number);
                number += 1;
            }
            assert!(acceptor.accept().now_or_never().is_none(), "nobody is left");
        }
    }
}
