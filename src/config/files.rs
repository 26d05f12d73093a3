//! Opens the files of a configuration, each once, and judges what was opened: a file that somebody else can write is
//! somebody else's configuration, and so is one below a directory that somebody else can rename. Judged on the descriptors
//! that are then read from, so nothing can be swapped in between.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Gid, User, faccessat, getegid, geteuid, getgroups};

use super::doubts;
use super::violation::{FaultKind, Violation, printable};
use crate::directory::{Directory, Untrusted, directory_of};

/// Far more than any real file, and little memory.
const MAX_BYTES: u64 = 1024 * 1024;

/// Follows no link, and does not wait when it opens a FIFO.
const FLAGS: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// One file that was checked and read.
pub(super) struct SourceFile {
    /// The path as it was opened.
    pub(super) path: Arc<Path>,
    pub(super) text: String,
}

/// Why a file is not read, and what to do.
type FileFault = (String, String);

/// The main file, then `conf.d/*.toml` beside it in name order, as a shell's `*.toml` would find them. What cannot be
/// read is a problem; a missing `conf.d` is none.
pub(super) fn read_all(main: &Path, violations: &mut Vec<Violation>) -> Vec<SourceFile> {
    let mut sources = Vec::new();
    let Some(directory) = judged(main, Directory::open_to_read(directory_of(main)), violations) else {
        return sources;
    };
    sources.extend(take(main, open(&directory, main, OFlag::empty()), violations));
    let drop_ins = main.with_file_name("conf.d");
    match list(&directory, &drop_ins) {
        Ok(Some((directory, names))) => {
            let (names, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_drop_in(name));
            for name in names {
                let opened = openat(&directory, name.as_os_str(), FLAGS, Mode::empty());
                let opened = opened.map(File::from).map_err(io::Error::from);
                sources.extend(take(&drop_ins.join(name), opened, violations));
            }
            for name in others {
                let doubt = doubts::of_file_name(&name.to_string_lossy());
                violations.extend(doubt.map(|doubt| Violation {
                    class: FaultKind::Doubt,
                    ..problem(&drop_ins.join(&name), doubt)
                }));
            }
        }
        Ok(None) => {}
        Err(refusal) => violations.push(problem(&drop_ins, refusal)),
    }
    sources
}

/// One file alone, in a directory that no other user can write.
pub(super) fn read_one(path: &Path, violations: &mut Vec<Violation>) -> Option<SourceFile> {
    let directory = judged(path, Directory::open(directory_of(path)), violations)?;
    take(path, open(&directory, path, OFlag::empty()), violations)
}

/// The directory of the file at `path`. One that is not there, or that we may not look into, is told as a file is.
fn judged(path: &Path, opened: Result<Directory, Untrusted>, violations: &mut Vec<Violation>) -> Option<Directory> {
    let problem = |refused: Untrusted| match refused.errno {
        Some(errno) => problem(path, unreadable(path, &errno.into())),
        None => problem(&refused.path, (refused.what, refused.remedy)),
    };
    opened.map_err(|refused| violations.push(problem(refused))).ok()
}

fn take(path: &Path, opened: io::Result<File>, violations: &mut Vec<Violation>) -> Option<SourceFile> {
    let read = read(path, opened).map_err(|refusal| violations.push(problem(path, refusal)));
    let text = read.ok()?;
    Some(SourceFile {
        path: path.into(),
        text,
    })
}

/// Opens what has the last name of `path` in its directory.
fn open(directory: &Directory, path: &Path, more: OFlag) -> io::Result<File> {
    let opened = directory.open_file(path.file_name().unwrap_or_default(), FLAGS | more);
    opened.map_err(io::Error::from)
}

/// As a shell's `*.toml` finds them.
fn is_drop_in(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

/// The judged directory and the names in it, in order; none if there is no such directory.
fn list(beside: &Directory, path: &Path) -> Result<Option<(File, Vec<OsString>)>, FileFault> {
    let directory = match open(beside, path, OFlag::O_DIRECTORY) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err((
                "is not a directory, or is a symbolic link".into(),
                "make it a directory".into(),
            ));
        }
        Err(error) => return Err(unreadable(path, &error)),
    };
    let unreadable = |error: io::Error| unreadable(path, &error);
    check_trust(path, &directory.metadata().map_err(unreadable)?)?;
    let copy = directory.try_clone().map_err(unreadable)?;
    let mut entries = Dir::from_fd(copy.into()).map_err(|errno| unreadable(errno.into()))?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let entry = entry.map_err(|errno| unreadable(errno.into()))?;
        names.push(OsString::from_vec(entry.file_name().to_bytes().to_vec()));
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(Some((directory, names)))
}

fn read(path: &Path, opened: io::Result<File>) -> Result<String, FileFault> {
    let file = opened.map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        return Err(("is not a regular file".into(), "put a plain file there".into()));
    }
    check_trust(path, &metadata)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err((format!("is larger than {MAX_BYTES} bytes"), "shorten it".into()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + line.filter(|&&byte| byte == b'\n').count();
        (format!("is not UTF-8 text in line {line}"), "save it as UTF-8".into())
    })
}

/// Checks that only root and this process's user can write the file. No group is trusted, not even root's, because other
/// settings decide who is in it.
fn check_trust(path: &Path, metadata: &Metadata) -> Result<(), FileFault> {
    let (owner, ours) = (metadata.uid(), geteuid().as_raw());
    if owner != 0 && owner != ours {
        let trusted = if ours == 0 {
            "root, whom this process runs as".to_owned()
        } else {
            format!("root or to uid {ours}, whom this process runs as")
        };
        return Err((
            format!("belongs to uid {owner} and must belong to {trusted}"),
            format!("chown root {}", printable(path)),
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err((
            format!(
                "can be written by others than its owner (mode {:04o})",
                metadata.mode() & 0o7777
            ),
            format!("chmod go-w {}", printable(path)),
        ));
    }
    Ok(())
}

fn unreadable(file: &Path, error: &io::Error) -> FileFault {
    let path = printable(file);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => ("does not exist".into(), "create it, or name another one".into()),
        Some(Errno::ELOOP) => (
            "is a symbolic link, which is not followed".into(),
            "put the file itself there".into(),
        ),
        Some(Errno::EACCES) => (format!("cannot be read by {}", reader()), permission_to_read(file)),
        _ => (format!("cannot be read ({error})"), format!("check {path}")),
    }
}

fn reader() -> String {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        _ => format!("uid {uid}"),
    }
}

/// The command that lets this process read what is at `path`: the first one that is needed from the root down.
fn permission_to_read(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shut = |directory: &&Path| {
        let may = faccessat(AT_FDCWD, *directory, AccessFlags::X_OK, AtFlags::AT_EACCESS);
        may == Err(Errno::EACCES)
    };
    let mut above: Vec<_> = absolute.ancestors().skip(1).collect();
    above.reverse();
    let (at, bits) = match above.into_iter().find(shut) {
        Some(directory) => (directory, "x"),
        None if path.is_dir() => (path, "rx"),
        None => (path, "r"),
    };
    let whose = match at.metadata() {
        Ok(file) if file.uid() == geteuid().as_raw() => "u",
        Ok(file) if is_in_group(file.gid()) => "g",
        _ => "o",
    };
    format!("chmod {whose}+{bits} {}", printable(at))
}

fn is_in_group(gid: u32) -> bool {
    getegid().as_raw() == gid || getgroups().is_ok_and(|groups| groups.contains(&Gid::from_raw(gid)))
}

fn problem(path: &Path, (what, remedy): FileFault) -> Violation {
    Violation {
        file: path.into(),
        line: None,
        key: None,
        what,
        remedy,
        class: FaultKind::File,
    }
}
