//! A file replaced whole: a reader finds the old one or the new one, and never more of it than its mode allows.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, UnlinkatFlags, fchown, unlinkat};

use crate::directory::directory_of;

/// What the file was written as; another file under its name has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
}

/// Writes `content` beside the place, to the disk, and renames it to `name`. Until all is in it and it has its group
/// only its owner can read it. What a crash leaves behind, `.NAME.new`, is cleared away by the next call.
///
/// # Errors
/// The file that was there is still there, unchanged.
pub fn replace(directory: impl AsFd, name: &OsStr, content: &[u8], mode: u32, group: Option<Gid>) -> io::Result<Inode> {
    replace_with(directory, name, content, mode, |file| {
        if group.is_some() {
            fchown(file, None, group)?;
        }
        Ok(Inode::of(&file.metadata()?))
    })
    .map(|(inode, _)| inode)
}

/// As [`replace`], by the file's path. Whose the directory is does not matter.
///
/// # Errors
/// As [`replace`].
pub fn replace_at(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let directory = File::open(directory_of(path))?;
    replace(directory, name, content, mode, None).map(drop)
}

/// As [`replace`], and has `prepare` do with the file what must be done before it has its mode and its name. Gives what
/// that gave, and the file.
///
/// # Errors
/// As [`replace`].
pub fn replace_with<T>(
    directory: impl AsFd,
    name: &OsStr,
    content: &[u8],
    mode: u32,
    prepare: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<(T, File)> {
    let directory = directory.as_fd();
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".new");
    remove(directory, &new)?;
    let written = write_new(directory, &new, content, mode, prepare).and_then(|written| {
        renameat(directory, new.as_os_str(), directory, name)?;
        Ok(written)
    });
    if written.is_err() {
        _ = remove(directory, &new);
    }
    written
}

/// Takes a file away, if it is there.
pub fn remove(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn write_new<T>(
    directory: impl AsFd,
    name: &OsStr,
    content: &[u8],
    mode: u32,
    prepare: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<(T, File)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(content)?;
    let prepared = prepare(&file)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    Ok((prepared, file))
}

impl Inode {
    /// Of a file that is open or was looked at.
    pub fn of(metadata: &impl MetadataExt) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::unistd::getegid;

    use super::*;

    fn replaced(directory: &Path, name: &str, content: &str, mode: u32) -> io::Result<Inode> {
        replace(
            File::open(directory)?,
            OsStr::new(name),
            content.as_bytes(),
            mode,
            Some(getegid()),
        )
    }

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_that_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        replaced(directory.path(), "f", "a much longer one", 0o644).unwrap();
        let being_read = File::open(&path).unwrap();
        let inode = replaced(directory.path(), "f", "short", 0o640).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(
            io::read_to_string(being_read).unwrap(),
            "a much longer one",
            "still whole"
        );
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!(inode, Inode::of(&metadata));
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn what_a_crash_or_a_stranger_left_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        symlink(&elsewhere, directory.path().join(".f.new")).unwrap();
        symlink(&elsewhere, directory.path().join("f")).unwrap();
        replaced(directory.path(), "f", "new", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "kept");
        assert_eq!(fs::read_to_string(directory.path().join("f")).unwrap(), "new");
        assert!(fs::symlink_metadata(directory.path().join("f")).unwrap().is_file());
    }

    #[test]
    fn where_it_cannot_be_all_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        replaced(&directory.path().join("nowhere"), "f", "", 0o600).unwrap_err();
        fs::create_dir(directory.path().join("is-a-directory")).unwrap();
        replaced(directory.path(), "is-a-directory", "", 0o600).unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
