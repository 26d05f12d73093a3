//! Documents that are rendered once for everybody who asks within the second, and how many bytes of them may wait for
//! readers. The text is shared: a connection that does not read holds a reference to it and no copy.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use parking_lot::Mutex;

use super::guest::Guest;

/// A document is given to others for this long after it was rendered, unless the cache changes before.
const FRESH: Duration = Duration::from_secs(1);
/// The documents that somebody still reads, or that are given to the next one who asks, may take this much together.
/// With usual names of resources a document for a hundred keys has some 50 KB.
pub const MAX_BYTES: usize = 4 << 20;

/// What a document tells, and to whom where that makes a difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `/ready`
    Ready,
    /// `/metrics`
    Metrics,
    /// `/status` for a caller with this uid for whom these rules are, by their place in the configuration.
    Status { uid: u32, rules: Vec<usize> },
}

/// One rendering.
pub struct Document {
    /// Of the answer.
    pub status: StatusCode,
    pub content_type: &'static str,
    text: Box<[u8]>,
    readers: Mutex<Readers>,
}

/// The connections that have not sent all of a document yet.
#[derive(Default)]
struct Readers {
    count: u64,
    by_number: BTreeMap<u64, Arc<Guest>>,
}

/// One connection's share in a document.
struct Reading {
    document: Arc<Document>,
    number: u64,
}

/// All documents that are in memory.
#[derive(Default)]
pub struct Documents {
    shelf: Mutex<Shelf>,
    turn: tokio::sync::Mutex<()>,
}

/// What a rendering is of.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On the boot-time clock.
    pub boot: Duration,
    /// How often the cache had changed.
    pub changes: u64,
}

#[derive(Default)]
struct Shelf {
    latest: HashMap<Subject, (Moment, Arc<Document>)>,
    /// The oldest first.
    in_memory: VecDeque<Weak<Document>>,
}

impl Documents {
    /// For who asks for a document to wait for; it ends when the answer is made. A document takes the kernel ten times as
    /// long as a token, and of a thousand callers who ask for one at the same time one at most stands between a token and
    /// its caller.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The document as somebody else got it within the last second.
    pub fn get(&self, subject: &Subject, now: Moment) -> Option<Arc<Document>> {
        self.shelf.lock().latest(subject, now)
    }

    /// A new one, which others are given from then on.
    pub fn put(&self, subject: Subject, now: Moment, document: Document) -> Arc<Document> {
        let document = Arc::new(document);
        self.shelf.lock().put(subject, now, &document);
        document
    }

    /// The next one who asks gets a new one.
    pub fn forget(&self) {
        self.shelf.lock().latest.clear();
    }
}

impl Shelf {
    fn latest(&mut self, subject: &Subject, now: Moment) -> Option<Arc<Document>> {
        self.latest.retain(|_, (rendered, _)| {
            rendered.changes == now.changes && now.boot.saturating_sub(rendered.boot) < FRESH
        });
        self.latest.get(subject).map(|(_, document)| Arc::clone(document))
    }

    fn put(&mut self, subject: Subject, now: Moment, document: &Arc<Document>) {
        self.in_memory.push_back(Arc::downgrade(document));
        self.latest.insert(subject, (now, Arc::clone(document)));
        self.make_room();
    }

    /// Takes the oldest documents away from their readers, who had the longest time to read them, until the rest fits.
    fn make_room(&mut self) {
        self.in_memory.retain(|document| document.strong_count() > 0);
        let size = |document: &Weak<Document>| document.upgrade().map_or(0, |document| document.text.len());
        let mut total: usize = self.in_memory.iter().map(size).sum();
        while total > MAX_BYTES
            && self.in_memory.len() > 1
            && let Some(oldest) = self.in_memory.pop_front()
        {
            total -= size(&oldest);
            self.latest
                .retain(|_, (_, document)| !std::ptr::eq(Arc::as_ptr(document), oldest.as_ptr()));
            if let Some(document) = oldest.upgrade() {
                document.cut_readers();
            }
        }
    }
}

impl Document {
    pub fn new(status: StatusCode, content_type: &'static str, text: Vec<u8>) -> Self {
        Self {
            status,
            content_type,
            // Without the room that it had to grow: it may wait for its readers for long.
            text: text.into_boxed_slice(),
            readers: Mutex::default(),
        }
    }

    /// The text for one connection, which ends if the document must go before it was read.
    pub fn body(self: &Arc<Self>, reader: &Arc<Guest>) -> Bytes {
        let mut readers = self.readers.lock();
        readers.count += 1;
        let number = readers.count;
        readers.by_number.insert(number, Arc::clone(reader));
        Bytes::from_owner(Reading {
            document: Arc::clone(self),
            number,
        })
    }

    fn cut_readers(&self) {
        // Apart from the lock, which each of them takes when it lets go.
        let readers = std::mem::take(&mut self.readers.lock().by_number);
        for reader in readers.values() {
            reader.end();
        }
    }
}

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        &self.document.text
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.document.readers.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::access::Caller;

    const START: Moment = at(100_000);

    const fn at(milliseconds: u64) -> Moment {
        Moment {
            boot: Duration::from_millis(milliseconds),
            changes: 7,
        }
    }

    fn document(size: usize) -> Document {
        Document::new(StatusCode::OK, "text/plain", vec![b'x'; size])
    }

    /// What somebody is given who shares: the one that is there, or a new one of this size.
    fn shared(documents: &Documents, subject: &Subject, now: Moment, size: usize) -> Arc<Document> {
        let there = documents.get(subject, now);
        there.unwrap_or_else(|| documents.put(subject.clone(), now, document(size)))
    }

    #[test]
    fn a_document_is_shared_for_a_second_and_by_those_who_may_see_the_same() {
        let documents = Documents::default();
        let status = |uid, rules: &[usize]| Subject::Status {
            uid,
            rules: rules.to_vec(),
        };
        let first = shared(&documents, &status(1, &[0]), START, 1);
        let just_before = at(100_999);
        let same = documents.get(&status(1, &[0]), just_before);
        assert!(same.is_some_and(|same| Arc::ptr_eq(&first, &same)));
        for other in [status(2, &[0]), status(1, &[0, 1]), Subject::Ready, Subject::Metrics] {
            let other = shared(&documents, &other, just_before, 2);
            assert_eq!(other.text.len(), 2);
        }
        let later = shared(&documents, &status(1, &[0]), at(101_000), 3);
        assert_eq!(later.text.len(), 3);
        let changed = Moment {
            changes: 8,
            ..at(101_000)
        };
        let changed = shared(&documents, &status(1, &[0]), changed, 4);
        assert_eq!(changed.text.len(), 4);
    }

    #[tokio::test]
    async fn who_asks_waits_until_the_one_before_has_his() {
        let documents = Documents::default();
        let turn = documents.turn().await;
        assert!(documents.turn().now_or_never().is_none());
        drop(turn);
        assert!(documents.turn().now_or_never().is_some());
    }

    #[test]
    fn a_new_one_can_be_had_and_is_everybodys_from_then_on() {
        let documents = Documents::default();
        documents.put(Subject::Ready, START, document(1));
        documents.put(Subject::Ready, START, document(2));
        let shared = documents.get(&Subject::Ready, START);
        assert!(shared.is_some_and(|shared| shared.text.len() == 2));
        documents.forget();
        assert!(documents.get(&Subject::Ready, START).is_none());
    }

    #[test]
    fn what_nobody_reads_is_gone_and_beyond_the_bound_the_slowest_readers_are_cut() {
        let documents = Documents::default();
        let mut held = Vec::new();
        // Two fit, and a third does not.
        for second in 0..3 {
            let reader = Arc::new(Guest::new(Caller::described(0, Vec::new(), None), 0));
            let now = at(1000 * second);
            let document = documents.put(Subject::Metrics, now, document(MAX_BYTES / 2));
            held.push((document.body(&reader), reader, Arc::downgrade(&document)));
        }
        let cut: Vec<bool> = held.iter().map(|(_, reader, _)| reader.ends()).collect();
        assert_eq!(cut, [true, false, false]);
        let (body, _, first) = held.remove(0);
        drop(body);
        assert_eq!(
            first.strong_count(),
            0,
            "its memory is free once the connection has ended"
        );

        let (body, reader, second) = held.remove(0);
        assert_eq!(body.len(), MAX_BYTES / 2);
        drop(body);
        assert_eq!(second.strong_count(), 0, "read, and a newer one is there");
        documents.put(Subject::Metrics, at(3000), document(MAX_BYTES / 2));
        assert!(!reader.ends(), "who has read it is not cut off");
    }
}
