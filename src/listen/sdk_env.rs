//! `sdk.env`: the environment that leads programs to a loopback listener which this process bound. Where systemd has the
//! port, the package's own file does.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{F_WRLCK, SEEK_SET, c_short, flock};
use nix::sys::stat::SFlag;
use nix::unistd::geteuid;

use super::listener::ListenError;
use super::own_file::OwnFile;
use crate::directory::{Directory, directory_of, file_type};
use crate::environment::{self, MARK};
use crate::replace::{remove, replace_with};

/// The key that names the file.
const SETTING: &str = "listen.sdk_env";
/// There is no secret in it.
const MODE: u32 = 0o644;
/// Far more than we write.
const MAX_SIZE: u64 = 4096;
/// What version 0.1.0 wrote for a secret has this many characters.
const SECRET: usize = 43;

/// Writes the file for a listener at `address`.
pub fn publish(path: &Path, address: SocketAddr) -> Result<OwnFile, ListenError> {
    let directory = Directory::open(directory_of(path))?;
    let name = path.file_name().unwrap_or_default();
    check_place(&directory, name, path)?;
    let content = environment::file(address);
    let lock = |file: &File| Ok(fcntl(file, FcntlArg::F_OFD_SETLK(&LOCK))?);
    let (_, file) =
        replace_with(&directory, name, content.as_bytes(), MODE, lock).map_err(|source| ListenError::Unwritable {
            path: path.display().to_string(),
            source,
        })?;
    Ok(OwnFile::at(directory, name, Some(file)))
}

/// Takes away a file as we write it, of a process that is gone, or of one that systemd then had the port for. Whether there
/// was one; everything else is left as it is.
pub fn remove_stale(path: &Path) -> io::Result<bool> {
    // Where there is none it does not matter whose the directory is.
    let ours = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.uid() == geteuid().as_raw());
    if !ours {
        return Ok(false);
    }
    let directory = Directory::open(directory_of(path)).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default();
    let file = directory.open_file(name, OFlag::O_RDWR)?;
    let mut text = String::new();
    (&file).take(MAX_SIZE).read_to_string(&mut text)?;
    if !is_as_we_write(&text) || is_locked(&file)? {
        return Ok(false);
    }
    remove(&directory, name)?;
    Ok(true)
}

fn is_as_we_write(text: &str) -> bool {
    let mut lines = text.lines();
    let endpoint = lines
        .next()
        .and_then(|line| line.strip_prefix("IDENTITY_ENDPOINT=http://"));
    let header = lines.next().and_then(|line| line.strip_prefix("IDENTITY_HEADER="));
    endpoint.is_some_and(|rest| rest.ends_with("/msi/token"))
        && header.is_some_and(|value| value == MARK || value.len() == SECRET)
}

/// Whether nothing is in the way that we did not make.
fn check_place(directory: &Directory, name: &OsStr, path: &Path) -> Result<(), ListenError> {
    let occupied = |why| {
        Err(ListenError::Occupied {
            path: path.display().to_string(),
            why,
            setting: SETTING,
        })
    };
    match directory.look_at(name) {
        Ok(Some(found)) if file_type(&found) != SFlag::S_IFREG => occupied("is there already and is no file"),
        Ok(Some(found)) if found.st_uid != geteuid().as_raw() => occupied("is somebody else's file"),
        _ => Ok(()),
    }
}

/// The process that wrote the file holds this lock until it ends. Only the file's owner can hold it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the C library declares the numbers wider than the fields they are for"
)]
const LOCK: flock = flock {
    l_type: F_WRLCK as c_short,
    l_whence: SEEK_SET as c_short,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

fn is_locked(file: &File) -> io::Result<bool> {
    let mut found = LOCK;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type == LOCK.l_type)
}

#[cfg(test)]
mod tests {
    use nix::libc::F_RDLCK;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn directory() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        directory
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn everybody_may_read_the_file_and_nothing_is_left_beside_it() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        fs::write(directory.path().join(".sdk.env.new"), "left by a crash").unwrap();
        for at in ["127.0.0.1:1", "[::1]:2"] {
            let file = publish(&path, address(at)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), environment::file(address(at)));
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
            std::mem::forget(file);
        }
    }

    /// As a process does that is killed then.
    fn left_behind(path: &Path, at: &str) {
        drop(publish(path, address(at)).unwrap().staying());
    }

    #[test]
    fn the_file_goes_with_the_listener_unless_another_took_its_place() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        let first = publish(&path, address("127.0.0.1:1")).unwrap();
        let second = publish(&path, address("127.0.0.1:2")).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_removed_whatever_became_of_its_mode() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        assert!(!remove_stale(&path).unwrap(), "there is none");
        for mode in [MODE, 0o640, 0o600] {
            left_behind(&path, "127.0.0.1:1");
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(remove_stale(&path).unwrap() && !path.exists(), "{mode:o}");
        }
        let secret = "A".repeat(SECRET);
        let of_0_1_0 = format!(
            "IDENTITY_ENDPOINT=http://127.0.0.1:40343/msi/token\nIDENTITY_HEADER={secret}\n\
             NO_PROXY=127.0.0.1,localhost,169.254.169.254\nno_proxy=127.0.0.1,localhost,169.254.169.254\n"
        );
        fs::write(&path, of_0_1_0).unwrap();
        assert!(remove_stale(&path).unwrap() && !path.exists());
    }

    #[test]
    fn a_file_of_a_process_that_lives_is_left_alone_and_readers_do_not_keep_one() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        let file = publish(&path, address("127.0.0.1:1")).unwrap();
        assert!(!remove_stale(&path).unwrap() && path.exists());
        drop(file.staying());
        let reader = File::open(&path).unwrap();
        let shared = flock {
            l_type: c_short::try_from(F_RDLCK).unwrap(),
            ..LOCK
        };
        fcntl(&reader, FcntlArg::F_OFD_SETLK(&shared)).unwrap();
        assert!(remove_stale(&path).unwrap());
    }

    #[test]
    fn what_is_not_a_stale_file_of_ours_is_not_removed() {
        let directory = directory();
        let (path, link) = (directory.path().join("sdk.env"), directory.path().join("l"));
        for text in [
            "",
            "kept",
            "IDENTITY_ENDPOINT=http://127.0.0.1:1/msi/token\nIDENTITY_HEADER=mine\n",
        ] {
            fs::write(&path, text).unwrap();
            assert!(!remove_stale(&path).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(!remove_stale(directory.path()).unwrap());
        left_behind(&path, "127.0.0.1:1");
        symlink(&path, &link).unwrap();
        assert!(!remove_stale(&link).unwrap() && link.is_symlink());
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(remove_stale(&path).is_err() && path.exists());
        if geteuid().is_root() {
            fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            assert!(!remove_stale(&path).unwrap() && path.exists());
        }
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let directory = directory();
        let (file, link) = (directory.path().join("f"), directory.path().join("l"));
        fs::write(&file, "kept").unwrap();
        symlink(&file, &link).unwrap();
        let refused = publish(&link, address("127.0.0.1:1"));
        assert!(matches!(refused, Err(ListenError::Occupied { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let refused = publish(&directory.path().join("sdk.env"), address("127.0.0.1:1"));
        assert!(matches!(refused, Err(ListenError::Untrusted(_))));
    }
}
