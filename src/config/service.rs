//! The packaged service's user. Root can read what that user cannot, so what root judges says little of what the service
//! will say.

use std::ffi::CString;
use std::path::Path;

use nix::unistd::{User, getegid, geteuid, getgroups, initgroups, setegid, seteuid, setgroups};

use super::{Loaded, Violations, load};

/// The user that the packaged service runs as.
pub const SERVICE_USER: &str = "msi-tokend";

/// The user of the packaged service, where that is installed.
pub fn service_user() -> Option<User> {
    User::from_name(SERVICE_USER).ok()?
}

/// As [`load`], and where root calls it with the rights of the service's user: its uid and the groups of its account.
///
/// # Errors
/// As [`load`].
pub fn load_as_service(main: &Path) -> Result<Loaded, Violations> {
    let service = service_user().filter(|_| geteuid().is_root());
    match service.and_then(|user| as_user(&user, || load(main)).ok()) {
        Some(loaded) => loaded,
        None => load(main),
    }
}

/// Does something with the rights that a process of this user has. Only for root.
fn as_user<T>(user: &User, act: impl FnOnce() -> T) -> nix::Result<T> {
    let (root, group, groups) = (geteuid(), getegid(), getgroups()?);
    let name = CString::new(user.name.clone()).unwrap_or_default();
    initgroups(&name, user.gid)?;
    setegid(user.gid)?;
    seteuid(user.uid)?;
    let done = act();
    seteuid(root)?;
    setegid(group)?;
    setgroups(&groups)?;
    Ok(done)
}
