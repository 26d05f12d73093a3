//! The daemon's process: nobody but root looks into it, and it leaves no core.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use common::{Daemon, Emulator, How, STORAGE};
use nix::sys::signal::Signal;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use users::{ALICE, BOB, are_to_be_had, as_user};

/// What of a process says something about its memory, descriptors, environment or doings: proc(5).
const INSIDE: &[&str] = &[
    "auxv",
    "cwd",
    "environ",
    "exe",
    "fd",
    "fdinfo",
    "io",
    "map_files",
    "maps",
    "mem",
    "ns/user",
    "pagemap",
    "personality",
    "root",
    "smaps",
    "smaps_rollup",
    "stack",
    "syscall",
    "timers",
];

/// Reads a little of whatever it is: a file, a directory's entry, or where a link leads.
fn can_read(path: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return false;
    };
    if meta.is_symlink() {
        fs::read_link(path).is_ok()
    } else if meta.is_dir() {
        let entry = fs::read_dir(path).ok().and_then(|mut entries| entries.next()?.ok());
        entry.is_some_and(|entry| can_read(&entry.path()))
    } else {
        // Nothing is mapped at the beginning of "mem", so opening it is what counts.
        let read = |mut file: fs::File| path.ends_with("mem") || file.read(&mut [0]).is_ok_and(|count| count > 0);
        fs::File::open(path).is_ok_and(read)
    }
}

fn readable(pid: Pid) -> Vec<&'static str> {
    let process = Path::new("/proc").join(pid.to_string());
    let inside = INSIDE.iter().copied();
    inside
        .filter(|name| {
            can_read(&process.join(name)) || can_read(&process.join("task").join(pid.to_string()).join(name))
        })
        .collect()
}

#[test]
fn nobody_but_root_looks_into_the_daemon_not_even_its_own_user() {
    if !are_to_be_had("nobody_but_root_looks_into_the_daemon_not_even_its_own_user") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let as_alice = How {
        uid: Some(ALICE),
        environment: vec![("SOMETHING", "in-the-environment".to_owned())],
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "", as_alice);
    let secret = daemon.token(STORAGE).access_token();
    let pid = daemon.pid();
    assert!(
        readable(pid).contains(&"environ"),
        "root sees it, so the others would if they could"
    );
    for uid in [ALICE, BOB] {
        assert_eq!(as_user(uid, uid, &[], || readable(pid)), [""; 0], "uid {uid}");
        let stolen = as_user(uid, uid, &[], || {
            let from = [RemoteIoVec { base: 0x1000, len: 1 }];
            process_vm_readv(pid, &mut [std::io::IoSliceMut::new(&mut [0])], &from)
        });
        assert_eq!(stolen, Err(nix::Error::EPERM), "uid {uid}");
    }
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        arguments.contains("--config") && !arguments.contains(&secret),
        "{arguments}"
    );
}

#[test]
fn a_crash_leaves_no_core() {
    let emulator = Emulator::start(&[]);
    let with_cores = How {
        shell: Some("ulimit -Sc unlimited 2>/dev/null"),
        ..How::default()
    };
    let mut daemon = Daemon::start_how(&emulator, "", with_cores);
    assert_eq!(daemon.token(STORAGE).status, 200);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"],
        "{core}"
    );
    daemon.signal(Signal::SIGABRT);
    let status = daemon.wait();
    assert_eq!(
        (status.signal(), status.core_dumped()),
        (Some(Signal::SIGABRT as i32), false)
    );
}
