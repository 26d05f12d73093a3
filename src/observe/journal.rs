//! Records to the systemd journal, with every field as a field of the journal's.

use std::io;

use systemd_journal_logger::JournalLog;
use tracing::Level;

use super::record::Record;

/// The facility "daemon" of `syslog(3)`.
const DAEMON: &str = "3";

/// A connection to the journal of this machine.
pub(super) struct Journal(JournalLog);

impl Journal {
    pub(super) fn connect(program: &str) -> io::Result<Self> {
        let log = JournalLog::empty()?
            .with_syslog_identifier(program.to_owned())
            // Else syslog, which journald passes everything on to, would have it among those of the facility "user".
            .with_extra_fields([("SYSLOG_FACILITY", DAEMON)]);
        Ok(Self(log))
    }

    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        as_log_record(record, |record| self.0.journal_send(record))
    }
}

/// `MESSAGE` is the text for people, fields included, since that is all that `journalctl` shows by default. The logger
/// turns the names of the fields into upper case: `resource` is found as `RESOURCE=`, `message_id` as `MESSAGE_ID=`.
fn as_log_record<T>(record: &Record, send: impl FnOnce(&log::Record<'_>) -> T) -> T {
    let fields: Vec<(&str, &str)> = record
        .fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    send(
        &log::Record::builder()
            .level(priority(record.level))
            .target(&record.target)
            .key_values(&fields.as_slice())
            .args(format_args!("{}", record.text()))
            .build(),
    )
}

/// The logger takes the levels of `log` one step higher than syslog's names: its `Info` is written as notice, its
/// `Debug` as info. What is info here shall be found by `journalctl -p info`.
fn priority(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Debug,
        Level::DEBUG | Level::TRACE => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use log::kv::{Error, Key, Value, VisitSource};

    use super::*;

    struct Pairs(Vec<(String, String)>);

    impl<'kvs> VisitSource<'kvs> for Pairs {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
            self.0.push((key.to_string(), value.to_string()));
            Ok(())
        }
    }

    #[test]
    fn a_record_keeps_its_fields_beside_the_text() {
        let mut record = Record::new(Level::INFO, "msi_tokend::broker", "token refreshed");
        record.fields = vec![("message_id", "abc".into()), ("resource", "https://r/".into())];
        as_log_record(&record, |log| {
            assert_eq!(log.args().to_string(), "token refreshed resource=https://r/");
            assert_eq!(log.target(), "msi_tokend::broker");
            assert_eq!(log.level(), log::Level::Debug, "PRIORITY=6, info");
            let mut pairs = Pairs(Vec::new());
            log.key_values().visit(&mut pairs).unwrap();
            assert_eq!(
                pairs.0,
                [
                    ("message_id".into(), "abc".into()),
                    ("resource".into(), "https://r/".into())
                ]
            );
        });
    }
}
