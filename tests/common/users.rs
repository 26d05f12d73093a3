//! Callers with a uid and groups of their own, as the kernel tells them to the daemon.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::thread;

use nix::libc;

/// Of nobody on any system.
pub const ALICE: u32 = 1_918_273;
pub const BOB: u32 = 1_918_274;

/// Whether this test can call as other users; says so where it cannot.
pub fn are_to_be_had(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: calling as other users needs root");
    }
    root
}

/// Runs `f` as the user, on a thread of its own. A connection that it makes stays that user's.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user(uid, gid, groups);
            f()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The kernel keeps credentials for each thread; it is the C library that spreads them over a process.
#[expect(unsafe_code, reason = "the library's own calls would change the whole test program")]
fn become_user(uid: u32, gid: u32, groups: &[u32]) {
    // SAFETY: the calls take numbers, and a slice that outlives them.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, gid, gid, gid),
            libc::syscall(libc::SYS_setresuid, uid, uid, uid),
        ]
    };
    assert_eq!(results, [0; 3], "{}", std::io::Error::last_os_error());
}
