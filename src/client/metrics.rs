//! `metrics`: the daemon's metrics in a file, for the textfile collector of `node_exporter`.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;

use super::connection::Daemon;
use super::failure::{Exit, Failure};

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

/// Writes the file; where that fails, what was there before stays.
pub async fn run(daemon: &Daemon, Arguments { textfile }: &Arguments) -> Result<(), Failure> {
    let answer = daemon.answer("/metrics", PATIENCE).await?;
    if answer.status != StatusCode::OK {
        return Err(Failure::of_answer(&answer, "no metrics"));
    }
    replace(textfile, &foreign(&answer.body)).map_err(|error| {
        Failure::new(
            Exit::Other,
            format!("cannot write {}: {error}", textfile.display()),
            "The directory must exist and be writable for this user.",
        )
    })
}

/// What another process may tell as its own: `node_exporter` has `process_*` of itself, and takes a second one for an error.
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

/// Whole or not at all: a new file beside it, on the disk before it takes the name.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    // Not .prom at the end, or the collector would read the half of it.
    let mut new = OsString::from(".");
    new.push(name);
    new.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(new);
    let written = write_new(&new, content).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        _ = fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(content)?;
    file.sync_all()
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

    #[test]
    fn a_file_is_replaced_whole_and_readable_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("msi.prom");
        replace(&path, b"a much longer one").unwrap();
        let being_read = fs::File::open(&path).unwrap();
        replace(&path, b"short").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(
            io::read_to_string(being_read).unwrap(),
            "a much longer one",
            "still whole"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        replace(&directory.path().join("nowhere/msi.prom"), b"").unwrap_err();
        fs::create_dir(directory.path().join("is-a-directory")).unwrap();
        replace(&directory.path().join("is-a-directory"), b"").unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
