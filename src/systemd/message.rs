//! One message to systemd (`sd_notify(3)`), which never waits for it.
//!
//! While PID 1 does not read (it is busy, stopped, or frozen after a crash), the queue of its socket fills up, and the next
//! send would wait, and with it the one thread that serves callers. Here a full queue is an error, and the caller sends the
//! message again later.

use std::env;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;

/// Tells all of `state` and hands over the descriptors; outside systemd there is nobody to tell.
///
/// # Errors
/// Nothing was told: systemd does not read now ([`io::ErrorKind::WouldBlock`]), or cannot be reached.
pub fn notify(state: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    env::var_os("NOTIFY_SOCKET").map_or(Ok(()), |socket| send(socket.as_ref(), state, descriptors))
}

fn send(socket: &Path, state: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let message: Vec<String> = state.iter().map(ToString::to_string).collect();
    let message = message.join("\n");
    let to = UnixDatagram::unbound()?;
    to.connect(socket)?;
    let descriptors: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(message.as_bytes())], rights, flags, None) {
        // A datagram goes whole or not at all.
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "it does not read its messages",
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_an_error_and_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&socket).unwrap();
        let stopping = [NotifyState::Stopping, NotifyState::Status("ends")];
        let full = std::iter::repeat_with(|| send(&socket, &stopping, &[])).find_map(Result::err);
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
        let mut read = [0; 64];
        let length = systemd.recv(&mut read).unwrap();
        assert_eq!(&read[..length], b"STOPPING=1\nSTATUS=ends");
        send(&socket, &stopping, &[systemd.as_fd()]).unwrap();
    }
}
