//! `metrics`: writes the daemon's metrics to a file, for the textfile collector of `node_exporter`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;

use super::connection::Daemon;
use super::error::{ClientError, Exit};
use crate::replace::replace_at;

/// The daemon answers this from memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// The collector may run as another user, and metrics are no secret.
const MODE: u32 = 0o644;

#[derive(Args)]
pub struct Arguments {
    /// The file, in the collector's directory; its name must end in .prom to be read there.
    #[arg(long, value_name = "PATH")]
    textfile: PathBuf,
}

/// Writes the file. On an error the old file stays.
pub async fn run(daemon: &Daemon, Arguments { textfile }: &Arguments) -> Result<(), ClientError> {
    let answer = daemon.answer("/metrics", PATIENCE).await?;
    if answer.status != StatusCode::OK {
        return Err(ClientError::of_answer(&answer, "no metrics"));
    }
    // The directory is not checked, since it is the collector's. No file is read there, and no link is followed.
    replace_at(textfile, &foreign(&answer.body), MODE).map_err(|error| {
        ClientError::new(
            Exit::Other,
            format!("cannot write {}: {error}", textfile.display()),
            "The directory must exist and be writable for this user.",
        )
    })
}

/// Leaves out `process_*`: `node_exporter` has these metrics of itself, and reports a second one as an error.
fn foreign(metrics: &[u8]) -> Vec<u8> {
    let is_foreign = |line: &&[u8]| {
        let name = [b"# HELP ", b"# TYPE "]
            .iter()
            .find_map(|start| line.strip_prefix(*start));
        !name.unwrap_or(line).starts_with(b"process_")
    };
    metrics
        .split_inclusive(|byte| *byte == b'\n')
        .filter(is_foreign)
        .collect::<Vec<_>>()
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_collector_has_of_itself_is_left_out() {
        let metrics = "# HELP a A process_x.\n# TYPE a gauge\na{b=\"process_c\"} 1\n\
            # HELP process_a A.\n# TYPE process_a gauge\nprocess_a 1\n# HELP z Z.\nz 1\n";
        let expected = "# HELP a A process_x.\n# TYPE a gauge\na{b=\"process_c\"} 1\n# HELP z Z.\nz 1\n";
        assert_eq!(foreign(metrics.as_bytes()), expected.as_bytes());
    }
}
