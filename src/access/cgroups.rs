//! The cgroup tree as systemd lays it out: slices, in them the groups of units, and below those whatever a unit makes by
//! itself.

use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where systemd mounts the unified hierarchy, alone or beside those of version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Directories that are read below one unit: what it makes there does not hide the groups of others.
const BELOW_A_UNIT: usize = 512;

/// The unified hierarchy.
#[derive(Debug)]
pub(super) struct Tree(PathBuf);

/// How a walk through the tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walked {
    /// All that was to be seen was seen.
    Whole,
    /// Something may not have been seen: there was too much of it, or a directory could not be read.
    InPart,
    /// What was looked for was found.
    Stopped,
}

impl Tree {
    /// `None` where the machine has none.
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

    /// Shows the id and the unit of each group in a slice, then of those below the units that `enter` accepts. `budget` is
    /// how many directories may be read, and then what is left of it.
    ///
    /// The id of a group is the inode number of its directory, which is in the directory above: groups that are not
    /// entered cost next to nothing, however many are below them.
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
                // What systemd makes has a name in ASCII.
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

/// `None` where not all of them could be read.
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

/// The unit that a group in a slice belongs to; `None` for a slice. systemd puts a `_` before names that the kernel would
/// take for a file of its own, such as `memory.service`.
pub(super) fn unit_named(group: &str) -> Option<&str> {
    let name = group.strip_prefix('_').unwrap_or(group);
    name.strip_suffix(".slice").is_none().then_some(name)
}
