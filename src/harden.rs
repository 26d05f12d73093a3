//! What the process asks the kernel to keep others from.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Keeps tokens out of core files, and out of reach of processes of the same uid: without `PR_SET_DUMPABLE` nobody but
/// root may attach to this process or read its memory, environment or descriptors in `/proc`. To be called before the
/// first token is held.
pub fn harden() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)
}
