//! `msi-token explain`: whom it judges, as which listener sees him, and by which files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/msi_token.rs"]
mod msi_token;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Daemon, Emulator, STORAGE, directory, programs, write};
use msi_token::{Guard, Ran, at, client, run};
use nix::unistd::geteuid;

const NOWHERE: &str = "/nonexistent/s";
/// A uid and a group that no account has.
const FRIEND: u32 = 54_320;

fn explain(config: &Path, arguments: &[&str]) -> Ran {
    let config = config.to_str().unwrap();
    let whole = [&["explain", STORAGE, "--config", config], arguments].concat();
    run(&mut at(Path::new(NOWHERE), &whole))
}

#[test]
fn an_account_alone_is_said_to_have_no_unit_where_a_rule_wants_one() {
    let directory = directory();
    let config = directory.path().join("config.toml");
    let note = "note:   an account has no unit: --unit UNIT or --pid PID";
    let uid = FRIEND.to_string();
    for (rule, arguments, noted) in [
        ("units = [\"a.service\"]", vec!["--uid", &uid], true),
        (
            "units = [\"a.service\"]",
            vec!["--uid", &uid, "--unit", "b.service"],
            false,
        ),
        ("units = [\"a.service\"]", vec![], false),
        ("users = [\"1\"]", vec!["--uid", &uid], false),
    ] {
        write(&config, &format!("[[allow]]\n{rule}\n"));
        let ran = explain(&config, &arguments);
        assert_eq!(ran.out.contains(note), noted, "{rule} {arguments:?}: {ran:?}");
    }
}

#[test]
fn it_judges_who_runs_it_or_a_process_that_is_named() {
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can be another user");
    }
    let (directory, programs) = (directory(), programs());
    let config = directory.path().join("config.toml");
    write(
        &config,
        &format!("[[allow]]\nusers = [\"{FRIEND}\"]\ngroups = [\"{}\"]\n", FRIEND + 1),
    );
    let as_friend = |gid: u32| {
        let mut command = Command::new(programs.path().join("msi-token"));
        command
            .args(["explain", STORAGE, "--socket", NOWHERE, "--config"])
            .arg(&config);
        run(command.uid(FRIEND).gid(gid))
    };
    let ran = as_friend(FRIEND + 1);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out
            .contains(&format!("caller: uid {FRIEND} (no account), groups {}", FRIEND + 1)),
        "{ran:?}"
    );
    assert_eq!(as_friend(FRIEND).code, Some(77));

    let mut sleep = Command::new("sleep");
    let sleep = Guard(
        sleep
            .arg("600")
            .uid(FRIEND)
            .gid(FRIEND + 1)
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let pid = sleep.0.id().to_string();
    let ran = explain(&config, &["--pid", &pid]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        explain(&config, &["--pid", &std::process::id().to_string()]).code,
        Some(0),
        "root"
    );
    // Its unit is that of its cgroup, wherever the tests run.
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = ran.out.lines().next().unwrap();
    let unit = line.rsplit_once("unit").unwrap().1.trim();
    assert!(line.ends_with("no unit") || cgroup.contains(unit), "{line} {cgroup}");
    let ran = explain(&config, &["--pid", "4194305"]);
    assert!(ran.code == Some(64) && ran.err.contains("process 4194305"), "{ran:?}");
    assert_eq!(explain(&config, &["--pid", "1", "--uid", "0"]).code, Some(64));
}

#[test]
fn over_tcp_groups_are_those_of_the_account() {
    let directory = directory();
    let config = directory.path().join("config.toml");
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let mut accounts = passwd.lines().filter_map(|line| {
        let mut ids = line.split(':').skip(2).map(|id| id.parse::<u32>().unwrap());
        Some((ids.next()?, ids.next()?))
    });
    let (member, group) = accounts.find(|(uid, gid)| *uid != 0 && *gid != 0).unwrap();
    write(&config, &format!("[[allow]]\ngroups = [\"{group}\"]\n"));
    let judged = |uid: u32, gid: Option<u32>, listener: &str| {
        let (uid, gid) = (uid.to_string(), gid.map(|gid| gid.to_string()));
        let mut arguments = vec!["--uid", &uid, "--listener", listener];
        arguments.extend(gid.iter().flat_map(|gid| ["--gid", gid]));
        explain(&config, &arguments).code
    };
    for listener in ["sdk", "lock"] {
        assert_eq!(judged(member, None, listener), Some(0), "{listener}");
        assert_eq!(
            judged(member, Some(FRIEND), listener),
            Some(0),
            "{listener}: whatever its process has"
        );
        assert_eq!(judged(FRIEND, Some(group), listener), Some(77), "{listener}");
    }
    assert_eq!(judged(FRIEND, Some(group), "socket"), Some(0));
    assert_eq!(judged(member, Some(FRIEND), "socket"), Some(77));
    assert_eq!(judged(member, None, "elsewhere"), Some(64));
}

#[test]
fn it_says_when_the_daemon_that_runs_has_loaded_other_files() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let judged = || {
        let mut command = client();
        command.args(["explain", STORAGE, "--config"]).arg(daemon.config_path());
        run(command.arg("--socket").arg(daemon.socket())).out
    };
    let note = "has loaded other files than these";
    assert!(!judged().contains(note), "{}", judged());
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    let more = format!("{text}\n[[allow]]\nusers = [\"{FRIEND}\"]\n");
    write(&daemon.config_path(), &more);
    assert!(
        judged().contains(note) && judged().contains("systemctl reload"),
        "{}",
        judged()
    );
    daemon.reload(&more);
    assert!(!judged().contains(note), "{}", judged());
}
