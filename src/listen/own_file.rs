//! A file that this process made: a socket's file, or `sdk.env`.

use std::ffi::{OsStr, OsString};
use std::fs::File;

use nix::libc::{dev_t, ino_t};

use crate::directory::Directory;
use crate::replace::remove;

/// Removes the file when it is dropped, unless another file has taken its place.
#[derive(Debug)]
pub struct OwnFile {
    directory: Directory,
    name: OsString,
    /// None for a file that was gone already, and for one that a test leaves behind.
    inode: Option<(dev_t, ino_t)>,
    /// What is locked on it ends with us.
    _locked: Option<File>,
}

impl OwnFile {
    /// The file as it is now, right after it was made; `locked` is what it was opened as, if it has locks to keep.
    pub fn at(directory: Directory, name: &OsStr, locked: Option<File>) -> Self {
        Self {
            inode: inode_at(&directory, name),
            directory,
            name: name.to_owned(),
            _locked: locked,
        }
    }

    /// As if this process were killed.
    #[cfg(test)]
    pub fn staying(mut self) -> Self {
        self.inode = None;
        self
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode_at(&self.directory, &self.name) == self.inode {
            // If it cannot be removed, the next start finds it stale and removes it.
            _ = remove(&self.directory, &self.name);
        }
    }
}

fn inode_at(directory: &Directory, name: &OsStr) -> Option<(dev_t, ino_t)> {
    let found = directory.look_at(name).ok()??;
    Some((found.st_dev, found.st_ino))
}
