//! A connection, with what hyper leaves undone: an end to waiting for a peer that does not read, and small answers in one
//! piece.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The kernel is given so much at once: over TCP it takes all that one call brings, however small the socket's buffer is.
/// An answer with a token of the usual length fits.
const ROOM: usize = 4096;

thread_local! {
    /// For one write at a time; all zeros in between.
    static GATHERED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(ROOM));
}

/// Fails a write for which the peer does not make room. The time runs from the first write that did not fit until one
/// fits whole, so that a byte now and then does not stretch it.
pub struct WriteTimeout<S> {
    stream: S,
    patience: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            deadline: None,
        }
    }

    fn bounded(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(count)) if count >= wanted) {
            self.deadline = None;
            return written;
        }
        let patience = self.patience;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(patience)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the peer does not read")));
        }
        written
    }
}

/// Hands over a few small pieces as one, as far as there is [`ROOM`], which the kernel takes so much faster that the copy is
/// worth 4 % of a hit. The copy of a token ends with the call.
fn gathered<T>(pieces: &[IoSlice<'_>], hand_over: impl FnOnce(&[u8]) -> T) -> T {
    GATHERED.with_borrow_mut(|whole| {
        whole.clear();
        for piece in pieces {
            let room = ROOM.saturating_sub(whole.len()).min(piece.len());
            whole.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
        let result = hand_over(whole);
        whole.fill(0);
        result
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let piece = buf.get(..ROOM).unwrap_or(buf);
        let written = Pin::new(&mut self.stream).poll_write(cx, piece);
        self.bounded(cx, written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        let stream = Pin::new(&mut self.stream);
        let written = gathered(bufs, |bytes| stream.poll_write(cx, bytes));
        self.bounded(cx, written, wanted)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(100);

    fn with_timeout(stream: DuplexStream, patience: Duration) -> WriteTimeout<DuplexStream> {
        WriteTimeout::new(stream, patience)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (ours, _theirs) = duplex(10);
        let mut ours = with_timeout(ours, SHORT);
        ours.write_all(&[0; 10]).await.unwrap();
        assert_eq!(ours.write_all(&[0; 1]).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_byte_now_and_then_does_not_stretch_the_time() {
        let (ours, mut theirs) = duplex(10);
        let mut ours = with_timeout(ours, SHORT);
        let reading = tokio::spawn(async move {
            let mut bytes = 0;
            while theirs.read_u8().await.is_ok() {
                bytes += 1;
                sleep(SHORT / 10).await;
            }
            bytes
        });
        let error = ours.write_all(&[0; 10_000]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(ours);
        assert!(reading.await.unwrap() > 10, "it did read");
    }

    #[tokio::test]
    async fn pieces_go_out_as_one_that_leaves_no_copy_and_of_large_ones_no_more_than_fits() {
        for (length, whole) in [(10, 15), (ROOM - 5, ROOM), (ROOM - 4, ROOM)] {
            GATHERED.set(Vec::new());
            let (ours, mut theirs) = duplex(2 * ROOM);
            let mut ours = with_timeout(ours, LONG);
            let body = vec![b'x'; length];
            let pieces = [IoSlice::new(b"head\n"), IoSlice::new(&body)];
            let written = ours.write_vectored(&pieces).await.unwrap();
            GATHERED.with_borrow(|left| assert_eq!(*left, vec![0; whole]));
            drop(ours);
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).await.unwrap();
            assert_eq!((read.len(), written), (whole, whole));
            assert_eq!(read, [b"head\n", &*body].concat().get(..written).unwrap());
        }
    }

    #[tokio::test]
    async fn a_peer_that_reads_is_served_however_much_it_is() {
        let (ours, mut theirs) = duplex(10);
        let mut ours = with_timeout(ours, LONG);
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            theirs.read_to_end(&mut bytes).await.unwrap();
            bytes.len()
        });
        ours.write_all(&[0; 10_000]).await.unwrap();
        assert!(ours.deadline.is_none(), "what was late is forgotten once it is written");
        drop(ours);
        assert_eq!(reading.await.unwrap(), 10_000);
    }
}
