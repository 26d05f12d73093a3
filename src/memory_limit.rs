//! How much memory the kernel allows the process's cgroup, and how much of it is used.

use std::fs;
use std::path::{Path, PathBuf};

/// The bound that the kernel puts on the process's cgroup or on one above it.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    /// In all.
    pub bytes: usize,
    /// Whose it is.
    pub cgroup: PathBuf,
    /// The files that tell how much is used, some of which may not be there.
    pub usage: Vec<PathBuf>,
}

impl Limit {
    /// The lowest on this process, if there is one.
    pub fn of_process() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        limit(&cgroups, Path::new("/sys/fs/cgroup"))
    }

    /// Whether more than half of it is used.
    pub fn is_half_used(&self) -> bool {
        let texts = self.usage.iter().filter_map(|file| fs::read_to_string(file).ok());
        let used: usize = texts.filter_map(|text| text.trim().parse::<usize>().ok()).sum();
        used > self.bytes / 2
    }
}

/// The lowest limit on a process in these cgroups (the text of `/proc/PID/cgroup`, cgroups(7)), where the hierarchies are
/// mounted below `root`: the unified one there or in `unified`, the memory controller of the first version in `memory`.
fn limit(cgroups: &str, root: &Path) -> Option<Limit> {
    let mut limits = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mounts, file, usage): (&[&str], _, &[&str]) = match controllers {
            "" => (&["", "unified"], "memory.max", &["memory.current"]),
            _ if controllers.split(',').any(|name| name == "memory") => {
                // TCP has an account apart.
                let usage = &["memory.usage_in_bytes", "memory.kmem.tcp.usage_in_bytes"];
                (&["memory"], "memory.limit_in_bytes", usage)
            }
            _ => continue,
        };
        for (mount, cgroup) in mounts
            .iter()
            .flat_map(|mount| Path::new(path).ancestors().map(move |cgroup| (mount, cgroup)))
        {
            let inside = cgroup.strip_prefix("/").unwrap_or(cgroup);
            let directory = root.join(mount).join(inside);
            let text = fs::read_to_string(directory.join(file));
            // "max" is no limit.
            if let Some(bytes) = text.ok().and_then(|text| text.trim().parse().ok()) {
                limits.push(Limit {
                    bytes,
                    cgroup: cgroup.to_path_buf(),
                    usage: usage.iter().map(|file| directory.join(file)).collect(),
                });
            }
        }
    }
    limits.into_iter().min_by_key(|limit| limit.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_of_all_cgroups_above_counts_in_each_version() {
        let limit = |files: &[(&str, &str)], cgroups| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                write(root.path(), path, text);
            }
            limit(cgroups, root.path()).map(|limit| (limit.bytes, limit.cgroup.display().to_string()))
        };
        let found = |bytes, cgroup: &str| Some((bytes, cgroup.to_owned()));
        let unified = "0::/system.slice/msi-tokend.service\n";
        let own = ("system.slice/msi-tokend.service/memory.max", "5000\n");
        let above = ("system.slice/memory.max", "4000\n");
        assert_eq!(limit(&[own], unified), found(5000, "/system.slice/msi-tokend.service"));
        assert_eq!(limit(&[own, above], unified), found(4000, "/system.slice"));
        assert_eq!(limit(&[("memory.max", "max\n")], "0::/\n"), None);
        assert_eq!(limit(&[], unified), None);

        let first = "3:cpu,cpuacct:/x\n4:memory:/a\n0::/b\n";
        let of_first = ("memory/a/memory.limit_in_bytes", "3000\n");
        let hybrid = ("unified/b/memory.max", "2000\n");
        assert_eq!(limit(&[of_first], first), found(3000, "/a"));
        assert_eq!(limit(&[of_first, hybrid], first), found(2000, "/b"));
    }

    #[test]
    fn half_of_it_is_used_or_not() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a/memory.max", "1000\n");
        let limit = limit("0::/a\n", root.path()).unwrap();
        for (used, is_half) in [("500\n", false), ("501\n", true), ("", false)] {
            write(root.path(), "a/memory.current", used);
            assert_eq!(limit.is_half_used(), is_half, "{used:?}");
        }
    }
}
