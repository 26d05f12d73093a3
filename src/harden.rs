//! What the process asks the kernel to keep others from.

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Keeps tokens out of core files, and out of reach of processes of the same uid: without `PR_SET_DUMPABLE` nobody but
/// root may attach to this process or read its memory, environment or descriptors in `/proc`. To be called before the
/// first token is held.
pub fn harden() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)
}

/// Keeps what is in memory, tokens among it, from being swapped out; page by page as they are used, so that nothing is
/// made resident for it.
///
/// # Errors
/// `ENOMEM` or `EPERM` where `RLIMIT_MEMLOCK` is smaller than the process.
pub fn lock_memory() -> nix::Result<()> {
    #[expect(
        unsafe_code,
        reason = "nix's mlockall knows no MCL_ONFAULT; the call takes nothing but flags"
    )]
    // SAFETY: locking changes where pages are kept, not what is in them.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    Errno::result(result).map(drop)
}
