//! `SO_PEERGROUPS`, for which neither nix nor the standard library has a function.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// Room for this many groups in the first call. More (the kernel allows 65,536) take a second call.
const USUAL: usize = 64;

/// The supplementary groups that the peer of a Unix socket had when it connected.
///
/// # Errors
/// Those of `getsockopt(2)`: `ENODATA` if the kernel has recorded no groups.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Box<[u32]>> {
    let mut usual = [0; USUAL];
    let needed = match fill(socket, &mut usual) {
        Ok(count) => return Ok(usual.get(..count).unwrap_or_default().into()),
        Err((error, needed)) if error.raw_os_error() == Some(libc::ERANGE) => needed,
        Err((error, _)) => return Err(error),
    };
    let mut groups = vec![0; needed];
    let count = fill(socket, &mut groups).map_err(|(error, _)| error)?;
    groups.truncate(count);
    Ok(groups.into())
}

/// Fills `groups` and returns how many there are. The error `ERANGE` comes with the number that is needed.
#[expect(
    unsafe_code,
    reason = "SO_PEERGROUPS has no safe wrapper; the pointer and length are those of one live slice"
)]
fn fill(socket: BorrowedFd<'_>, groups: &mut [u32]) -> Result<usize, (io::Error, usize)> {
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups)).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `bytes` bytes to `groups`, which it may, as gid_t is u32; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let count = bytes as usize / size_of::<libc::gid_t>();
    if result == 0 {
        Ok(count)
    } else {
        Err((io::Error::last_os_error(), count))
    }
}
