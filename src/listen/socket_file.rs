//! The file of a socket that this process made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file of a socket of our own; taken away in the end if it still is the one we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketFile {
    /// The file as it is now, right after the bind.
    pub fn at(path: &Path) -> Self {
        Self {
            inode: inode_at(path),
            path: path.to_path_buf(),
        }
    }
}

impl Drop for SocketFile {
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
