//! The cgroup tree as systemd builds it: slices, in these the groups of units, and below these the groups that a unit
//! makes itself.

use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where systemd mounts the unified hierarchy, alone or beside the hierarchies of version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// How many directories are read below one unit, so that one unit with many groups does not use up the budget.
const BELOW_A_UNIT: usize = 512;

/// The unified hierarchy.
#[derive(Debug)]
pub(super) struct Tree(PathBuf);

/// How a walk through the tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walked {
    /// The whole tree was seen.
    Whole,
    /// Part of the tree was not seen: the budget was used up, or a directory could not be read.
    InPart,
    /// `see` stopped the walk.
    Stopped,
}

impl Tree {
    /// This machine's tree, if it has one.
    pub(super) fn of_this_machine() -> Option<Self> {
        let is_unified = |path: &&str| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        MOUNTS
            .iter()
            .find(|path| is_unified(path))
            .map(|path| Self(path.into()))
    }

    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Calls `see` with the id and the unit of each group in a slice, then of each group below the units that `enter`
    /// accepts. `budget` is how many directories may be read; each one that is read lowers it.
    ///
    /// A group's id is the inode number of its directory. It stands in the directory above, so a group that is not entered
    /// costs almost nothing, however many groups are below it.
    pub(super) fn walk(
        &self,
        budget: &mut usize,
        enter: impl Fn(&str) -> bool,
        mut see: impl FnMut(u64, &str) -> ControlFlow<()>,
    ) -> Walked {
        let mut end = Walked::Whole;
        let (mut slices, mut entered) = (vec![self.0.clone()], Vec::new());
        while let Some(slice) = slices.pop() {
            let Some(groups) = groups_in(&slice, budget) else {
                end = Walked::InPart;
                continue;
            };
            for Group { id, name } in groups {
                // A name that is not UTF-8 is not systemd's.
                match name.to_str().map(unit_named) {
                    Some(None) => slices.push(slice.join(name)),
                    Some(Some(unit)) if see(id, unit).is_break() => return Walked::Stopped,
                    Some(Some(unit)) if enter(unit) => entered.push((unit.to_owned(), slice.join(&name))),
                    Some(Some(_)) | None => {}
                }
            }
        }
        for (unit, path) in entered {
            let (mut left, mut directories) = (BELOW_A_UNIT, vec![path]);
            while let Some(directory) = directories.pop() {
                if left == 0 {
                    end = Walked::InPart;
                    break;
                }
                left -= 1;
                let Some(groups) = groups_in(&directory, budget) else {
                    end = Walked::InPart;
                    continue;
                };
                for Group { id, name } in groups {
                    if see(id, &unit).is_break() {
                        return Walked::Stopped;
                    }
                    directories.push(directory.join(name));
                }
            }
        }
        end
    }
}

struct Group {
    id: u64,
    name: OsString,
}

/// `None` if not all of them could be read.
fn groups_in(directory: &Path, budget: &mut usize) -> Option<Vec<Group>> {
    *budget = budget.checked_sub(1)?;
    let mut groups = Vec::new();
    for entry in fs::read_dir(directory).ok()? {
        let entry = entry.ok()?;
        if entry.file_type().ok()?.is_dir() {
            groups.push(Group {
                id: entry.ino(),
                name: entry.file_name(),
            });
        }
    }
    Some(groups)
}

/// The unit of a group in a slice; `None` if the group is a slice. systemd puts a `_` before names that collide with the
/// kernel's own files, such as `memory.service`.
pub(super) fn unit_named(group: &str) -> Option<&str> {
    let name = group.strip_prefix('_').unwrap_or(group);
    name.strip_suffix(".slice").is_none().then_some(name)
}
