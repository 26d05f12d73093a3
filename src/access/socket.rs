//! A connection over the Unix socket, which costs least for callers that ask once and close.
//!
//! The runtime tells epoll of a connection, and later of its end: two system calls, more than it takes to look up a token.
//! A blocking client, such as curl, sends its request right after it has connected, so the request is there when the
//! connection is accepted, and the answer fits into the kernel's buffer. Such a connection is read, written and closed
//! without the runtime; [`Socket::drive`] brings it in for those that have to wait.
//!
//! Where the kernel cannot refuse descriptors (before Linux 6.16), nothing is taken from the kernel before it was looked at:
//! to take or to drop data with descriptors is to close them, which may take long ([`Closer`]). It costs those kernels a
//! system call for each read and three for each connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream as BareStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::getsockopt_impl;
use nix::libc;
use nix::sys::socket::{MsgFlags, getsockopt, recv, recvmsg, send, setsockopt, sockopt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::closer::Closer;

/// What the kernel may hold of answers that a caller does not read, in bytes. It takes twice as much for its own
/// bookkeeping (`socket(7)`) and charges it to the daemon's cgroup, so the system's default of some 200 KB would let a
/// few hundred callers that do not read use up all of `MemoryMax=`. A token of the usual length fits, and over TCP two pieces of
/// a longer answer: the other end confirms a single one only after a while.
pub const SEND_BUFFER: usize = 4096;
/// A request of the usual length is read at once.
const PIECE: usize = 4096;

/// What the kernel holds for a socket: of what came in, at most of that, of what was sent and is unread (`sk_get_meminfo`).
#[derive(Clone, Copy)]
struct MemInfo;
getsockopt_impl!(
    MemInfo,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 3],
    sockopt::GetStruct<[u32; 3]>
);

thread_local! {
    /// For one read at a time.
    static READ: RefCell<[u8; PIECE]> = const { RefCell::new([0; PIECE]) };
}

/// One connection, shared between whoever speaks over it and the [`super::Caller`] that it belongs to. The lock is held
/// for single system calls only, all of them on the thread that drives the connection.
#[derive(Clone, Debug)]
pub struct Socket(Arc<Mutex<Connection>>);

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// Where the kernel cannot refuse descriptors.
    closer: Option<Closer>,
    /// Nothing more comes from the other end.
    ended: bool,
}

#[derive(Debug)]
enum Stream {
    /// The runtime does not know of it: whoever finds that he has to wait is not woken.
    Bare {
        stream: BareStream,
        /// Whether a read found less than it could have taken: hyper looks for more before it answers.
        drained: bool,
        /// Whether the kernel was given an answer already; see [`SEND_BUFFER`].
        answered: bool,
    },
    Registered(UnixStream),
    /// The runtime could not take it.
    Lost,
}

impl Socket {
    /// Takes the connection over. Until [`Socket::register`] it never waits. With a `closer`, descriptors may come in.
    pub fn new(stream: BareStream, closer: Option<Closer>) -> Self {
        if closer.is_some() {
            // Else a byte out of band would be dropped unseen. No Unix socket refuses the option.
            _ = setsockopt(&stream, sockopt::OobInline, &true);
        }
        let stream = Stream::Bare {
            stream,
            drained: false,
            answered: false,
        };
        let ended = false;
        Self(Arc::new(Mutex::new(Connection { stream, closer, ended })))
    }

    /// Asks the kernel something about the connection.
    pub(super) fn ask<T, E: From<Errno>>(&self, question: impl FnOnce(BorrowedFd<'_>) -> Result<T, E>) -> Result<T, E> {
        match &self.0.lock().stream {
            Stream::Bare { stream, .. } => question(stream.as_fd()),
            Stream::Registered(stream) => question(stream.as_fd()),
            Stream::Lost => Err(Errno::EBADF.into()),
        }
    }

    /// From here on the connection can be waited for.
    ///
    /// # Errors
    /// The runtime cannot take it, and it is closed.
    pub fn register(&self) -> io::Result<()> {
        let mut connection = self.0.lock();
        connection.stream = match mem::replace(&mut connection.stream, Stream::Lost) {
            Stream::Bare { stream, .. } => {
                bound_unread(&stream)?;
                stream.set_nonblocking(true)?;
                Stream::Registered(UnixStream::from_std(stream)?)
            }
            same => same,
        };
        Ok(())
    }

    /// Has `connection`, which speaks over this socket, run to its end, and registers it only if it has to wait: as a whole,
    /// since hyper reads again after an answer, and then ends if the caller has announced that he will close.
    ///
    /// # Errors
    /// Of [`Socket::register`].
    pub async fn drive<T>(&self, mut connection: Pin<&mut impl Future<Output = T>>) -> io::Result<T> {
        if let Poll::Ready(end) = once(connection.as_mut()).await {
            return Ok(end);
        }
        // Callers that close without having announced it can do so while others have their turn, but no new ones: who counts
        // as gone for himself must not be counted when he comes back.
        requeue().await;
        self.look_again();
        if let Poll::Ready(end) = once(connection.as_mut()).await {
            return Ok(end);
        }
        self.register()?;
        Ok(connection.await)
    }

    /// Waits until the other end has read all that was sent, or is gone.
    ///
    /// # Errors
    /// Of [`Socket::register`] and the kernel.
    pub async fn until_read(&self) -> io::Result<()> {
        self.register()?;
        while !self.ask(is_read)? {
            self.forget_readiness();
            poll_fn(|cx| match &self.0.lock().stream {
                Stream::Registered(stream) => stream.poll_write_ready(cx),
                Stream::Bare { .. } | Stream::Lost => Poll::Ready(Ok(())),
            })
            .await?;
        }
        Ok(())
    }

    /// What the runtime knows of it is older than what the kernel says.
    fn forget_readiness(&self) {
        if let Stream::Registered(stream) = &self.0.lock().stream {
            _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }

    fn look_again(&self) {
        if let Stream::Bare { drained, .. } = &mut self.0.lock().stream {
            *drained = false;
        }
    }
}

/// Polls once, whatever comes of it.
async fn once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Lets those have their turn who can go on by now. `yield_now` would also let the runtime look for new callers.
async fn requeue() {
    let mut over = false;
    poll_fn(|cx| {
        if mem::replace(&mut over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What the kernel says of a call that is not to wait.
fn at_once(result: nix::Result<usize>) -> Poll<io::Result<usize>> {
    match result {
        Err(Errno::EAGAIN) => Poll::Pending,
        result => Poll::Ready(Ok(result?)),
    }
}

/// Whether the other end has read all that was sent.
fn is_read(socket: BorrowedFd<'_>) -> nix::Result<bool> {
    let [_, _, sent] = getsockopt(&socket, MemInfo)?;
    // The kernel lets go of the last byte only after it has told that there is room.
    Ok(sent <= 1)
}

/// Bounds what the kernel holds of unread answers. A connection of a Unix socket does not inherit it from the listener.
pub fn bound_unread(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER)?)
}

/// Reads what is there, but nothing with which descriptors come.
fn recv_without_descriptors(socket: RawFd, piece: &mut [u8]) -> nix::Result<usize> {
    let looked = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    let mut pieces = [IoSliceMut::new(piece)];
    let seen = recvmsg::<()>(socket, &mut pieces, None, looked)?;
    // There is something beside the data, for which we have no room.
    if seen.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EPERM);
    }
    match seen.bytes {
        0 => Ok(0),
        length => recv(socket, piece.split_at_mut(length).0, MsgFlags::MSG_DONTWAIT),
    }
}

impl Connection {
    fn read(&mut self, cx: &mut Context<'_>, piece: &mut [u8]) -> Poll<io::Result<usize>> {
        let receive = |socket: RawFd, piece: &mut [u8]| match self.closer {
            None => recv(socket, piece, MsgFlags::MSG_DONTWAIT),
            Some(_) => recv_without_descriptors(socket, piece),
        };
        let length = match &mut self.stream {
            Stream::Bare { drained: true, .. } => return Poll::Pending,
            Stream::Bare { stream, drained, .. } => {
                let length = ready!(at_once(receive(stream.as_raw_fd(), piece)))?;
                *drained = (1..piece.len()).contains(&length);
                length
            }
            Stream::Registered(stream) => loop {
                ready!(stream.poll_read_ready(cx))?;
                match stream.try_io(Interest::READABLE, || Ok(receive(stream.as_raw_fd(), piece)?)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => break read?,
                }
            },
            Stream::Lost => return Poll::Ready(Err(Errno::EBADF.into())),
        };
        self.ended |= length == 0 && !piece.is_empty();
        Poll::Ready(Ok(length))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(closer) = self.closer.as_ref().filter(|_| !self.ended) else {
            return;
        };
        let stream = match mem::replace(&mut self.stream, Stream::Lost) {
            Stream::Bare { stream, .. } => stream,
            Stream::Registered(stream) => match stream.into_std() {
                Ok(stream) => stream,
                Err(_) => return,
            },
            Stream::Lost => return,
        };
        // From here on nothing more comes in, so what is empty now can be closed here.
        let rest = stream.shutdown(Shutdown::Read).map_err(|_| Errno::ENOTCONN);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        if rest.and_then(|()| recv(stream.as_raw_fd(), &mut [0], flags)) != Ok(0) {
            closer.close(stream);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.0.lock();
        let connection = &mut *connection;
        if let (Stream::Registered(stream), None) = (&mut connection.stream, &connection.closer) {
            return Pin::new(stream).poll_read(cx, buf);
        }
        READ.with_borrow_mut(|piece| {
            // By a copy, since only `unsafe` code can have the kernel write to memory without a value.
            let piece = piece.split_at_mut(buf.remaining().min(PIECE)).0;
            let length = ready!(connection.read(cx, piece))?;
            buf.put_slice(piece.split_at(length).0);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0.lock().stream {
            Stream::Bare { stream, answered, .. } => {
                // One small answer needs no bound, and most connections bring no other.
                if mem::replace(answered, true) || buf.len() > SEND_BUFFER {
                    bound_unread(stream)?;
                }
                at_once(send(
                    stream.as_raw_fd(),
                    buf,
                    MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                ))
            }
            Stream::Registered(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Lost => Poll::Ready(Err(Errno::EBADF.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket holds nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper shuts down what it is about to drop; closing does that, too.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers one request.
    async fn answer(mut socket: Socket) {
        let mut request = [0; 100];
        let length = socket.read(&mut request).await.unwrap();
        socket.write_all(&request[..length]).await.unwrap();
    }

    fn is_registered(socket: &Socket) -> bool {
        matches!(socket.0.lock().stream, Stream::Registered(_))
    }

    #[tokio::test]
    async fn the_runtime_hears_only_of_who_does_not_ask_at_once() {
        let (ours, mut theirs) = BareStream::pair().unwrap();
        let socket = Socket::new(ours, None);
        theirs.write_all(b"at once").unwrap();
        socket.drive(pin!(answer(socket.clone()))).await.unwrap();
        assert!(!is_registered(&socket));

        let driven = tokio::spawn({
            let socket = socket.clone();
            async move { socket.drive(pin!(answer(socket.clone()))).await }
        });
        while !is_registered(&socket) {
            tokio::task::yield_now().await;
        }
        theirs.write_all(b" and later").unwrap();
        driven.await.unwrap().unwrap();
        drop(socket);
        let mut answers = String::new();
        theirs.read_to_string(&mut answers).unwrap();
        assert_eq!(answers, "at once and later");
    }

    #[tokio::test]
    async fn who_hangs_up_while_others_have_their_turn_need_not_be_waited_for() {
        let (ours, mut theirs) = BareStream::pair().unwrap();
        let mut socket = Socket::new(ours, None);
        theirs.write_all(b"at once").unwrap();
        let mut until_the_end = pin!({
            let mut socket = socket.clone();
            async move { socket.read_to_end(&mut Vec::new()).await }
        });
        let hang_up = async move { drop(theirs) };
        let (length, ()) = tokio::join!(socket.drive(until_the_end.as_mut()), hang_up);
        assert_eq!(length.unwrap().unwrap(), 7);
        assert!(!is_registered(&socket));
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0, "the end stays the end");
    }

    #[tokio::test]
    async fn whether_what_was_sent_is_read_can_be_waited_for() {
        for length in [200, SEND_BUFFER] {
            for is_registered in [false, true] {
                let (ours, mut theirs) = BareStream::pair().unwrap();
                let mut socket = Socket::new(ours, None);
                if is_registered {
                    socket.register().unwrap();
                }
                socket.write_all(&vec![0; length]).await.unwrap();
                let mut read = pin!(socket.until_read());
                for _ in 0..3 {
                    assert!(once(read.as_mut()).await.is_pending(), "{length}");
                    tokio::task::yield_now().await;
                }
                theirs.read_exact(&mut vec![0; length]).unwrap();
                read.await.unwrap();
            }
        }
        let (ours, theirs) = BareStream::pair().unwrap();
        let mut socket = Socket::new(ours, None);
        socket.write_all(&[0; 200]).await.unwrap();
        drop(theirs);
        socket.until_read().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_read_is_bounded_from_the_second_answer_on() {
        let bound = |socket: &Socket| socket.ask(|s| getsockopt(&s, sockopt::SndBuf)).unwrap() == 2 * SEND_BUFFER;
        let new = || {
            let (ours, theirs) = BareStream::pair().unwrap();
            (Socket::new(ours, None), theirs)
        };
        let (mut socket, _theirs) = new();
        socket.write_all(b"first").await.unwrap();
        assert!(!bound(&socket), "one small answer");
        socket.write_all(b"second").await.unwrap();
        assert!(bound(&socket), "a second one");
        let (mut socket, _theirs) = new();
        socket.write_all(&[0; SEND_BUFFER + 1]).await.unwrap();
        assert!(bound(&socket), "a large one");
        let (socket, _theirs) = new();
        socket.register().unwrap();
        assert!(bound(&socket), "one that is waited for");
    }
}
