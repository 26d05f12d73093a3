//! How many file descriptors the process may have, and how many of those are for callers.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For the log, the sockets that listen, monitoring agents, connections that are on their way out, a reload's files, and what
/// libraries need.
const OWN: u64 = 128;

/// Raises the soft limit as far as `connections` and `fetches` at once need it and the hard one allows. Returns how many
/// connections there is room for: with more of them there would be no descriptor left to ask the upstream with, and one
/// user's connections would be every user's failures.
///
/// # Errors
/// Those of `getrlimit(2)` and `setrlimit(2)`.
pub fn make_room(connections: usize, fetches: usize) -> nix::Result<usize> {
    let own = OWN.saturating_add(fetches as u64);
    let wanted = own.saturating_add(connections as u64);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = soft.max(wanted.min(hard));
    if limit > soft {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    }
    let room = limit.saturating_sub(own).max(1);
    Ok(usize::try_from(room).map_or(connections, |room| room.min(connections)))
}
