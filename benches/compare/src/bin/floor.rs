//! The floor: a hand-written epoll loop that knows one answer. `floor SOCKET BODY-FILE`
//!
//! It parses nothing but the end of a request's head; whatever is faster than this does less than HTTP.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [socket, body] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "floor SOCKET BODY-FILE")?;
    let body = std::fs::read(body)?;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);

    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let listening = listener.as_raw_fd();
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, listening as u64))?;
    let mut connections: HashMap<RawFd, UnixStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            let fd = event.data() as RawFd;
            if fd == listening {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, stream.as_raw_fd() as u64))?;
                    connections.insert(stream.as_raw_fd(), stream);
                }
            } else if connections.get(&fd).is_some_and(|stream| !serve(stream, &answer)) {
                connections.remove(&fd);
            }
        }
    }
}

/// Answers what has come; false when the connection is over.
fn serve(mut stream: &UnixStream, answer: &[u8]) -> bool {
    let mut head = [0; 4096];
    match stream.read(&mut head) {
        Ok(0) => false,
        Ok(length) if head[..length].ends_with(b"\r\n\r\n") => stream.write_all(answer).is_ok(),
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
