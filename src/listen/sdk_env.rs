//! `sdk.env`: the environment that leads an unmodified Azure SDK to the loopback listener (`docs/protocol.md`, "What
//! SDKs do", row "Variables").

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::listener::ListenError;
use super::secret::Secret;
use super::unix::check_directory;

/// The key that names the file.
const SETTING: &str = "listen.sdk_env";
/// systemd reads the file as root, people of the service's group may.
const MODE: u32 = 0o640;
/// Far more than we write.
const MAX_SIZE: u64 = 4096;
const HEADER: &str = "IDENTITY_HEADER=";

/// Writes the file for a listener at `address` and returns the secret in it: the one that is there already, so that
/// clients outlive a restart of ours, or else a new one. The directory is under /run, so a boot takes it away.
pub fn publish(path: &Path, address: SocketAddr) -> Result<Secret, ListenError> {
    check_directory(path, SETTING)?;
    let failed = |source| ListenError::Unwritable {
        path: path.display().to_string(),
        source,
    };
    let secret = match kept(path)? {
        Some(secret) => secret,
        None => Secret::random().map_err(|error| failed(error.into()))?,
    };
    replace(path, &content(address, &secret)).map_err(failed)?;
    Ok(secret)
}

/// Proxies are for the network: with `HTTP_PROXY` set, nearly every SDK would otherwise send the request, secret included,
/// to the proxy (`docs/protocol.md`, "What SDKs do", row "Proxy variables"). Programs differ in which spelling they
/// read.
fn content(address: SocketAddr, secret: &Secret) -> Zeroizing<String> {
    let (secret, host) = (secret.expose(), address.ip());
    Zeroizing::new(format!(
        "IDENTITY_ENDPOINT=http://{address}/msi/token\n\
         {HEADER}{secret}\n\
         NO_PROXY={host},localhost,169.254.169.254\n\
         no_proxy={host},localhost,169.254.169.254\n"
    ))
}

/// The secret in the file that is there, if it is a file of ours as we write it.
fn kept(path: &Path) -> Result<Option<Secret>, ListenError> {
    let occupied = |why| ListenError::Occupied {
        path: path.display().to_string(),
        why,
        setting: SETTING,
    };
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(None),
        Ok(meta) if !meta.is_file() => return Err(occupied("is there already and is no file")),
        Ok(meta) if meta.uid() != geteuid().as_raw() => return Err(occupied("is somebody else's file")),
        Ok(_) => {}
    }
    Ok(secret_in(path).ok().flatten())
}

fn secret_in(path: &Path) -> io::Result<Option<Secret>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.mode() & 0o7777 != MODE {
        // Somebody may have read it.
        return Ok(None);
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_SIZE).read_to_string(&mut text)?;
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix(HEADER))
        .and_then(Secret::parse))
}

/// A reader finds the old file or the new one, whole.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content.as_bytes())?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(MODE))?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
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
        let secret = publish(&path, address("127.0.0.1:40343")).unwrap();
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

    #[test]
    fn the_secret_outlives_a_restart_but_not_doubts() {
        let directory = directory();
        let path = directory.path().join("sdk.env");
        let first = publish(&path, address("127.0.0.1:1")).unwrap();
        let second = publish(&path, address("127.0.0.1:2")).unwrap();
        assert_eq!(first.expose(), second.expose());
        assert!(fs::read_to_string(&path).unwrap().contains("127.0.0.1:2"));

        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let third = publish(&path, address("127.0.0.1:2")).unwrap();
        assert_ne!(first.expose(), third.expose(), "others could read it");
        fs::write(&path, "IDENTITY_HEADER=abc\n").unwrap();
        assert_ne!(publish(&path, address("127.0.0.1:2")).unwrap().expose(), "abc");
        fs::write(directory.path().join("sdk.env.new"), "left by a crash").unwrap();
        publish(&path, address("127.0.0.1:2")).unwrap();
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
        assert!(matches!(refused, Err(ListenError::UnsafeDirectory { .. })));
    }
}
