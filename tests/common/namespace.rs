//! Namespaces of the test's own: a network in which 169.254.169.254 is the test's and nothing else is there, and an empty
//! `/run`.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::process::Command;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// As a VM's own address is.
pub const OWN_ADDRESS: &str = "10.0.0.4";
pub const METADATA_SERVICE: &str = "169.254.169.254:80";

/// Runs `f` on a thread in new namespaces, and with it the threads and processes that it starts. `None`, with a
/// word about it, where this machine does not let us.
pub fn in_namespace<T: Send>(test: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    if !nix::unistd::geteuid().is_root() || Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED {test}: it needs root and nft");
        return None;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
                eprintln!("SKIPPED {test}: no namespaces: {error}");
                return None;
            }
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(
                Some("tmpfs"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=0755"),
            )
            .unwrap();
            for command in [
                "link set lo up",
                "address add 10.0.0.4/32 dev lo",
                "address add 169.254.169.254/32 dev lo",
                "route replace table local local 169.254.169.254 dev lo src 10.0.0.4",
            ] {
                run("ip", &command.split(' ').collect::<Vec<_>>());
            }
            Some(f())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}
