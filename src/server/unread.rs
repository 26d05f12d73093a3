//! Answers that their caller has not read when the connection ends.
//!
//! The kernel keeps what was sent over a Unix socket until the other end reads it or closes, also when this end is closed,
//! and charges it to the daemon's memory cgroup: whoever asks on one connection after the other and reads nothing would use
//! it up. To look whether an answer was read costs each connection some system calls, so that is done only while half of
//! the memory that the cgroup may have is used. From then on a connection keeps its seat until its answers are read, and
//! of seats each user has its share. Over TCP the kernel can be told to drop at the close what is unread, and is told so for
//! connections that come while memory is short.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::memory_limit::Limit;

/// The memory is looked at each time after so many connections. Each leaves some 16 KB at most.
const EACH: usize = 256;

/// Whether memory is short.
pub struct Unread {
    limit: Option<Limit>,
    ended: AtomicUsize,
    is_short: AtomicBool,
}

impl Unread {
    /// Under this limit, if there is any.
    pub fn new(limit: Option<Limit>) -> Self {
        Self {
            limit,
            ended: AtomicUsize::new(0),
            is_short: AtomicBool::new(false),
        }
    }

    /// A connection ends. Whether it has to be kept until what was sent over it is read.
    pub fn must_be_read(&self) -> bool {
        let Some(limit) = &self.limit else { return false };
        if self.ended.fetch_add(1, Ordering::Relaxed).is_multiple_of(EACH) {
            self.is_short.store(limit.is_half_used(), Ordering::Relaxed);
        }
        self.is_short()
    }

    /// Whether it was short when last looked at.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn memory_is_looked_at_now_and_then_and_not_at_all_without_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let usage = directory.path().join("memory.current");
        let use_up = |bytes: &str| fs::write(&usage, bytes).unwrap();
        let cgroup = "/a".into();
        let limit = Limit {
            bytes: 1000,
            cgroup,
            usage: vec![usage.clone()],
        };
        let unread = Unread::new(Some(limit));
        let ends_of = |bytes| {
            use_up(bytes);
            (0..EACH).filter(|_| unread.must_be_read()).count()
        };
        assert_eq!((ends_of("500"), ends_of("501"), ends_of("500")), (0, EACH, 0));
        assert!(!unread.is_short());
        assert!(!Unread::new(None).must_be_read());
    }
}
