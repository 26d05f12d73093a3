//! `sdk.env`: the environment that leads an unmodified Azure SDK to the loopback listener (`docs/protocol.md`, "What
//! SDKs do", row "Variables").

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl, openat, renameat};
use nix::libc::{F_WRLCK, SEEK_SET, c_short, flock};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::listener::ListenError;
use super::own_file::OwnFile;
use super::secret::Secret;
use crate::directory::{Directory, directory_of, file_type};
use crate::replace::remove;

/// The key that names the file.
const SETTING: &str = "listen.sdk_env";
/// systemd reads the file as root, people of the service's group may.
const MODE: u32 = 0o640;
/// Far more than we write.
const MAX_SIZE: u64 = 4096;
const FIRST: &str = "IDENTITY_ENDPOINT=http://";
const HEADER: &str = "IDENTITY_HEADER=";

/// Writes the file for a listener at `address` and returns the secret in it: the one that is there already, so that
/// clients outlive a crash of ours and a restart under systemd's socket, or else a new one.
pub fn publish(path: &Path, address: SocketAddr) -> Result<(Secret, OwnFile), ListenError> {
    let directory = Directory::open(directory_of(path))?;
    let name = path.file_name().unwrap_or_default();
    let failed = |source| ListenError::Unwritable {
        path: path.display().to_string(),
        source,
    };
    let secret = match kept(&directory, name, path)? {
        Some(secret) => secret,
        None => Secret::random().map_err(|error| failed(error.into()))?,
    };
    let file = replace(&directory, name, &content(address, &secret)).map_err(failed)?;
    Ok((secret, OwnFile::at(directory, name, Some(file))))
}

/// Takes away a file as we write it, of a process that is gone: after a crash, or after systemd no longer has the port.
/// Whether there was one; everything else is left as it is.
pub fn remove_stale(path: &Path) -> io::Result<bool> {
    // Where there is none it does not matter whose the directory is.
    let ours = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.uid() == geteuid().as_raw());
    if !ours {
        return Ok(false);
    }
    let directory = Directory::open(directory_of(path)).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default();
    let (file, text) = open(&directory, name, OFlag::O_RDWR)?;
    if !text.starts_with(FIRST) || secret_in(&text).is_none() || is_locked(&file)? {
        return Ok(false);
    }
    remove(&directory, name)?;
    Ok(true)
}

/// Proxies are for the network: with `HTTP_PROXY` set, nearly every SDK would otherwise send the request, secret included,
/// to the proxy (`docs/protocol.md`, "What SDKs do", row "Proxy variables"). Programs differ in which spelling they
/// read.
fn content(address: SocketAddr, secret: &Secret) -> Zeroizing<String> {
    let (secret, host) = (secret.expose(), address.ip());
    Zeroizing::new(format!(
        "{FIRST}{address}/msi/token\n\
         {HEADER}{secret}\n\
         NO_PROXY={host},localhost,169.254.169.254\n\
         no_proxy={host},localhost,169.254.169.254\n"
    ))
}

/// The secret in the file that is there, if it is a file of ours as we write it.
fn kept(directory: &Directory, name: &OsStr, path: &Path) -> Result<Option<Secret>, ListenError> {
    let occupied = |why| ListenError::Occupied {
        path: path.display().to_string(),
        why,
        setting: SETTING,
    };
    match directory.look_at(name) {
        Err(_) | Ok(None) => return Ok(None),
        Ok(Some(found)) if file_type(&found) != SFlag::S_IFREG => {
            return Err(occupied("is there already and is no file"));
        }
        Ok(Some(found)) if found.st_uid != geteuid().as_raw() => return Err(occupied("is somebody else's file")),
        Ok(Some(_)) => {}
    }
    let Ok((file, text)) = open(directory, name, OFlag::O_RDONLY) else {
        return Ok(None);
    };
    // Under another mode somebody may have read it.
    let private = file.metadata().is_ok_and(|meta| meta.mode() & 0o7777 == MODE);
    Ok(secret_in(&text).filter(|_| private))
}

fn open(directory: &Directory, name: &OsStr, how: OFlag) -> io::Result<(File, Zeroizing<String>)> {
    let file = directory.open_file(name, how)?;
    let mut text = Zeroizing::new(String::new());
    (&file).take(MAX_SIZE).read_to_string(&mut text)?;
    Ok((file, text))
}

fn secret_in(text: &str) -> Option<Secret> {
    let header = text.lines().find_map(|line| line.strip_prefix(HEADER));
    header.and_then(Secret::parse)
}

/// The process that wrote the file holds this lock as long as it lives. It is one that only the file's owner can hold.
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

/// A reader finds the old file or the new one, whole.
fn replace(directory: &Directory, name: &OsStr, content: &str) -> io::Result<File> {
    let mut new = name.to_owned();
    new.push(".new");
    remove(directory, &new)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(directory, &*new, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(content.as_bytes())?;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&LOCK))?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(MODE))?;
    renameat(directory, &*new, directory, name)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use nix::libc::F_RDLCK;
    use std::os::unix::fs::symlink;

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
    fn the_file_leads_to_the_listener_and_past_proxies() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        let (secret, _file) = publish(&path, address("127.0.0.1:40343")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "IDENTITY_ENDPOINT=http://127.0.0.1:40343/msi/token",
                &format!("IDENTITY_HEADER={}", secret.expose()),
                "NO_PROXY=127.0.0.1,localhost,169.254.169.254",
                "no_proxy=127.0.0.1,localhost,169.254.169.254",
            ]
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        let text = content(address("[::1]:1"), &secret);
        assert!(text.starts_with("IDENTITY_ENDPOINT=http://[::1]:1/msi/token\n") && text.contains("\nNO_PROXY=::1,"));
    }

    /// As a process does that is killed then, or whose socket is systemd's.
    fn left_behind(path: &Path, at: &str) -> Secret {
        let (secret, file) = publish(path, address(at)).unwrap();
        _ = file.staying();
        secret
    }

    #[test]
    fn the_secret_outlives_a_crash_but_not_doubts() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        let first = left_behind(&path, "127.0.0.1:1");
        let second = left_behind(&path, "127.0.0.1:2");
        assert_eq!(first.expose(), second.expose());
        assert!(fs::read_to_string(&path).unwrap().contains("127.0.0.1:2"));

        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let third = left_behind(&path, "127.0.0.1:2");
        assert_ne!(first.expose(), third.expose(), "others could read it");
        fs::write(&path, "IDENTITY_HEADER=abc\n").unwrap();
        assert_ne!(left_behind(&path, "127.0.0.1:2").expose(), "abc");
        fs::write(directory.path().join("sdk.env.new"), "left by a crash").unwrap();
        publish(&path, address("127.0.0.1:2")).unwrap();
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
        for mode in [MODE, 0o644, 0o600] {
            left_behind(&path, "127.0.0.1:1");
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(remove_stale(&path).unwrap() && !path.exists(), "{mode:o}");
        }
    }

    #[test]
    fn a_file_of_a_process_that_lives_is_left_alone_and_readers_do_not_keep_one() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        let (_, file) = publish(&path, address("127.0.0.1:1")).unwrap();
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
