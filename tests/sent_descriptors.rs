//! Callers that send a descriptor which takes long to close, on kernels that cannot refuse it: nobody else waits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/kernel.rs"]
mod kernel;

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use common::{Daemon, Emulator, eventually};
use kernel::OldKernel;
use nix::libc::linger;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

const SO_PASSRIGHTS: i32 = 83;
const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n";
const LAST: &[u8] = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Both ends of a TCP connection, the first of which has unsent data and waits an hour for them when it is closed.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (l_onoff, l_linger) = (1, 3600);
    setsockopt(&stream, sockopt::Linger, &linger { l_onoff, l_linger }).unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 16384]).is_ok() {}
    (stream, listener.accept().unwrap().0)
}

/// Sends data with such a descriptor, of which the daemon has the last copy. Gives back the end that reads nothing.
fn send_lingering(daemon: &Daemon, to: &UnixStream, data: &[u8], flags: MsgFlags) -> TcpStream {
    let (ours, theirs) = lingering();
    let descriptors = [ours.as_raw_fd()];
    let along = [ControlMessage::ScmRights(&descriptors)];
    daemon.signal(Signal::SIGSTOP);
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(data)], &along, flags, None).unwrap();
    drop(ours);
    daemon.signal(Signal::SIGCONT);
    theirs
}

/// Asks one request and reads its answer.
fn ask(stream: &mut UnixStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn nobody_waits_until_a_descriptor_that_somebody_sent_is_closed() {
    let test = "nobody_waits_until_a_descriptor_that_somebody_sent_is_closed";
    let Some(kernel) = OldKernel::without("setsockopt", SO_PASSRIGHTS, test) else {
        return;
    };
    let daemon = kernel.daemon(&Emulator::start(&[]), "");
    let mut other = daemon.connect();
    // Once the daemon is done with all others: a signal, with which the next one begins, would also end its wait.
    let mut is_served = |when: &str| {
        assert!(ask(&mut other, LIVE).contains(" 200 "), "{when}");
        eventually(when, || {
            let metrics = daemon.get("/metrics").body;
            metrics.contains("\nmsi_tokend_connections 2\n")
        });
    };
    let none = MsgFlags::empty();

    let mut unread = Vec::new();
    for request in [LIVE, LAST, b"GET ", b"x"] {
        let mut first = daemon.connect();
        unread.push(send_lingering(&daemon, &first, request, none));
        assert!(is_closed(&mut first));
        is_served("with a first request");

        let mut kept = daemon.connect();
        assert!(ask(&mut kept, LIVE).contains(" 200 "));
        unread.push(send_lingering(&daemon, &kept, request, none));
        assert!(is_closed(&mut kept));
        is_served("with a second request");

        let out_of_band = daemon.connect();
        unread.push(send_lingering(&daemon, &out_of_band, request, MsgFlags::MSG_OOB));
        drop(out_of_band);
        is_served("out of band");

        let gone = daemon.connect();
        unread.push(send_lingering(&daemon, &gone, request, none));
        drop(gone);
        is_served("by somebody who hangs up");

        let mut behind = daemon.connect();
        daemon.signal(Signal::SIGSTOP);
        behind.write_all(LAST).unwrap();
        unread.push(send_lingering(&daemon, &behind, request, none));
        is_closed(&mut behind);
        is_served("behind the last request");
    }
}
