//! A file that this process made: that of a socket, or `sdk.env`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file of our own; taken away in the end if it still is the one we made.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    /// `None` if it is to stay.
    inode: Option<(u64, u64)>,
    /// What is locked on it ends with us.
    _locked: Option<File>,
}

impl OwnFile {
    /// The file as it is now, right after it was made.
    pub fn at(path: &Path) -> Self {
        Self {
            inode: inode_at(path),
            path: path.to_path_buf(),
            _locked: None,
        }
    }

    /// As [`OwnFile::at`], of a file that is open, with its locks.
    pub fn locked(path: &Path, file: File) -> Self {
        Self {
            inode: inode_at(path),
            path: path.to_path_buf(),
            _locked: Some(file),
        }
    }

    /// It stays when this process ends.
    pub fn staying(mut self) -> Self {
        self.inode = None;
        self
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode_at(&self.path) == self.inode {
            // If it cannot be removed, the next start finds it stale and removes it.
            _ = fs::remove_file(&self.path);
        }
    }
}

fn inode_at(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
