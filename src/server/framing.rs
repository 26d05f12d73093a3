//! Whether a chunked request came with a `Content-Length` as well.
//!
//! hyper goes by the chunks then, as RFC 9112 6.3 allows: it throws the length away without a trace and closes after the
//! answer. Here such a request is an error, so the lines are counted as they come in: those that look like the header,
//! in heads or anywhere else, against the headers that requests are found to have. No more headers can be found than
//! there are lines, and while there are as many, none was thrown away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memchr::memchr_iter;

const NAME: &[u8] = b"content-length";

/// What came in over one connection.
#[derive(Debug, Default)]
pub struct Lengths {
    lines: AtomicUsize,
    headers: AtomicUsize,
}

/// Reads along.
#[derive(Debug)]
pub struct Reader {
    lengths: Arc<Lengths>,
    /// How much of [`NAME`] the line at hand begins with, if it may still be one.
    matched: Option<usize>,
    /// Nothing but whole GET requests so far, one at a time.
    plain: bool,
}

impl Lengths {
    /// Whether this request's body can be measured in one way only. To be asked once about each.
    pub fn are_clear(&self, has_length: bool, has_encoding: bool) -> bool {
        if has_length {
            self.headers.fetch_add(1, Ordering::Relaxed);
        }
        !has_encoding || self.lines.load(Ordering::Relaxed) <= self.headers.load(Ordering::Relaxed)
    }
}

impl Reader {
    /// Of a connection's first byte.
    pub fn new(lengths: Arc<Lengths>) -> Self {
        Self {
            lengths,
            matched: None,
            plain: true,
        }
    }

    /// The next bytes.
    pub fn read(&mut self, bytes: &[u8]) {
        // Nearly all there is, and it costs next to nothing: a GET with a body of whatever length is refused.
        self.plain &= is_one_get(bytes);
        if self.plain {
            return;
        }
        for &byte in bytes {
            self.matched = match self.matched {
                _ if byte == b'\n' => Some(0),
                Some(at) if NAME.get(at) == Some(&byte.to_ascii_lowercase()) => Some(at + 1),
                _ => None,
            };
            if self.matched == Some(NAME.len()) {
                self.lengths.lines.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Whether it ends where the head of a GET request does. To hyper a line may end without `\r`, too.
fn is_one_get(bytes: &[u8]) -> bool {
    let mut begin = 0;
    let end = memchr_iter(b'\n', bytes).find(|&at| {
        let line = bytes.get(begin..at);
        begin = at + 1;
        matches!(line, Some(b"" | b"\r"))
    });
    bytes.starts_with(b"GET ") && end.is_some_and(|at| at + 1 == bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a request with this header is clear after `pieces` were read.
    fn clear(pieces: &[&str], header: &str) -> bool {
        let lengths = Arc::new(Lengths::default());
        let mut reader = Reader::new(Arc::clone(&lengths));
        for piece in pieces {
            reader.read(piece.as_bytes());
        }
        lengths.are_clear(header == CL, header == TE)
    }

    const TE: &str = "transfer-encoding";
    const CL: &str = "content-length";

    #[test]
    fn a_length_beside_chunks_is_seen_however_it_is_written_and_cut() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncOnTeNt-lEnGtH: 5\r\n\r\n",
            "POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 5\n\n",
            "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\n\nPOST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\n\r\nPOST / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
        ] {
            assert!(!clear(&[head], TE), "{head:?}");
            for at in 0..head.len() {
                let (one, two) = head.split_at(at);
                assert!(!clear(&[one, two], TE), "{one:?} {two:?}");
            }
        }
        // A piece that looks like a whole request is none where something else came before it.
        assert!(!clear(
            &[
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: ",
                "GET \r\nContent-Length: 5\r\n\r\n"
            ],
            TE
        ));
    }

    #[test]
    fn one_or_the_other_alone_is_clear() {
        assert!(clear(&["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"], TE));
        assert!(clear(&["POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"], CL));
        assert!(clear(
            &["POST / HTTP/1.1\r\nX-Content-Length: 5\r\n\r\nno content-length"],
            TE
        ));
    }

    #[test]
    fn a_connection_may_carry_requests_of_both_kinds() {
        let lengths = Arc::new(Lengths::default());
        let mut reader = Reader::new(Arc::clone(&lengths));
        for _ in 0..3 {
            reader.read(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde");
            assert!(lengths.are_clear(true, false));
            reader.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
            assert!(lengths.are_clear(false, true));
            reader.read(b"GET / HTTP/1.1\r\n\r\n");
        }
        reader.read(b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(!lengths.are_clear(false, true));
    }
}
