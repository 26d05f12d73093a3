//! Where the socket comes from: passed by systemd, or bound by ourselves with the same care.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, getsockname, listen, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::net::UnixListener;

/// A listener that accepts, and the file to take away at the end if we made it.
#[derive(Debug)]
pub struct Bound {
    /// Accepts callers.
    pub listener: UnixListener,
    /// Where callers find it.
    pub path: PathBuf,
    ours: Option<Inode>,
}

type Inode = (u64, u64);

/// Why there is no socket. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The directory is not there.
    #[error("{directory}: {source}: create it, owned by the daemon's user with mode 0755")]
    NoDirectory {
        /// The socket's directory.
        directory: String,
        /// As the system says it.
        source: io::Error,
    },
    /// Somebody else could put a socket of his own in place of ours.
    #[error("{directory}: {why}: whoever can write there could answer in our place; {remedy}")]
    UnsafeDirectory {
        /// The socket's directory.
        directory: String,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// Something is there that we did not make.
    #[error("{path}: {why}: move it away or set listen.socket to another path")]
    Occupied {
        /// The socket's path.
        path: String,
        /// What is there.
        why: &'static str,
    },
    /// Another daemon serves there.
    #[error("{0}: another process is already serving on this socket: stop it first")]
    Live(String),
    /// The kernel refused.
    #[error("{path}: cannot listen: {source}")]
    Refused {
        /// The socket's path.
        path: String,
        /// As the system says it.
        source: io::Error,
    },
    /// systemd passed something else than a Unix stream socket.
    #[error("systemd passed {0}, which is no listening Unix stream socket: check the .socket unit's ListenStream=")]
    Foreign(String),
}

/// The socket that systemd passed, or else one bound at `path` with permission bits `mode`. To be called inside the
/// runtime.
pub fn bind(path: &Path, mode: u32) -> Result<Bound, BindError> {
    if let Some(listener) = passed()? {
        let path = listener
            .local_addr()
            .ok()
            .and_then(|address| address.as_pathname().map(Path::to_path_buf));
        let path = path.unwrap_or_default();
        return Ok(Bound {
            listener: into_tokio(listener, &path)?,
            path,
            ours: None,
        });
    }
    judge_directory(path)?;
    // Two daemons that start at once must not both find the same stale socket and take each other's away.
    let _lock = lock_directory(path)?;
    remove_stale(path)?;
    let listener = bind_new(path, mode).map_err(|source| refused(path, source))?;
    let ours = fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    Ok(Bound {
        listener: into_tokio(listener, path)?,
        path: path.to_path_buf(),
        ours,
    })
}

impl Bound {
    /// Whether systemd keeps the socket for the next process.
    pub fn is_passed(&self) -> bool {
        self.ours.is_none()
    }
}

/// The file goes if it still is the one we made.
impl Drop for Bound {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path)
            .ok()
            .map(|meta| (meta.dev(), meta.ino()));
        if self.ours.is_some() && now == self.ours {
            // Nothing is lost if it stays: the next start finds it stale.
            _ = fs::remove_file(&self.path);
        }
    }
}

/// systemd's Unix socket, among those it passed.
fn passed() -> Result<Option<StdListener>, BindError> {
    let descriptors = sd_notify::listen_fds_with_names().map_err(|error| BindError::Foreign(error.to_string()))?;
    let mut found = None;
    for (descriptor, name) in descriptors {
        if name == "sdk" {
            continue;
        }
        #[expect(
            unsafe_code,
            reason = "systemd passes descriptors by number; each is taken over here once and for all"
        )]
        // SAFETY: sd_listen_fds(3) says that this process owns the descriptor, and nobody else here takes it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        if getsockname::<UnixAddr>(descriptor.as_raw_fd()).is_err() || found.is_some() {
            return Err(BindError::Foreign(format!("a descriptor named \"{name}\"")));
        }
        found = Some(StdListener::from(descriptor));
    }
    Ok(found)
}

fn judge_directory(path: &Path) -> Result<(), BindError> {
    let directory = directory_of(path);
    let name = directory.display().to_string();
    // The directory itself is judged, not what a link points to.
    let meta = fs::symlink_metadata(directory).map_err(|source| BindError::NoDirectory {
        directory: name.clone(),
        source,
    })?;
    let unsafe_for = |why: String, remedy: String| {
        Err(BindError::UnsafeDirectory {
            directory: name.clone(),
            why,
            remedy,
        })
    };
    let us = geteuid().as_raw();
    if !meta.is_dir() {
        unsafe_for(
            "is not a directory".to_owned(),
            "name the directory itself in listen.socket".to_owned(),
        )
    } else if meta.uid() != 0 && meta.uid() != us {
        unsafe_for(format!("belongs to uid {}", meta.uid()), format!("chown {us} {name}"))
    } else if meta.mode() & 0o022 != 0 {
        unsafe_for(
            format!("has mode {:04o}", meta.mode() & 0o7777),
            format!("chmod go-w {name}"),
        )
    } else {
        Ok(())
    }
}

fn lock_directory(path: &Path) -> Result<Flock<fs::File>, BindError> {
    let directory = fs::File::open(directory_of(path)).map_err(|source| refused(path, source))?;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| refused(path, errno.into()))
}

/// Takes away a socket of ours that nobody serves any more; leaves everything else as it is.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let name = path.display().to_string();
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(refused(path, source)),
    };
    if !meta.file_type().is_socket() {
        return Err(BindError::Occupied {
            path: name,
            why: "is there already and is no socket",
        });
    }
    if meta.uid() != geteuid().as_raw() {
        return Err(BindError::Occupied {
            path: name,
            why: "is somebody else's socket",
        });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| refused(path, source))
        }
        // Also a full queue (EAGAIN) belongs to somebody who lives.
        _ => Err(BindError::Live(name)),
    }
}

/// The file has its final mode from the first moment on, and the queue is as long as the kernel allows: a caller finds a
/// full one refused.
fn bind_new(path: &Path, mode: u32) -> io::Result<StdListener> {
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    let before = umask(Mode::from_bits_truncate(!mode & 0o777));
    let bound = nix::sys::socket::bind(descriptor.as_raw_fd(), &address);
    umask(before);
    bound?;
    listen(&descriptor, Backlog::MAXALLOWABLE)?;
    Ok(StdListener::from(descriptor))
}

fn into_tokio(listener: StdListener, path: &Path) -> Result<UnixListener, BindError> {
    listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(|source| refused(path, source))
}

fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn refused(path: &Path, source: io::Error) -> BindError {
    let source = if source.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) {
        io::Error::new(
            source.kind(),
            "the path is longer than the 107 bytes that a Unix socket's may have",
        )
    } else {
        source
    };
    BindError::Refused {
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    /// A directory like the service's own.
    fn directory() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    #[tokio::test]
    async fn the_mode_is_right_from_the_first_moment_and_the_file_goes_with_us() {
        let directory = directory();
        let path = directory.path().join("s");
        let bound = bind(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_left_alone() {
        let directory = directory();
        let path = directory.path().join("s");
        drop(StdListener::bind(&path).unwrap());
        let bound = bind(&path, 0o666).unwrap();
        assert!(matches!(bind(&path, 0o666), Err(BindError::Live(_))));
        // The newcomer that gave up has not taken the socket away.
        UnixStream::connect(&path).unwrap();
        drop(bound);
    }

    #[tokio::test]
    async fn what_is_not_ours_is_not_touched() {
        let directory = directory();
        let (file, link) = (directory.path().join("f"), directory.path().join("l"));
        fs::write(&file, "kept").unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(
                matches!(bind(path, 0o666), Err(BindError::Occupied { .. })),
                "{}",
                path.display()
            );
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_directory_that_others_can_write_to_is_refused() {
        let directory = directory();
        for mode in [0o775, 0o757, 0o1777] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = bind(&directory.path().join("s"), 0o666).unwrap_err();
            assert!(matches!(error, BindError::UnsafeDirectory { .. }), "{mode:o}: {error}");
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let link = directory.path().join("link");
        symlink(directory.path(), &link).unwrap();
        assert!(matches!(
            bind(&link.join("s"), 0o666),
            Err(BindError::UnsafeDirectory { .. })
        ));
        assert!(matches!(
            bind(&directory.path().join("no/s"), 0o666),
            Err(BindError::NoDirectory { .. })
        ));
    }
}
