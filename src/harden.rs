//! What the process asks the kernel to keep others from.

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

/// Keeps tokens out of core files, and out of reach of processes of the same uid: without `PR_SET_DUMPABLE` nobody but
/// root may attach to this process or read its memory, environment or descriptors in `/proc`. To be called first in
/// `main`: what was opened before stays open. The package closes the moment before `main`, too, by a program that nobody
/// but root may read.
pub fn harden() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)
}

/// Why memory can be swapped out.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    /// Under this limit, in bytes, a later allocation would fail, and that ends the process.
    #[error("RLIMIT_MEMLOCK is {} kB and the process has no CAP_IPC_LOCK", .0 / 1024)]
    Limited(rlim_t),
    /// The kernel's answer.
    #[error("the kernel refused it: {0}")]
    Refused(#[from] Errno),
}

/// Keeps what is in memory, tokens among it, from being swapped out, now and later. Only where no limit applies, since
/// the limit would count for all memory to come.
///
/// # Errors
/// Nothing is locked then.
pub fn lock_memory() -> Result<(), NotLocked> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if hard == RLIM_INFINITY {
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
        return Ok(lock_all()?);
    }
    // Under a limit of nothing the kernel lets those lock whom it puts no limit on. CapEff in /proc would not tell: in a
    // user namespace it has the bit, and the limit applies all the same.
    setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard)?;
    let locked = lock_all();
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    locked.map_err(|errno| match errno {
        Errno::EPERM => NotLocked::Limited(soft),
        other => NotLocked::Refused(other),
    })
}

/// Page by page as they are used, so that nothing is made resident for it.
fn lock_all() -> nix::Result<()> {
    #[expect(
        unsafe_code,
        reason = "nix's mlockall knows no MCL_ONFAULT; the call takes nothing but flags"
    )]
    // SAFETY: locking changes where pages are kept, not what is in them.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    Errno::result(result).map(drop)
}
