//! `msi-token keep` as a unit runs it: real files, a real daemon, systemd's notifications.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{Daemon, Emulator, MANAGEMENT, STORAGE, TOKEN, directory, eventually, programs, upstream, write};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getegid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

/// A uid that no account has.
const STRANGER: u32 = 54_321;

/// A running `msi-token keep`, its settings, its files and what it told systemd.
struct Keep {
    child: Child,
    place: TempDir,
    systemd: UnixDatagram,
    told: String,
}

impl Keep {
    fn start(daemon: &Daemon, settings: &str) -> Self {
        Self::start_in(place(), daemon, settings, None)
    }

    fn start_in(place: TempDir, daemon: &Daemon, settings: &str, user: Option<(u32, &TempDir)>) -> Self {
        write(&place.path().join("settings.toml"), settings);
        let notify = place.path().join("notify");
        _ = fs::remove_file(&notify);
        let systemd = UnixDatagram::bind(&notify).unwrap();
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(place.path().join("log"))
            .unwrap();
        let program = user.map_or_else(
            || PathBuf::from(TOKEN),
            |(_, programs)| programs.path().join("msi-token"),
        );
        let mut command = Command::new(program);
        if let Some((uid, _)) = user {
            chown(place.path().join("files"), Some(uid), Some(uid)).unwrap();
            command.uid(uid).gid(uid);
        }
        let child = command
            .arg("keep")
            .arg(place.path().join("settings.toml"))
            .arg("--socket")
            .arg(daemon.socket())
            .env("NOTIFY_SOCKET", &notify)
            .env("RUNTIME_DIRECTORY", place.path().join("files"))
            .env_remove("JOURNAL_STREAM")
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            place,
            systemd,
            told: String::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join("files").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap()
    }

    /// All that systemd was told so far.
    fn told(&mut self) -> &str {
        let mut message = [0; 4096];
        while let Ok(length) = self.systemd.recv(&mut message) {
            writeln!(self.told, "{}", String::from_utf8_lossy(&message[..length])).unwrap();
        }
        &self.told
    }

    fn is_ready(&mut self) -> bool {
        self.told().contains("READY=1")
    }

    fn await_ready(&mut self) {
        eventually("every file is there", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.log());
            }
            self.is_ready()
        });
    }

    /// SIGTERM; the exit code, and the place for the next one.
    fn stop(mut self) -> (Option<i32>, TempDir) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, std::mem::replace(&mut self.place, directory()))
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- its log\n{}--- told\n{}---", self.log(), self.told());
        }
    }
}

fn place() -> TempDir {
    let place = directory();
    fs::create_dir(place.path().join("files")).unwrap();
    fs::set_permissions(place.path().join("files"), fs::Permissions::from_mode(0o711)).unwrap();
    place
}

fn file(name: &str, resource: &str, more: &str) -> String {
    format!("[[file]]\nname = \"{name}\"\nresource = \"{resource}\"\n{more}\n")
}

/// It ends by itself: its exit code and its standard error.
fn ended(place: &TempDir, daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(TOKEN)
        .arg("keep")
        .arg(place.path().join("settings.toml"))
        .args(arguments)
        .arg("--socket")
        .arg(daemon.socket())
        .env_remove("RUNTIME_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn each_file_has_its_form_and_mode_before_systemd_hears_ready() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let settings = [
        file("a.token", STORAGE, ""),
        file("a.json", STORAGE, "format = \"json\""),
        file("a.header", STORAGE, "format = \"header\""),
        file("a.env", STORAGE, "format = \"env\"\nenv = \"PGPASSWORD\""),
        file(
            "a.pgpass",
            STORAGE,
            "format = \"pgpass\"\npgpass = { port = 5432, user = \"app\" }",
        ),
        file(
            "b.kubernetes",
            MANAGEMENT,
            &format!("format = \"kubernetes\"\nmode = \"0640\"\ngroup = \"{}\"", getegid()),
        ),
    ];
    let mut keep = Keep::start(&daemon, &settings.concat());
    keep.await_ready();
    let token = daemon.token(STORAGE).access_token();
    assert_eq!(keep.read("a.token"), token);
    assert_eq!(keep.read("a.header"), format!("Authorization: Bearer {token}\n"));
    assert_eq!(keep.read("a.env"), format!("PGPASSWORD={token}\n"));
    assert_eq!(keep.read("a.pgpass"), format!("*:5432:*:app:{token}\n"));
    let json = |name: &str| -> Value { serde_json::from_str(&keep.read(name)).unwrap() };
    assert_eq!(json("a.json")["access_token"], token);
    assert_eq!(
        json("b.kubernetes")["status"]["token"],
        daemon.token(MANAGEMENT).access_token()
    );
    let mode = |name: &str| fs::metadata(keep.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("a.token"), mode("b.kubernetes")), (0o600, 0o640));
    assert_eq!(emulator.count(), 2, "one request for each token");
    assert!(keep.told().contains("STATUS=6 files kept"), "{}", keep.told());
    for canary in token.split('.') {
        assert!(!keep.read(".state.json").contains(canary) && !keep.log().contains(canary));
    }
    let (code, place) = keep.stop();
    assert_eq!(code, Some(0));
    assert!(place.path().join("files/a.token").exists(), "a restart leaves no gap");
}

#[test]
fn bad_settings_and_bad_directories_fail_the_start_with_all_that_is_wrong() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let place = place();
    let settings = place.path().join("settings.toml");
    let files = place.path().join("files");
    let files = files.to_str().unwrap();

    write(
        &settings,
        &(file("/etc/passwd", STORAGE, "") + &file("a", STORAGE, "mode = \"0666\"")),
    );
    let (code, said) = ended(&place, &daemon, &["--directory", files]);
    assert!(
        code == Some(78) && said.contains(":2: file.name") && said.contains("file.mode"),
        "{code:?} {said}"
    );

    write(&settings, &file("a", STORAGE, ""));
    let (code, said) = ended(&place, &daemon, &[]);
    assert!(code == Some(64) && said.contains("--directory"), "{code:?} {said}");
    symlink("/etc/passwd", place.path().join("files/a")).unwrap();
    let (code, said) = ended(&place, &daemon, &["--directory", files]);
    assert!(code == Some(78) && said.contains("no plain file"), "{code:?} {said}");
    fs::set_permissions(files, fs::Permissions::from_mode(0o777)).unwrap();
    let (code, said) = ended(&place, &daemon, &["--directory", files]);
    assert!(code == Some(78) && said.contains("chmod go-w"), "{code:?} {said}");
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, said) = ended(&place, &daemon, &["--directory", files]);
    assert!(code == Some(78) && said.contains("settings.toml"), "{code:?} {said}");
    assert_eq!(emulator.count(), 0);
}

/// A reader that looks all the time finds a whole token, in a file of the right mode, over several renewals.
#[test]
fn a_renewal_leaves_no_moment_without_a_whole_file() {
    let emulator = Emulator::start(&["--lifetime", "6s"]);
    let daemon = Daemon::start(&emulator, "");
    let mut keep = Keep::start(&daemon, &file("t", STORAGE, ""));
    keep.await_ready();
    let mut tokens = Vec::new();
    eventually("four tokens were read", || {
        let token = keep.read("t");
        assert_eq!(token.split('.').count(), 3, "{token:?}");
        let entries = fs::read_dir(keep.path("")).unwrap().map(|entry| entry.unwrap());
        for entry in entries.filter(|entry| !entry.file_name().to_string_lossy().contains(".state.json")) {
            match entry.metadata() {
                Ok(metadata) => assert_eq!(metadata.mode() & 0o7777, 0o600, "{}", entry.path().display()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
            }
        }
        if tokens.last() != Some(&token) {
            tokens.push(token);
        }
        tokens.len() == 4
    });
}

#[test]
fn through_an_outage_a_file_stays_until_its_token_expires_and_comes_back_after_it() {
    let mut emulator = Emulator::start(&["--lifetime", "9s"]);
    let daemon = Daemon::start(&emulator, "");
    let mut keep = Keep::start(&daemon, &file("t", STORAGE, ""));
    keep.await_ready();
    emulator.stop();
    let expires_on = {
        let state: Value = serde_json::from_str(&keep.read(".state.json")).unwrap();
        state["files"][0]["expires_on"].as_u64().unwrap()
    };
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    eventually("the file is removed", || !keep.path("t").exists());
    assert!(now() >= expires_on, "it was removed {} s early", expires_on - now());
    assert!(now() <= expires_on + 10, "it was removed {} s late", now() - expires_on);
    eventually("the log says so", || {
        keep.log().contains("the token has expired: the file is removed file=t")
    });
    eventually("the status line says so", || {
        keep.told().contains("STATUS=0 of 1 files kept; missing: t (")
    });
    assert_eq!(keep.told().matches("READY=1").count(), 1);
    emulator.restart();
    eventually("the file is back", || keep.path("t").exists());
    eventually("the log says so, too", || {
        keep.log().contains("the file is renewed again")
    });
}

#[test]
fn a_refusal_is_told_with_the_rule_that_is_missing_and_tried_again() {
    if !geteuid().is_root() {
        eprintln!("not root: cannot be another user, nothing tested");
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let programs = programs();
    let settings = file("t", STORAGE, "");
    let mut keep = Keep::start_in(place(), &daemon, &settings, Some((STRANGER, &programs)));
    eventually("the status line names it", || {
        keep.told().contains("missing: t (") && keep.told().contains("rule")
    });
    assert!(!keep.is_ready());
    assert_eq!(emulator.count(), 0);
    daemon.reload(&format!("{}[[allow]]\nusers = [\"{STRANGER}\"]\n", upstream(&emulator)));
    keep.await_ready();
    let metadata = fs::metadata(keep.path("t")).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (STRANGER, 0o600));
}

#[test]
#[ignore = "waits until a token has expired; tests/run --all runs it"]
fn a_restart_takes_away_what_the_settings_no_longer_have_and_what_expires_meanwhile() {
    let emulator = Emulator::start(&["--lifetime", "12s"]);
    let mut daemon = Daemon::start(&emulator, "");
    let both = file("stays", STORAGE, "") + &file("goes", STORAGE, "") + &file("changes", STORAGE, "");
    let mut keep = Keep::start(&daemon, &both);
    keep.await_ready();
    let (_, place) = keep.stop();
    daemon.stop();
    let others = file("stays", STORAGE, "") + &file("changes", MANAGEMENT, "");
    let mut keep = Keep::start_in(place, &daemon, &others, None);
    eventually("it has taken over", || keep.told().contains("1 of 2 files kept"));
    assert!(keep.path("stays").exists() && !keep.path("goes").exists() && !keep.path("changes").exists());
    assert!(!keep.is_ready(), "nothing was asked of the daemon");
    eventually("what was kept by the first one has expired", || {
        !keep.path("stays").exists()
    });
    daemon.start_again();
    keep.await_ready();
}

/// All is as it was, so that the only news is that this process has seen to it.
#[test]
fn after_a_restart_with_all_as_it_was_systemd_hears_ready() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let settings = file("t", STORAGE, "");
    let mut keep = Keep::start(&daemon, &settings);
    keep.await_ready();
    let before = keep.read("t");
    let (_, place) = keep.stop();
    let mut keep = Keep::start_in(place, &daemon, &settings, None);
    keep.await_ready();
    assert_eq!(keep.read("t"), before);
    assert_eq!(emulator.count(), 1);
}

#[test]
fn a_hundred_files_cost_little_memory_and_no_more_requests_than_tokens() {
    const TOKENS: usize = 50;
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let settings: String = (0..100)
        .map(|number| file(&format!("f{number}"), &format!("https://r{}/", number % TOKENS), ""))
        .collect();
    let mut keep = Keep::start(&daemon, &settings);
    keep.await_ready();
    assert!(keep.told().contains("STATUS=100 files kept"));
    assert_eq!(emulator.count(), TOKENS as u64);
    // Of its own; a debug build's code alone is more.
    let status = fs::read_to_string(format!("/proc/{}/status", keep.child.id())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kilobytes: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 6 * 1024, "{kilobytes} kB");
}
