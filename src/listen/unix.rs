//! The Unix socket, passed by systemd or bound by the daemon.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::libc::{self, c_int};
use nix::setsockopt_impl;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, SFlag, umask};
use nix::unistd::geteuid;
use tokio_util::either::Either;

use super::listener::{ListenError, Listener};
use super::own_file::OwnFile;
use super::unix_acceptor::UnixAcceptor;
use crate::access::Closer;
use crate::directory::{Directory, directory_of, file_type};
use crate::replace::remove;

/// Whether the other end may send descriptors.
#[derive(Clone)]
struct PassRights;
/// Of asm-generic/socket.h.
const SO_PASSRIGHTS: c_int = 83;
setsockopt_impl!(PassRights, libc::SOL_SOCKET, SO_PASSRIGHTS, bool, sockopt::SetBool);

/// The key that names the socket.
const SETTING: &str = "listen.socket";
/// Another daemon's start is over long before all tries are.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The socket that systemd passed, or else one bound at `path` with permission bits `mode`. To be called inside the
/// runtime.
pub fn bind(path: &Path, mode: u32, passed: Option<StdListener>) -> Result<Listener, ListenError> {
    if let Some(listener) = passed {
        return Ok(Listener::from_systemd(Either::Left(acceptor(listener, path)?)));
    }
    // Said before what is wrong with the directory for us: to whom it belongs is right for the one that serves.
    if is_served(path)? {
        return Err(ListenError::Live(path.display().to_string()));
    }
    let directory = Directory::open(directory_of(path))?;
    let name = path.file_name().unwrap_or_default();
    // Two daemons that start at once must not both find the same stale socket and take each other's away.
    let _lock = lock_directory(&directory).map_err(|errno| refused(path, errno.into()))?;
    remove_stale(&directory, name, path)?;
    // bind(2) takes a path alone: nobody but root and we can lead it elsewhere, as each directory on it was judged.
    let listener = bind_new(path, mode).map_err(|source| refused(path, source))?;
    let file = OwnFile::at(directory, name, None);
    Ok(Listener::ours(Either::Left(acceptor(listener, path)?), Some(file)))
}

/// Keeps another daemon that starts at this moment away. Every user that can read the directory can hold this lock, so after
/// some tries the daemon starts without it.
fn lock_directory(directory: &Directory) -> nix::Result<Option<Flock<File>>> {
    let mut opened = directory.open_file(OsStr::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    for _ in 0..LOCK_TRIES {
        opened = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((opened, Errno::EWOULDBLOCK)) => opened,
            Err((_, errno)) => return Err(errno),
        };
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}

/// Takes away a socket of ours that nobody serves any more; leaves everything else as it is.
fn remove_stale(directory: &Directory, name: &OsStr, path: &Path) -> Result<(), ListenError> {
    let found = directory.look_at(name).map_err(|errno| refused(path, errno.into()))?;
    let Some(found) = found else {
        return Ok(());
    };
    let occupied = |why| ListenError::Occupied {
        path: path.display().to_string(),
        why,
        setting: SETTING,
    };
    if file_type(&found) != SFlag::S_IFSOCK {
        return Err(occupied("is there already and is no socket"));
    }
    if found.st_uid != geteuid().as_raw() {
        return Err(occupied("is somebody else's socket"));
    }
    if is_served(path)? {
        return Err(ListenError::Live(path.display().to_string()));
    }
    remove(directory, name).map_err(|source| refused(path, source))
}

/// Whether somebody serves there.
fn is_served(path: &Path) -> Result<bool, ListenError> {
    match probe(path) {
        // A full queue also belongs to a live server, and so does a socket of another type.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::EACCES) => Err(refused(path, Errno::EACCES.into())),
        Err(_) => Ok(false),
    }
}

/// Tries to connect, without waiting in a server's queue.
fn probe(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

/// The file has its final mode from the start. The queue is as long as the kernel allows, since a full one refuses
/// callers.
fn bind_new(path: &Path, mode: u32) -> io::Result<StdListener> {
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    refuse_descriptors(&descriptor)?;
    let address = UnixAddr::new(path)?;
    let before = umask(Mode::from_bits_truncate(!mode & 0o777));
    let bound = nix::sys::socket::bind(descriptor.as_raw_fd(), &address);
    umask(before);
    bound?;
    listen(&descriptor, Backlog::MAXALLOWABLE)?;
    Ok(StdListener::from(descriptor))
}

/// Has the kernel refuse callers that send a descriptor along, and inherits that to each connection. Nobody here wants one,
/// and to drop it is to close it, which waits for as long as its sender likes: for a TCP socket with `SO_LINGER` and unsent
/// data nobody would be served meanwhile. Whether the kernel can: not before Linux 6.16.
fn refuse_descriptors(listener: &impl AsFd) -> nix::Result<bool> {
    match setsockopt(listener, PassRights, &false) {
        Err(Errno::ENOPROTOOPT) => Ok(false),
        done => done.map(|()| true),
    }
}

fn acceptor(listener: StdListener, path: &Path) -> Result<UnixAcceptor, ListenError> {
    let accepts = || {
        let closer = if refuse_descriptors(&listener)? {
            None
        } else {
            // Of credentials the kernel tells as it does of descriptors, which is how those are seen.
            setsockopt(&listener, sockopt::PassCred, &false)?;
            Some(Closer::start()?)
        };
        UnixAcceptor::new(listener, closer)
    };
    accepts().map_err(|source| refused(path, source))
}

fn refused(path: &Path, source: io::Error) -> ListenError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return ListenError::NoPermission {
            path: path.display().to_string(),
            uid: geteuid().as_raw(),
        };
    }
    let source = if source.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) {
        io::Error::new(
            source.kind(),
            "the path is longer than the 107 bytes that a Unix socket's may have",
        )
    } else {
        source
    };
    ListenError::Refused {
        place: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::IoSlice;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
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
        let bound = bind(&path, 0o660, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_left_alone() {
        let directory = directory();
        let path = directory.path().join("s");
        drop(StdListener::bind(&path).unwrap());
        let bound = bind(&path, 0o666, None).unwrap();
        assert!(matches!(bind(&path, 0o666, None), Err(ListenError::Live(_))));
        // The newcomer that gave up has not taken the socket away.
        UnixStream::connect(&path).unwrap();
        drop(bound);
    }

    /// By a connection that waits in the queue, as by any other.
    #[tokio::test]
    async fn no_caller_can_send_a_descriptor_along() {
        if setsockopt(&UnixStream::pair().unwrap().0, PassRights, &false) == Err(Errno::ENOPROTOOPT) {
            return eprintln!("skipped: this kernel has no SO_PASSRIGHTS, which came with Linux 6.16");
        }
        let directory = directory();
        let (ours, systemds) = (directory.path().join("s"), directory.path().join("t"));
        let passed = StdListener::bind(&systemds).unwrap();
        let _bound = [bind(&ours, 0o666, None), bind(&systemds, 0o666, Some(passed))];
        for path in [ours, systemds] {
            let caller = UnixStream::connect(&path).unwrap();
            let send = |along: &[ControlMessage<'_>]| {
                let text = [IoSlice::new(b"GET /live HTTP/1.1\r\n")];
                sendmsg::<()>(caller.as_raw_fd(), &text, along, MsgFlags::empty(), None)
            };
            assert_eq!(send(&[ControlMessage::ScmRights(&[0])]), Err(Errno::EPERM));
            assert_eq!(send(&[]), Ok(20));
        }
    }

    /// A daemon that hangs, with a queue that is full, is alive, and finding that out does not hang.
    #[tokio::test]
    async fn a_live_socket_that_accepts_nobody_is_left_alone_at_once() {
        let directory = directory();
        let path = directory.path().join("s");
        let hung = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        nix::sys::socket::bind(hung.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&hung, Backlog::new(0).unwrap()).unwrap();
        let _in_the_queue = UnixStream::connect(&path).unwrap();
        assert_eq!(probe(&path), Err(Errno::EAGAIN));
        assert!(matches!(bind(&path, 0o666, None), Err(ListenError::Live(_))));
    }

    /// The directory is open to all, and so is its lock.
    #[tokio::test]
    async fn a_lock_that_somebody_holds_for_ever_does_not_keep_us_from_starting() {
        let directory = directory();
        let held = Flock::lock(fs::File::open(directory.path()).unwrap(), FlockArg::LockShared).unwrap();
        bind(&directory.path().join("s"), 0o666, None).unwrap();
        drop(held);
    }

    #[tokio::test]
    async fn what_is_not_ours_is_not_touched() {
        let directory = directory();
        let (file, link) = (directory.path().join("f"), directory.path().join("l"));
        fs::write(&file, "kept").unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(
                matches!(bind(path, 0o666, None), Err(ListenError::Occupied { .. })),
                "{}",
                path.display()
            );
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_directory_that_others_can_write_to_is_refused() {
        let directory = directory();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(&inner, 0o755);
        let refused = |path: &Path| match bind(path, 0o666, None).unwrap_err() {
            ListenError::Untrusted(untrusted) => untrusted,
            other => panic!("{other}"),
        };
        for mode in [0o775, 0o757, 0o1777] {
            chmod(&inner, mode);
            assert_eq!(
                refused(&inner.join("s")).path,
                inner.canonicalize().unwrap(),
                "{mode:o}"
            );
        }
        chmod(&inner, 0o755);
        // One above it, too: who can rename what is in it can have another `inner`.
        for mode in [0o775, 0o757] {
            chmod(directory.path(), mode);
            let untrusted = refused(&inner.join("s"));
            assert_eq!(untrusted.path, directory.path().canonicalize().unwrap(), "{mode:o}");
            assert!(untrusted.remedy.starts_with("chmod go-w"), "{untrusted}");
        }
        chmod(directory.path(), 0o1777);
        drop(bind(&inner.join("s"), 0o666, None).unwrap());
        assert!(refused(&directory.path().join("no/s")).remedy.contains("create it"));
    }

    #[tokio::test]
    async fn a_link_to_the_directory_is_followed_if_it_is_roots() {
        if !geteuid().is_root() {
            eprintln!("not root: no link is root's, nothing tested");
            return;
        }
        let directory = directory();
        let link = directory.path().join("link");
        symlink(directory.path(), &link).unwrap();
        let bound = bind(&link.join("s"), 0o666, None).unwrap();
        drop(bound);
        assert!(!directory.path().join("s").exists());
        std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
        let refused = bind(&link.join("s"), 0o666, None).unwrap_err();
        assert!(matches!(refused, ListenError::Untrusted(_)), "{refused}");
    }

    #[tokio::test]
    async fn the_file_that_goes_is_the_one_in_the_directory_that_was_judged() {
        let directory = directory();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        let bound = bind(&inner.join("s"), 0o666, None).unwrap();
        let away = directory.path().join("away");
        fs::rename(&inner, &away).unwrap();
        drop(bound);
        assert!(!away.join("s").exists());
    }
}
