//! A directory into which nobody else can put a file: each one on the way to it is judged, and what is in it is reached
//! by its descriptor, so that nothing can be swapped in between.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::geteuid;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// An open directory that only root and this process's user can write to, and can take the place of.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// Why what is in a directory is not to be trusted.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {remedy}", path.display())]
pub struct Untrusted {
    /// The directory, or the one above it that is at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What the reader can do.
    pub remedy: String,
    /// As the system says it, where it did not let us see.
    pub errno: Option<Errno>,
}

impl Directory {
    /// Walks from the root to `path`. Each directory must belong to root or to us and be writable by its owner alone;
    /// above the last one the sticky bit will do, since it keeps others from renaming what is not theirs. Links are
    /// followed where they are root's.
    ///
    /// # Errors
    /// The first directory on the way that is not so, or is not there.
    pub fn open(path: &Path) -> Result<Self, Untrusted> {
        Self::walk(path, false)
    }

    /// As [`Directory::open`], but the last one may be sticky, too: others can make files in it, and cannot replace one
    /// that belongs to root or to us.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_to_read(path: &Path) -> Result<Self, Untrusted> {
        Self::walk(path, true)
    }

    fn walk(path: &Path, last_may_be_sticky: bool) -> Result<Self, Untrusted> {
        let absolute = std::path::absolute(path).map_err(|error| {
            let what = format!("is no path ({error})");
            untrusted(path, what, "name a directory".to_owned())
        })?;
        let mut ahead = names(&absolute);
        let mut here = PathBuf::from("/");
        let mut at = open_at(AT_FDCWD, OsStr::new("/"), &here)?;
        judge(&at, &here, last_may_be_sticky || !ahead.is_empty())?;
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let path = here.join(&name);
            let next = open_at(at.as_fd(), &name, &path)?;
            let stat = stat(&next, &path)?;
            if file_type(&stat) == SFlag::S_IFLNK {
                links += 1;
                let target = target(&at, &name, &path, &stat, links)?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                    at = open_at(AT_FDCWD, OsStr::new("/"), &here)?;
                }
                ahead.extend(names(&target));
                continue;
            }
            if name == ".." {
                here.pop();
            } else {
                here = path;
            }
            at = next;
            judge(&at, &here, last_may_be_sticky || !ahead.is_empty())?;
        }
        Ok(Self {
            descriptor: at,
            path: here,
        })
    }

    /// Without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it, and follows no link.
    pub fn open_file(&self, name: &OsStr, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.descriptor, name, flags, Mode::empty()).map(File::from)
    }

    /// What is there under a name, be it a link itself; `None` for nothing.
    pub fn look_at(&self, name: &OsStr) -> nix::Result<Option<FileStat>> {
        match fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(None),
            found => found.map(Some),
        }
    }
}

/// Where a file is: the directory in its path.
pub fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The names that a path consists of, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

fn open_at(at: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<OwnedFd, Untrusted> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty()).map_err(|errno| {
        let remedy = match errno {
            Errno::ENOENT => "create it, with mode 0755".to_owned(),
            _ => format!("check {}", path.display()),
        };
        Untrusted {
            errno: Some(errno),
            ..untrusted(path, format!("cannot be opened ({errno})"), remedy)
        }
    })
}

fn stat(descriptor: &OwnedFd, path: &Path) -> Result<FileStat, Untrusted> {
    fstat(descriptor).map_err(|errno| untrusted(path, format!("cannot be looked at ({errno})"), "check it".to_owned()))
}

/// What kind of file it is.
pub fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Where a link leads. The directory that it is in was judged: only root and we can replace it meanwhile.
fn target(at: &OwnedFd, name: &OsStr, path: &Path, stat: &FileStat, links: usize) -> Result<PathBuf, Untrusted> {
    if stat.st_uid != 0 {
        let what = format!("is a symbolic link that belongs to uid {}", stat.st_uid);
        return Err(untrusted(path, what, "name the directory itself".to_owned()));
    }
    if links > MAX_LINKS {
        let what = "is one symbolic link too many".to_owned();
        return Err(untrusted(path, what, "name the directory itself".to_owned()));
    }
    let target = readlinkat(at, name).map_err(|errno| {
        let what = format!("cannot be followed ({errno})");
        untrusted(path, what, "name the directory itself".to_owned())
    })?;
    Ok(PathBuf::from(target))
}

fn judge(descriptor: &OwnedFd, path: &Path, may_be_sticky: bool) -> Result<(), Untrusted> {
    let stat = stat(descriptor, path)?;
    let us = geteuid().as_raw();
    let sticky = may_be_sticky && stat.st_mode & STICKY != 0;
    if file_type(&stat) != SFlag::S_IFDIR {
        let what = "is not a directory".to_owned();
        Err(untrusted(path, what, "name a directory".to_owned()))
    } else if stat.st_uid != 0 && stat.st_uid != us {
        let what = format!("belongs to uid {}, who could put other files there", stat.st_uid);
        let remedy = format!("chown {us} {}, or use another directory", path.display());
        Err(untrusted(path, what, remedy))
    } else if stat.st_mode & WRITABLE_BY_OTHERS != 0 && !sticky {
        let mode = stat.st_mode & 0o7777;
        let what = format!("has mode {mode:04o}, so others could put files there");
        let remedy = if stat.st_mode & STICKY == 0 {
            format!("chmod go-w {}", path.display())
        } else {
            // It is meant to be everybody's.
            "make a directory in it, with mode 0755, and use that one".to_owned()
        };
        Err(untrusted(path, what, remedy))
    } else {
        Ok(())
    }
}

fn untrusted(path: &Path, what: String, remedy: String) -> Untrusted {
    Untrusted {
        path: path.to_owned(),
        what,
        remedy,
        errno: None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A directory in one of ours, in /tmp or where else the tests put theirs.
    fn directories() -> (TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        mode(outer.path(), 0o755);
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        mode(&inner, 0o711);
        (outer, inner)
    }

    #[test]
    fn a_directory_of_ours_is_good_also_below_a_sticky_one() {
        let (outer, inner) = directories();
        mode(outer.path(), 0o1777);
        let opened = Directory::open(&inner.join("../inner/.")).unwrap();
        assert_eq!(opened.path(), inner.canonicalize().unwrap());
        fs::write(inner.join("f"), "").unwrap();
        opened.open_file(OsStr::new("f"), OFlag::O_RDONLY).unwrap();
        symlink("f", inner.join("l")).unwrap();
        opened.open_file(OsStr::new("l"), OFlag::O_RDONLY).unwrap_err();
    }

    #[test]
    fn what_is_opened_is_in_the_directory_that_was_judged_whatever_its_path_leads_to_now() {
        let (outer, inner) = directories();
        fs::write(inner.join("f"), "judged").unwrap();
        let opened = Directory::open(&inner).unwrap();
        fs::rename(&inner, outer.path().join("away")).unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("f"), "swapped in").unwrap();
        let file = opened.open_file(OsStr::new("f"), OFlag::O_RDONLY).unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "judged");
    }

    #[test]
    fn a_sticky_directory_will_do_to_read_from_and_one_without_the_bit_will_not() {
        let (_outer, inner) = directories();
        mode(&inner, 0o1777);
        assert!(Directory::open_to_read(&inner).is_ok() && Directory::open(&inner).is_err());
        mode(&inner, 0o777);
        assert!(Directory::open_to_read(&inner).is_err());
    }

    #[test]
    fn one_that_others_can_write_to_is_refused_wherever_it_stands() {
        let (outer, inner) = directories();
        for bits in [0o775, 0o757] {
            mode(outer.path(), bits);
            let refused = Directory::open(&inner).unwrap_err();
            assert_eq!(refused.path, outer.path().canonicalize().unwrap(), "{refused}");
        }
        mode(outer.path(), 0o755);
        for (bits, remedy) in [
            (0o775, "chmod go-w"),
            (0o757, "chmod go-w"),
            (0o1777, "make a directory in it"),
        ] {
            mode(&inner, bits);
            let refused = Directory::open(&inner).unwrap_err();
            assert!(
                refused.path.ends_with("inner") && refused.remedy.starts_with(remedy),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_strangers_directory_and_a_strangers_link_are_refused_and_roots_link_is_followed() {
        if !geteuid().is_root() {
            eprintln!("not root: cannot be another user, nothing tested");
            return;
        }
        let (outer, inner) = directories();
        let link = outer.path().join("link");
        symlink("inner", &link).unwrap();
        assert!(Directory::open(&link).unwrap().path().ends_with("inner"));
        std::os::unix::fs::lchown(&link, Some(54_321), None).unwrap();
        assert!(Directory::open(&link).unwrap_err().what.contains("symbolic link"));
        chown(outer.path(), Some(54_321), None).unwrap();
        assert!(Directory::open(&inner).unwrap_err().what.contains("uid 54321"));
    }

    #[test]
    fn what_is_no_directory_or_not_there_or_a_circle_is_refused() {
        let (outer, _) = directories();
        let file = outer.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Directory::open(&file).unwrap_err().what.contains("not a directory"));
        assert!(
            Directory::open(&outer.path().join("no"))
                .unwrap_err()
                .remedy
                .contains("create it")
        );
        let circle = outer.path().join("circle");
        symlink("circle", &circle).unwrap();
        if geteuid().is_root() {
            assert!(Directory::open(&circle).unwrap_err().what.contains("too many"));
        }
    }
}
