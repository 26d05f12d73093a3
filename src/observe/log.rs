//! The log: `tracing` events to the journal when systemd started us, else to stderr.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use systemd_journal_logger::connected_to_journal;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry, reload};

use super::evidence::Evidence;
use super::journal::Journal;
use super::queue::{self, Queue};
use super::record::{self, Record};
use crate::access::UnitNames;
use crate::clock::{Clock, SystemClock};

/// Bytes of all records that may wait for the journal.
pub const MAX_WAITING: usize = queue::CAPACITY * record::MAX_RECORD;

/// The log of this process.
#[derive(Clone)]
pub struct LogHandle {
    queue: Queue,
    level: reload::Handle<LevelFilter, Registry>,
    evidence: Arc<Evidence>,
}

/// Routes `tracing` events and the `log` records of libraries (those only from warn on) to one writer thread, and
/// panics as well. `program` is what the journal calls the process. To be called once, before anything is logged.
///
/// A panic is logged by its place alone: its text may hold what it choked on.
pub fn start(level: Level, program: &str) -> io::Result<LogHandle> {
    let evidence = Arc::new(Evidence::default());
    let queue = Queue::start(writer(program, Arc::clone(&evidence)))?;
    let (filter, level) = reload::Layer::new(LevelFilter::from_level(level));
    let records = Records { queue: queue.clone() };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(records))
        .map_err(io::Error::other)?;
    tracing_log::LogTracer::builder()
        .with_max_level(log::LevelFilter::Warn)
        .init()
        .map_err(io::Error::other)?;
    log_panics(queue.clone());
    Ok(LogHandle { queue, level, evidence })
}

impl LogHandle {
    /// The least severe level that is written from now on.
    pub fn set_level(&self, level: Level) {
        // Fails only where the subscriber is gone, and the global one never goes.
        let _ = self.level.reload(LevelFilter::from_level(level));
    }

    /// Records that were lost since the start: the queue was full, or they could not be written.
    pub fn dropped(&self) -> &Counter {
        self.queue.dropped()
    }

    /// What the records say that the lock saw.
    pub fn evidence(&self) -> &Arc<Evidence> {
        &self.evidence
    }

    /// Waits until all that was logged before is written, at most `limit`; to be called before the process ends.
    /// Whether all is written.
    pub fn flush(&self, limit: Duration) -> bool {
        self.queue.flush(limit)
    }
}

/// Takes records from events.
struct Records {
    queue: Queue,
}

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(record) = Record::of(event) {
            self.queue.push(record);
        }
    }
}

/// Where records go, decided once: the journal, or stderr. systemd tells by `JOURNAL_STREAM` that stderr is the
/// journal's too; then a line needs no time of its own.
fn writer(program: &str, evidence: Arc<Evidence>) -> impl FnMut(Record) -> io::Result<()> + Send + use<> {
    let stderr_is_journal = connected_to_journal();
    let journal = stderr_is_journal
        .then(|| Journal::connect(program))
        .and_then(Result::ok);
    let mut units = UnitNames::new(Arc::new(SystemClock));
    move |mut record| {
        record.name_unit(|cgroup| units.find(cgroup).map(str::to_owned));
        evidence.note(&record);
        record.add_rule();
        // While journald restarts its socket may be away; its stream on stderr outlives that.
        if let Some(journal) = &journal
            && journal.write(&record).is_ok()
        {
            return Ok(());
        }
        let line = if stderr_is_journal {
            stream_line(&record)
        } else {
            let now = UNIX_EPOCH + SystemClock.now().wall;
            format!("{} {}", humantime::format_rfc3339_millis(now), line(&record))
        };
        io::stderr().lock().write_all(line.as_bytes())
    }
}

/// `level message key=value …`
fn line(record: &Record) -> String {
    format!("{} {}\n", record.level.as_str().to_ascii_lowercase(), record.text())
}

/// With the priority in front, as `sd-daemon(3)` has it.
fn stream_line(record: &Record) -> String {
    let priority = match record.level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    format!("<{priority}>{}\n", record.text())
}

fn log_panics(queue: Queue) {
    /// Longer than any writer that works needs; the process waits for it only while it dies.
    const LIMIT: Duration = Duration::from_secs(1);
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let mut record = Record::new(
            Level::ERROR,
            module_path!(),
            "panicked, which is a defect of the program",
        );
        record.fields = vec![("place", place), ("thread", thread)];
        if !queue.push(record.clone()) || !queue.flush(LIMIT) {
            let _ = io::stderr().lock().write_all(line(&record).as_bytes());
        }
    }));
}
