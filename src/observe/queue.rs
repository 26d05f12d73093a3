//! A bounded queue and the one thread that writes what is in it: logging never waits for the journal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use tracing::Level;

use super::record::Record;

/// Records that may wait. At a few hundred bytes each they cost less than a token per caller would.
pub(super) const CAPACITY: usize = 1024;

/// The sending side; clones share one queue.
#[derive(Clone)]
pub(super) struct Queue {
    /// Boxed, since the channel takes the memory for all that may wait from the start.
    sender: SyncSender<Box<Record>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queued: AtomicU64,
    dropped: Counter,
    written: Mutex<u64>,
    progress: Condvar,
}

impl Queue {
    /// Starts the thread. `write` may block; a record that it fails on counts as dropped.
    pub(super) fn start(write: impl FnMut(Record) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(CAPACITY);
        let shared = Arc::new(Shared::default());
        let of_writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || of_writer.run(&receiver, write))?;
        Ok(Self { sender, shared })
    }

    /// Never blocks: with the queue full, or the writer gone, the record is dropped and counted. Whether it was
    /// taken.
    pub(super) fn push(&self, record: Record) -> bool {
        let taken = self.sender.try_send(Box::new(record)).is_ok();
        if taken {
            self.shared.queued.fetch_add(1, Ordering::Release);
        } else {
            self.shared.dropped.inc();
        }
        taken
    }

    /// Records lost since the start.
    pub(super) fn dropped(&self) -> &Counter {
        &self.shared.dropped
    }

    /// Waits until all that was pushed before is written, at most `limit`. Whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let goal = self.shared.queued.load(Ordering::Acquire);
        let mut written = self.shared.written.lock();
        !self
            .shared
            .progress
            .wait_while_for(&mut written, |written| *written < goal, limit)
            .timed_out()
    }
}

impl Shared {
    fn run(&self, receiver: &Receiver<Box<Record>>, mut write: impl FnMut(Record) -> io::Result<()>) {
        let mut reported = 0;
        loop {
            let record = match receiver.try_recv() {
                Ok(record) => record,
                Err(TryRecvError::Empty) => {
                    // Only now, with room again: a line per drop would itself be what floods the journal.
                    self.report_dropped(&mut reported, &mut write);
                    let Ok(record) = receiver.recv() else { return };
                    record
                }
                Err(TryRecvError::Disconnected) => return,
            };
            if write(*record).is_err() {
                self.dropped.inc();
            }
            *self.written.lock() += 1;
            self.progress.notify_all();
        }
    }

    fn report_dropped(&self, reported: &mut u64, write: &mut impl FnMut(Record) -> io::Result<()>) {
        let dropped = self.dropped.get();
        if dropped > *reported {
            let lost = dropped - *reported;
            let record = Record::new(Level::WARN, module_path!(), format_args!("{lost} log records dropped"));
            // Where it cannot be written, neither could they; it is tried again with the next record.
            if write(record).is_ok() {
                *reported = dropped;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn record(text: &str) -> Record {
        Record::new(Level::INFO, "test", text)
    }

    #[test]
    fn a_stuck_writer_costs_records_beyond_the_bound_and_nobody_waits() {
        let (started, writer_started) = channel();
        let (go, gate) = channel::<()>();
        let (seen, written) = channel();
        let mut first = true;
        let queue = Queue::start(move |record| {
            if std::mem::take(&mut first) {
                started.send(()).unwrap();
                gate.recv().unwrap();
            }
            seen.send(record.message.clone()).unwrap();
            Ok(())
        })
        .unwrap();

        queue.push(record("held by the writer"));
        writer_started.recv_timeout(LONG).unwrap();
        for _ in 0..CAPACITY {
            assert!(queue.push(record("waits")));
        }
        assert_eq!(queue.dropped().get(), 0);
        for _ in 0..7 {
            assert!(!queue.push(record("too many")));
        }
        assert_eq!(queue.dropped().get(), 7);
        assert!(!queue.flush(Duration::from_millis(1)), "the writer is stuck");

        go.send(()).unwrap();
        assert!(queue.flush(LONG));
        let lines: Vec<_> = (0..CAPACITY + 2).map(|_| written.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(lines.iter().filter(|line| *line == "waits").count(), CAPACITY);
        assert_eq!(lines.last().unwrap(), "7 log records dropped");

        queue.push(record("after"));
        assert!(queue.flush(LONG));
        queue.push(record("again"));
        assert!(queue.flush(LONG));
        drop(queue);
        let rest: Vec<_> = std::iter::from_fn(|| written.recv_timeout(LONG).ok()).collect();
        assert_eq!(rest, ["after", "again"], "the drops are told once");
    }

    #[test]
    fn a_record_that_cannot_be_written_counts_as_dropped() {
        let (seen, written) = channel();
        let queue = Queue::start(move |record| {
            seen.send(record.message.clone()).unwrap();
            match record.message.as_str() {
                "bad" => Err(io::Error::other("no journal")),
                _ => Ok(()),
            }
        })
        .unwrap();
        queue.push(record("bad"));
        assert!(queue.flush(LONG));
        assert_eq!(queue.dropped().get(), 1);
        assert_eq!(written.recv_timeout(LONG).unwrap(), "bad");
        assert_eq!(written.recv_timeout(LONG).unwrap(), "1 log records dropped");
    }
}
