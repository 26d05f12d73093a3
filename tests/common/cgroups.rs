//! Groups in the machine's cgroup tree, which stand for systemd's units.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::fs;
use std::path::PathBuf;

/// A directory in the unified cgroup hierarchy; its processes must be gone when it goes.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// `None` where this machine does not let us. `msitokendtest` is part of the path's first name.
    pub fn make(path: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let tree = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|parts| parts[2] == "cgroup2")?;
        let path = PathBuf::from(tree[1]).join(path);
        fs::create_dir_all(&path).ok()?;
        Some(Self(path))
    }

    pub fn take(&self, process: i32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in self
            .0
            .ancestors()
            .take_while(|path| path.to_string_lossy().contains("msitokendtest"))
        {
            _ = fs::remove_dir(path);
        }
    }
}
