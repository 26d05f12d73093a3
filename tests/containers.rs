//! Who a process in a container is, and how the socket gets there: with the namespaces and mounts that engines make, and no
//! engine. `docs/containers.md` says of it what is tried here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use common::{Daemon, Emulator, STORAGE, directory, programs, upstream};
use tempfile::TempDir;
use users::are_to_be_had;

/// The first uid on the host of those that a container has in its user namespace.
const MAPPED: u32 = 1_918_300;

/// A shell with namespaces of its own, which runs one line after the other.
struct Container {
    shell: Child,
    output: BufReader<std::process::ChildStdout>,
    _directory: TempDir,
}

impl Container {
    /// Its root is uid 0 of the host, or with `mapped` the host's uid [`MAPPED`].
    fn start(mapped: bool) -> Self {
        let directory = directory();
        fs::create_dir(directory.path().join("directory")).unwrap();
        fs::write(directory.path().join("socket"), "").unwrap();
        let mut namespaces = vec!["--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child"];
        if mapped {
            namespaces.extend(["--user", "--keep-caps"]);
        }
        let mut shell = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", "read _; exec setpriv --reuid=0 --regid=0 --clear-groups sh"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        if mapped {
            common::eventually("the user namespace is made", || {
                let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
                own(&shell.id().to_string()) != own("self")
            });
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{}/{map}", shell.id()), format!("0 {MAPPED} 1000\n")).unwrap();
            }
        }
        writeln!(shell.stdin.as_mut().unwrap()).unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        Self {
            shell,
            output,
            _directory: directory,
        }
    }

    /// The last line that the command writes.
    fn run(&mut self, command: &str) -> String {
        let stdin = self.shell.stdin.as_mut().unwrap();
        writeln!(stdin, "{{ {command}; }} 2>/dev/null | tail -n 1 | sed 's/^/: /'").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_start_matches(": ").trim_end().to_owned()
    }

    /// The status that a token request through `socket` gets; `None` where nobody answers.
    fn status(&mut self, socket: &str, user: u32) -> Option<u16> {
        let target = format!("http://x/oauth2/token?resource={STORAGE}");
        let status = self.run(&format!(
            "setpriv --reuid={user} --regid={user} --clear-groups curl --silent --output /dev/null \
             --write-out '%{{http_code}}\\n' --header 'Metadata: true' --unix-socket {socket} '{target}'"
        ));
        status.parse().ok().filter(|status| *status != 0)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        _ = self.shell.kill();
        _ = self.shell.wait();
    }
}

#[test]
fn root_of_a_container_is_root_unless_it_has_a_user_namespace() {
    if !are_to_be_had("root_of_a_container_is_root_unless_it_has_a_user_namespace") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let socket = daemon.socket().display().to_string();
    let (mut plain, mut mapped) = (Container::start(false), Container::start(true));
    assert_eq!(plain.run("id -u"), "0");
    assert_eq!(mapped.run("id -u"), "0");
    let both = |plain: &mut Container, mapped: &mut Container, user| {
        (plain.status(&socket, user), mapped.status(&socket, user))
    };
    assert_eq!(both(&mut plain, &mut mapped, 0), (Some(200), Some(403)));
    daemon.reload(&format!("{}[access]\nroot = \"rules\"\n", upstream(&emulator)));
    assert_eq!(both(&mut plain, &mut mapped, 0), (Some(403), Some(403)));
    // Numbers count, and those are the host's.
    let rule = format!("[[allow]]\nusers = [{}, 34]\n", MAPPED + 33);
    daemon.reload(&format!("{}{rule}", upstream(&emulator)));
    assert_eq!(both(&mut plain, &mut mapped, 33), (Some(403), Some(200)));
    assert_eq!(both(&mut plain, &mut mapped, 34), (Some(200), Some(403)));
    // Root becomes whom it likes, unless the engine took the capabilities for it away.
    let become_34 = "setpriv --reuid=34 id -u || echo may not";
    assert_eq!(plain.run(become_34), "34");
    let bare = format!("setpriv --bounding-set=-all --inh-caps=-all --no-new-privs sh -c '{become_34}'");
    assert_eq!(plain.run(&bare), "may not");
}

#[test]
fn the_client_trusts_no_server_whom_its_user_namespace_cannot_name() {
    if !are_to_be_had("the_client_trusts_no_server_whom_its_user_namespace_cannot_name") {
        return;
    }
    let (emulator, programs) = (Emulator::start(&[]), programs());
    let daemon = Daemon::start(&emulator, &format!("[[allow]]\nusers = [{MAPPED}]\n"));
    let (program, socket) = (programs.path().join("msi-token"), daemon.socket());
    let get = format!(
        "{} --socket {} get --resource {STORAGE} || echo exit $?",
        program.display(),
        socket.display()
    );
    assert!(Container::start(false).run(&get).starts_with("ey"));
    assert_eq!(Container::start(true).run(&get), "exit 70");
}

#[test]
fn a_mounted_directory_outlives_a_restart_and_a_mounted_file_does_not() {
    if !are_to_be_had("a_mounted_directory_outlives_a_restart_and_a_mounted_file_does_not") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start(&emulator, "");
    let mut container = Container::start(false);
    let mounts = format!(
        "mount --bind -o ro {} directory && mount --bind {} socket && echo mounted",
        daemon.directory().display(),
        daemon.socket().display()
    );
    assert_eq!(container.run(&mounts), "mounted");
    assert_eq!(
        container.status("directory/s", 0),
        Some(200),
        "also where it is read-only"
    );
    assert_eq!(container.status("socket", 0), Some(200));
    daemon.stop();
    daemon.start_again();
    assert_eq!(container.status("directory/s", 0), Some(200));
    assert_eq!(container.status("socket", 0), None, "the file that is gone");
}
