//! The daemon's process: nobody but root looks into it, and it leaves no core.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use common::{Daemon, Emulator, How, STORAGE, TOKEND, directory, eventually, install, upstream, write};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
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

/// Runs the program that is given to it as ALICE, as systemd would. Not by setpriv: that keeps capabilities up to the
/// moment in which the kernel judges whether ALICE may read the program.
fn as_alice() -> Command {
    let mut command = Command::new("chroot");
    command.args([&format!("--userspec={ALICE}:{ALICE}"), "--groups=", "/"]);
    command
}

/// Starts a program as ALICE while a process of hers waits for it: whether that opened its memory or a descriptor of it
/// before `until` has seen the program through.
fn is_opened_at_start(command: &[&str], until: impl FnOnce(&mut Child)) -> bool {
    let (pid, over) = (AtomicI32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let attacker = scope.spawn(|| as_user(ALICE, ALICE, &[], || opens(&pid, &over)));
        let mut child = as_alice().args(command).stderr(Stdio::null()).spawn().unwrap();
        pid.store(i32::try_from(child.id()).unwrap(), Ordering::Release);
        until(&mut child);
        over.store(true, Ordering::Release);
        _ = child.kill();
        child.wait().unwrap();
        attacker.join().unwrap()
    })
}

fn opens(pid: &AtomicI32, over: &AtomicBool) -> bool {
    while pid.load(Ordering::Acquire) == 0 {
        std::hint::spin_loop();
    }
    let process = Path::new("/proc").join(pid.load(Ordering::Acquire).to_string());
    let (memory, descriptor) = (process.join("mem"), process.join("fd/3"));
    while !over.load(Ordering::Acquire) {
        // A socket cannot be opened anew, which only those are told who might.
        let socket = |error: io::Error| error.raw_os_error() == Some(nix::libc::ENXIO);
        if fs::File::open(&memory).is_ok() || fs::File::open(&descriptor).map_or_else(socket, |_| true) {
            return true;
        }
    }
    false
}

/// What is opened between the start of the program and its hardening stays open. That an attacker is fast enough is seen
/// on a program that ends at once; that the mode is what keeps him out, on the same program with the daemon's mode.
#[test]
fn the_daemons_own_user_opens_nothing_of_it_while_it_starts() {
    const STARTS: usize = 100;
    if !are_to_be_had("the_daemons_own_user_opens_nothing_of_it_while_it_starts") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let place = directory();
    std::os::unix::fs::chown(place.path(), Some(ALICE), Some(ALICE)).unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let config = path("config.toml");
    let text = format!("{}[listen]\nsocket = \"{}\"\n", upstream(&emulator), path("s"));
    write(Path::new(&config), &text);

    let times = |name: &str, what: &dyn Fn(&str) -> bool| (0..STARTS).filter(|_| what(&path(name))).count();
    let short = |program: &str| {
        is_opened_at_start(&[program], |child| {
            child.wait().unwrap();
        })
    };
    let daemon = |program: &str| {
        is_opened_at_start(&[program, "--config", &config], |child| {
            eventually("the daemon listens", || {
                assert_eq!(child.try_wait().unwrap(), None, "the daemon ended");
                UnixStream::connect(path("s")).is_ok()
            });
        })
    };
    for (program, name, mode) in [
        ("/bin/true", "true-0755", "755"),
        ("/bin/true", "true-0711", "711"),
        (TOKEND, "tokend-0755", "755"),
        (TOKEND, "tokend-0711", "711"),
    ] {
        install(program, Path::new(&path(name)), mode);
    }
    let opened = [
        times("true-0755", &short),
        times("true-0711", &short),
        times("tokend-0711", &daemon),
    ];
    println!(
        "of {STARTS} starts: {opened:?}; of the daemon with mode 0755: {}",
        times("tokend-0755", &daemon)
    );
    assert!(opened[0] > 0, "the attacker is too slow for this test to mean anything");
    assert_eq!(opened[1..], [0, 0]);
}

/// Of the modes that the package installs with, this is the one that the test above needs.
#[test]
fn the_package_installs_the_daemon_for_root_alone_to_read() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let daemon = assets
        .iter()
        .find(|asset| asset["source"].as_str() == Some("target/release/msi-tokend"));
    assert_eq!(daemon.unwrap()["mode"].as_str(), Some("711"));
}

/// With a pipe that nobody reads the program stops at the first thing that it prints.
#[test]
fn hardening_comes_before_arguments_are_looked_at() {
    if !are_to_be_had("hardening_comes_before_arguments_are_looked_at") {
        return;
    }
    let place = directory();
    let program = place.path().join("msi-tokend");
    install(TOKEND, &program, "755");
    let (_reader, writer) = io::pipe().unwrap();
    fill(&writer);
    let mut child = as_alice()
        .arg(&program)
        .arg("--help")
        .stdout(OwnedFd::from(writer))
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let process = Path::new("/proc").join(pid.to_string());
    eventually("the program is hardened", || {
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        core.split_whitespace().nth(4) == Some("0")
            && fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program)
            && as_user(ALICE, ALICE, &[], || readable(pid)).is_empty()
    });
    assert_eq!(child.try_wait().unwrap(), None, "it was to wait for its reader");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn fill(pipe: &io::PipeWriter) {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while (&*pipe).write(&[0; 4096]).is_ok() {}
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
}

/// As in a container or at a laptop, where nobody raised the limit. A debug build does not fit into it even as it starts;
/// `tests/package` does the same to a release build.
#[test]
fn a_small_limit_on_locked_memory_does_not_end_the_daemon_under_load() {
    const CONNECTIONS: usize = 80;
    if !are_to_be_had("a_small_limit_on_locked_memory_does_not_end_the_daemon_under_load") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let limited = How {
        uid: Some(ALICE),
        shell: Some("ulimit -l 8192"),
        // With one arena for all threads a release build fits into the limit as it starts, and not for long: where the
        // log's thread is faster it has reserved 64 MB of addresses by then, for which no lock is granted.
        environment: vec![("MALLOC_ARENA_MAX", "1".to_owned())],
    };
    let daemon = Daemon::start_how(&emulator, "", limited);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max locked memory"))
        .unwrap();
    assert_eq!(limit.split_whitespace().nth(3), Some("8388608"), "as it was set");
    let mut kept: Vec<_> = (0..CONNECTIONS).map(|_| daemon.connect()).collect();
    let asked = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(64);
    for round in 0..4 {
        for stream in &mut kept {
            stream.write_all(asked.as_bytes()).unwrap();
        }
        // Some are read, so that the daemon goes on with them; for the others it holds what they do not read.
        for stream in kept.iter_mut().skip(round).step_by(4) {
            assert!(stream.read(&mut [0; 16384]).unwrap() > 0);
        }
        assert_eq!(daemon.token(STORAGE).status, 200);
    }
    let log = daemon.log();
    let why = "RLIMIT_MEMLOCK is 8192 kB and the process has no CAP_IPC_LOCK";
    assert_eq!(log.matches(why).count(), 1, "{log}");
}

/// A line of the process's status, in kB.
fn memory(daemon: &Daemon, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whether this process has `CAP_IPC_LOCK`, and not only in a user namespace of its own.
fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    let users = fs::read_to_string("/proc/self/uid_map").unwrap();
    effective & (1 << CAP_IPC_LOCK) != 0 && users.split_whitespace().eq(["0", "0", "4294967295"])
}

#[test]
fn memory_is_locked_where_no_limit_counts() {
    if !are_to_be_had("memory_is_locked_where_no_limit_counts") {
        return;
    }
    if !may_lock_memory() {
        eprintln!("SKIPPED memory_is_locked_where_no_limit_counts: root is without CAP_IPC_LOCK here");
        return;
    }
    let emulator = Emulator::start(&[]);
    let limited = How {
        shell: Some("ulimit -l 64"),
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "", limited);
    assert!(memory(&daemon, "VmLck:") > 64);
    assert_eq!(daemon.token(STORAGE).status, 200);
}

#[test]
fn a_second_daemon_says_first_that_one_is_serving_whoever_starts_it() {
    if !are_to_be_had("a_second_daemon_says_first_that_one_is_serving_whoever_starts_it") {
        return;
    }
    let (emulator, home) = (Emulator::start(&[]), directory());
    let program = home.path().join("msi-tokend");
    install(TOKEND, &program, "711");
    let how = || How {
        uid: Some(ALICE),
        ..How::default()
    };
    // The directory of the first two is the daemon's user's, as the packaged one is.
    let service = Daemon::start_how(&emulator, "", how());
    let closed = Daemon::start_how(&emulator, "[listen]\nsocket_mode = \"0600\"\n", how());
    let of_root = Daemon::start(&emulator, "");
    for (daemon, uid, code, said) in [
        (&service, 0, 69, "already serving"),
        (&service, ALICE, 69, "already serving"),
        (&service, BOB, 69, "already serving"),
        (&closed, 0, 69, "already serving"),
        (&closed, BOB, 77, "may not make a socket there"),
        (&of_root, BOB, 69, "already serving"),
    ] {
        let config = home.path().join("config.toml");
        let socket = daemon.socket();
        write(
            &config,
            &format!("{}[listen]\nsocket = {socket:?}\n", upstream(&emulator)),
        );
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let mut second = Command::new("setpriv");
        second
            .args(ids)
            .arg("--clear-groups")
            .arg(&program)
            .arg("--config")
            .arg(&config);
        let output = second.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "as uid {uid}: {text}");
        assert!(text.contains(said) && !text.contains("chown"), "as uid {uid}: {text}");
        assert_eq!(daemon.get("/live").status, 200, "the first one is left alone");
    }
}
