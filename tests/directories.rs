//! Directories in which others can rename what is there: whoever can do so could swap in a configuration or a socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Emulator, directory, eventually, programs, upstream, write};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use users::{ALICE, BOB, are_to_be_had, as_user};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory of root's, `shared`, with one of Alice's in it, whom the daemon runs as.
struct Place {
    outer: TempDir,
    programs: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            outer: directory(),
            programs: programs(),
        };
        fs::create_dir_all(place.of_alice()).unwrap();
        chown(place.of_alice(), Some(ALICE), Some(ALICE)).unwrap();
        chmod(&place.shared(), 0o755);
        chmod(&place.of_alice(), 0o755);
        place
    }

    fn shared(&self) -> PathBuf {
        self.outer.path().join("shared")
    }

    fn of_alice(&self) -> PathBuf {
        self.shared().join("alice")
    }

    fn command(&self, config: &Path, more: &[&str]) -> Command {
        // A daemon that starts where it should refuse does not hold the test.
        let mut command = Command::new("timeout");
        command
            .args(["60", "setpriv"])
            .args([format!("--reuid={ALICE}"), format!("--regid={ALICE}")])
            .arg("--clear-groups")
            .arg(self.programs.path().join("msi-tokend"))
            .arg("--config")
            .arg(config)
            .args(more);
        command
    }

    fn check(&self, config: &Path) -> Output {
        self.command(config, &["--check"]).output().unwrap()
    }
}

fn assert_refused(output: &Output, remedy: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains(remedy), "{told}");
}

/// What somebody else gets who renames Alice's directory away.
fn renamed_by_bob(place: &Place) -> Result<(), ErrorKind> {
    let (from, to) = (place.of_alice(), place.shared().join("away"));
    as_user(BOB, BOB, &[], || fs::rename(from, to)).map_err(|error| error.kind())
}

#[test]
fn a_configuration_that_another_user_could_swap_is_not_read() {
    if !are_to_be_had("a_configuration_that_another_user_could_swap_is_not_read") {
        return;
    }
    let place = Place::new();
    let config = place.of_alice().join("config.toml");
    write(&config, "[log]\nlevel = \"warn\"\n");
    assert_eq!(place.check(&config).status.code(), Some(0));
    let remedy = format!("chmod go-w {}", place.shared().display());
    for mode in [0o775, 0o757, 0o777] {
        chmod(&place.shared(), mode);
        assert_refused(&place.check(&config), &remedy);
    }
    // He could, and this is what the refusal is about.
    assert_eq!(renamed_by_bob(&place), Ok(()));
    fs::rename(place.shared().join("away"), place.of_alice()).unwrap();
    chmod(&place.shared(), 0o1777);
    assert_eq!(place.check(&config).status.code(), Some(0));
    assert_eq!(renamed_by_bob(&place), Err(ErrorKind::PermissionDenied));
    chmod(&place.shared(), 0o755);
    chown(place.shared(), Some(BOB), None).unwrap();
    assert_refused(
        &place.check(&config),
        &format!("chown {ALICE} {}", place.shared().display()),
    );
    chown(place.shared(), Some(0), None).unwrap();

    let link = place.outer.path().join("link");
    symlink("shared/alice", &link).unwrap();
    assert_eq!(
        place.check(&link.join("config.toml")).status.code(),
        Some(0),
        "root's link"
    );
    lchown(&link, Some(BOB), None).unwrap();
    assert_refused(
        &place.check(&link.join("config.toml")),
        "symbolic link that belongs to uid",
    );
}

#[test]
fn no_socket_is_made_where_another_user_could_take_its_place() {
    if !are_to_be_had("no_socket_is_made_where_another_user_could_take_its_place") {
        return;
    }
    let (emulator, place) = (Emulator::start(&[]), Place::new());
    let (config, socket) = (place.outer.path().join("config.toml"), place.of_alice().join("s"));
    write(
        &config,
        &format!("{}[listen]\nsocket = \"{}\"\n", upstream(&emulator), socket.display()),
    );
    for mode in [0o775, 0o757] {
        chmod(&place.shared(), mode);
        let output = place.command(&config, &[]).output().unwrap();
        assert_refused(&output, &format!("chmod go-w {}", place.shared().display()));
        assert!(!socket.exists());
    }
    chmod(&place.shared(), 0o1777);
    let mut daemon = place.command(&config, &[]).stderr(Stdio::null()).spawn().unwrap();
    eventually("the daemon listens", || UnixStream::connect(&socket).is_ok());
    assert_eq!(renamed_by_bob(&place), Err(ErrorKind::PermissionDenied));
    kill(Pid::from_raw(daemon.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(!socket.exists());
}
