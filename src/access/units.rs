//! Finds the unit of a cgroup by the group's id, which is what the kernel tells about a TCP socket.
//!
//! An id is found by a walk through the cgroup tree. A caller can make any number of groups, so a walk for a decision is
//! bounded: it reads the slices and the groups of units in them, and goes below a unit only if a rule names that unit;
//! answers are remembered; and for each uid only so many directories are read in a second. If there is any doubt there is
//! no unit, and no rule with units matches.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::cgroups::{Tree, Walked};
use crate::clock::Clock;

/// How many directories are read in a second, for one uid and for all. One takes about 4 µs.
const READ_PER_UID: usize = 2048;
const READ: usize = 16_384;
/// How many ids are remembered of each kind.
const REMEMBERED: usize = 4096;
/// How many groups are remembered for log records, and how many directories one walk for them reads.
const ON_RECORD: usize = 65_536;

/// Finds units for decisions. The answer for a group does not change while the group exists.
pub struct Units {
    tree: Option<Tree>,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

struct Memory {
    /// Units that rules name.
    named: HashSet<Box<str>>,
    found: Recent<Arc<str>>,
    /// Groups that belong to no unit that a rule names.
    without: Recent<()>,
    read: Read,
}

/// The latest answers by id, at most [`REMEMBERED`]. When the young half is full it becomes the old one, and the former
/// old half is dropped.
struct Recent<T> {
    young: HashMap<u64, T>,
    old: HashMap<u64, T>,
}

/// How many directories were read in the current second.
#[derive(Default)]
struct Read {
    second: u64,
    by_uid: HashMap<u32, usize>,
    total: usize,
}

/// Finds units for log records, by walks through the whole tree. For a thread on which no request waits.
pub struct UnitNames {
    tree: Option<Tree>,
    clock: Arc<dyn Clock>,
    by_id: HashMap<u64, Arc<str>>,
    next_walk: Duration,
}

impl Units {
    /// Those of this machine.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::in_tree(Tree::of_this_machine(), clock)
    }

    fn in_tree(tree: Option<Tree>, clock: Arc<dyn Clock>) -> Self {
        Self {
            tree,
            clock,
            memory: Mutex::new(Memory {
                named: HashSet::new(),
                found: Recent::default(),
                without: Recent::default(),
                read: Read::default(),
            }),
        }
    }

    /// Whether there is a tree to find units in.
    pub fn can_be_found(&self) -> bool {
        self.tree.is_some()
    }

    /// Takes over the units that rules name, and forgets which groups had none.
    pub fn look_for(&self, named: HashSet<Box<str>>) {
        let mut memory = self.memory.lock();
        memory.named = named;
        memory.without = Recent::default();
    }

    /// The unit of the group. The walk counts for `uid`.
    pub fn find(&self, cgroup: u64, uid: u32) -> Option<Arc<str>> {
        let memory = &mut *self.memory.lock();
        if let Some(unit) = memory.found.get(cgroup) {
            return Some(unit);
        }
        if memory.without.get(cgroup).is_some() {
            return None;
        }
        let tree = self.tree.as_ref()?;
        let budget = memory.read.left(uid, self.clock.now().boot);
        if budget == 0 {
            return None;
        }
        let (mut left, mut found) = (budget, None);
        let see = |id, unit: &str| {
            if id != cgroup {
                return ControlFlow::Continue(());
            }
            found = Some(Arc::from(unit));
            ControlFlow::Break(())
        };
        let walked = tree.walk(&mut left, |unit| memory.named.contains(unit), see);
        memory.read.add(uid, budget - left);
        match &found {
            Some(unit) => memory.found.insert(cgroup, Arc::clone(unit)),
            None if walked == Walked::Whole => memory.without.insert(cgroup, ()),
            None => {}
        }
        found
    }
}

impl UnitNames {
    /// Those of this machine.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::in_tree(Tree::of_this_machine(), clock)
    }

    fn in_tree(tree: Option<Tree>, clock: Arc<dyn Clock>) -> Self {
        Self {
            tree,
            clock,
            by_id: HashMap::new(),
            next_walk: Duration::ZERO,
        }
    }

    /// The unit of the group. Walks take at most a tenth of the time, so a group that is younger than the last walk may
    /// not be found.
    pub fn find(&mut self, cgroup: u64) -> Option<&str> {
        let begin = self.clock.now().boot;
        if !self.by_id.contains_key(&cgroup) && begin >= self.next_walk {
            self.walk();
            let end = self.clock.now().boot;
            self.next_walk = end + 9 * end.saturating_sub(begin);
        }
        self.by_id.get(&cgroup).map(|unit| &**unit)
    }

    fn walk(&mut self) {
        let (tree, by_id) = (self.tree.as_ref(), &mut self.by_id);
        by_id.clear();
        let mut last: Arc<str> = Arc::from("");
        let see = |id, unit: &str| {
            if *last != *unit {
                last = Arc::from(unit);
            }
            by_id.insert(id, Arc::clone(&last));
            if by_id.len() < ON_RECORD {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        if let Some(tree) = tree {
            tree.walk(&mut ON_RECORD.clone(), |_| true, see);
        }
    }
}

impl<T: Clone> Recent<T> {
    fn get(&mut self, id: u64) -> Option<T> {
        if let Some(value) = self.young.get(&id) {
            return Some(value.clone());
        }
        let value = self.old.remove(&id)?;
        self.insert(id, value.clone());
        Some(value)
    }

    fn insert(&mut self, id: u64, value: T) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, value);
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl Read {
    /// How many more directories may be read for this uid.
    fn left(&mut self, uid: u32, now: Duration) -> usize {
        if self.second != now.as_secs() {
            *self = Self {
                second: now.as_secs(),
                ..Self::default()
            };
        }
        let of_uid = self.by_uid.get(&uid).copied().unwrap_or_default();
        READ_PER_UID.saturating_sub(of_uid).min(READ.saturating_sub(self.total))
    }

    fn add(&mut self, uid: u32, count: usize) {
        *self.by_uid.entry(uid).or_default() += count;
        self.total += count;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tempfile::TempDir;

    use super::*;
    use crate::clock::Now;

    /// A clock that stands where it is put, in seconds.
    #[derive(Default)]
    struct Standing(AtomicU64);

    impl Clock for Standing {
        fn now(&self) -> Now {
            let boot = Duration::from_secs(self.0.load(Ordering::Relaxed));
            Now { wall: boot, boot }
        }
    }

    /// Directories that stand for groups: as in the real tree, their inode numbers are their ids.
    struct Groups {
        root: TempDir,
        clock: Arc<Standing>,
        units: Units,
    }

    impl Groups {
        fn new(groups: &[&str]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let clock = Arc::new(Standing::default());
            let units = Units::in_tree(Some(Tree::at(root.path())), Arc::clone(&clock) as _);
            let made = Self { root, clock, units };
            for group in groups {
                made.make(group);
            }
            made
        }

        fn make(&self, group: &str) -> u64 {
            let path = self.root.path().join(group);
            fs::create_dir_all(&path).unwrap();
            fs::metadata(path).unwrap().ino()
        }

        fn remove(&self, group: &str) {
            fs::remove_dir_all(self.root.path().join(group)).unwrap();
        }

        fn name(&self, units: &[&str]) {
            self.units.look_for(units.iter().map(|unit| Box::from(*unit)).collect());
        }

        fn find(&self, group: &str, uid: u32) -> Option<String> {
            let id = fs::metadata(self.root.path().join(group)).unwrap().ino();
            self.units.find(id, uid).map(|unit| unit.to_string())
        }

        fn read_for(&self, uid: u32) -> usize {
            let memory = self.units.memory.lock();
            memory.read.by_uid.get(&uid).copied().unwrap_or_default()
        }

        fn tick(&self) {
            self.clock.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_unit_is_the_group_in_the_last_slice_whoever_made_one_of_its_name_below_another() {
        let groups = Groups::new(&[]);
        groups.name(&["app.service", "delegating.service", "memory.service"]);
        for (group, unit) in [
            ("init.scope", Some("init.scope")),
            ("system.slice", None),
            ("system.slice/app.service", Some("app.service")),
            ("system.slice/app.service/payload/deeper", Some("app.service")),
            ("system.slice/_memory.service/sub", Some("memory.service")),
            (
                "a.slice/a-b.slice/a-b-c.slice/worker@7.service",
                Some("worker@7.service"),
            ),
            (
                "system.slice/delegating.service/other.service",
                Some("delegating.service"),
            ),
            (
                "system.slice/delegating.service/x.slice/app.service",
                Some("delegating.service"),
            ),
            // What nobody names is not looked into.
            ("system.slice/docker-abc.scope", Some("docker-abc.scope")),
            ("system.slice/docker-abc.scope/app.service", None),
            ("machine.slice/machine-c.scope/payload/system.slice/app.service", None),
            (
                "user.slice/user-1002.slice/user@1002.service",
                Some("user@1002.service"),
            ),
            (
                "user.slice/user-1002.slice/user@1002.service/app.slice/app.service",
                None,
            ),
            ("outside-of-any-slice/app.service", None),
        ] {
            groups.make(group);
            assert_eq!(groups.find(group, 7).as_deref(), unit, "{group}");
        }
    }

    #[test]
    fn a_unit_that_was_found_stays_known_when_its_group_is_gone_and_no_other_group_takes_its_place() {
        let groups = Groups::new(&["system.slice/a.service"]);
        let id = groups.make("system.slice/a.service");
        assert_eq!(groups.units.find(id, 7).as_deref(), Some("a.service"));
        groups.remove("system.slice/a.service");
        groups.name(&["b.service"]);
        assert_eq!(
            groups.units.find(id, 7).as_deref(),
            Some("a.service"),
            "also over a reload"
        );
        assert_eq!(groups.units.find(u64::MAX, 7), None);
    }

    #[test]
    fn an_answer_is_remembered_and_a_reload_forgets_what_was_not_found() {
        let groups = Groups::new(&["system.slice/a.service/sub", "system.slice/b.service"]);
        let reads = |group| {
            let before = groups.read_for(7);
            let found = groups.find(group, 7);
            (found, groups.read_for(7) - before)
        };
        let (sub, unit) = ("system.slice/a.service/sub", "system.slice/b.service");
        assert_eq!(reads(unit), (Some("b.service".to_owned()), 2), "the root and a slice");
        assert_eq!(reads(unit), (Some("b.service".to_owned()), 0));
        assert_eq!(reads(sub), (None, 2), "no rule names a.service");
        assert_eq!(reads(sub), (None, 0));
        groups.name(&["a.service"]);
        assert_eq!(reads(sub).0.as_deref(), Some("a.service"));
        assert_eq!(reads(unit).1, 0, "what was found is not forgotten");
    }

    #[test]
    fn one_uid_over_its_bound_has_no_unit_for_a_second_and_nobody_else_pays() {
        let groups = Groups::new(&["system.slice/a.service", "system.slice/b.service"]);
        // Groups of his own, each with an id that is new.
        let mut unknown = 1 << 40;
        while groups.read_for(1000) < READ_PER_UID {
            unknown += 1;
            assert_eq!(groups.units.find(unknown, 1000), None);
        }
        assert_eq!(groups.find("system.slice/a.service", 1000), None, "over the bound");
        assert_eq!(groups.find("system.slice/b.service", 7).as_deref(), Some("b.service"));
        groups.tick();
        assert_eq!(
            groups.find("system.slice/a.service", 1000).as_deref(),
            Some("a.service"),
            "and it was not remembered as unknown"
        );
    }

    #[test]
    fn many_uids_together_have_a_bound_too_and_what_is_remembered_needs_no_walk() {
        let groups = Groups::new(&["system.slice/a.service", "system.slice/b.service"]);
        assert_eq!(groups.find("system.slice/a.service", 7).as_deref(), Some("a.service"));
        groups.tick();
        for uid in 0..READ {
            groups
                .units
                .find(1 << 40 | uid as u64, 100_000 + u32::try_from(uid).unwrap());
        }
        let memory = groups.units.memory.lock();
        assert_eq!((memory.read.total, memory.read.by_uid.len()), (READ, READ / 2));
        drop(memory);
        assert_eq!(groups.find("system.slice/b.service", 8), None);
        assert_eq!(groups.find("system.slice/a.service", 8).as_deref(), Some("a.service"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let mut recent = Recent::default();
        for id in 0..10 * REMEMBERED as u64 {
            recent.insert(id, id);
            assert_eq!(recent.get(0), Some(0), "asked for all the time");
            assert!(recent.young.len() + recent.old.len() <= REMEMBERED);
        }
        assert_eq!(recent.get(1), None);
    }

    #[test]
    fn what_one_unit_makes_hides_no_group_of_another() {
        let groups = Groups::new(&[]);
        for number in 0..READ_PER_UID {
            groups.make(&format!("system.slice/a.service/{number}"));
        }
        // The order of a directory's entries is not known: some of these come after a.service.
        let others: Vec<_> = (0..20).map(|number| format!("other{number}.service")).collect();
        groups.name(&[&["a.service"], &*others.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        for other in &others {
            groups.make(&format!("system.slice/{other}/sub"));
        }
        for other in &others {
            groups.tick();
            assert_eq!(
                groups.find(&format!("system.slice/{other}/sub"), 7).as_ref(),
                Some(other)
            );
        }
        // Not all that is below a.service was seen, so what is not found may still be there.
        for _ in 0..2 {
            groups.units.memory.lock().read = Read::default();
            assert_eq!((groups.units.find(u64::MAX, 7), groups.read_for(7) > 0), (None, true));
        }
    }

    #[test]
    fn a_directory_that_cannot_be_read_leaves_doubt() {
        let groups = Groups::new(&["system.slice"]);
        fs::write(groups.root.path().join("file"), "").unwrap();
        let missing = Units::in_tree(
            Some(Tree::at(Path::new("/nonexistent"))),
            Arc::clone(&groups.clock) as _,
        );
        assert_eq!((missing.find(1, 7), missing.memory.lock().without.get(1)), (None, None));
        let without = Units::in_tree(None, Arc::clone(&groups.clock) as _);
        assert_eq!(without.find(1, 7), None);
    }

    #[test]
    fn a_record_names_units_that_no_rule_does_at_the_cost_of_a_walk_now_and_then() {
        let groups = Groups::new(&["user.slice/user@7.service/app.slice/app.service", "init.scope"]);
        let mut names = UnitNames::in_tree(Some(Tree::at(groups.root.path())), Arc::clone(&groups.clock) as _);
        let app = groups.make("user.slice/user@7.service/app.slice/app.service");
        assert_eq!(names.find(app), Some("user@7.service"));
        let young = groups.make("system.slice/young.service");
        names.next_walk = Duration::from_secs(1);
        assert_eq!(names.find(young), None, "the last walk is too near");
        groups.tick();
        assert_eq!(names.find(young), Some("young.service"));
        assert_eq!(names.find(app), Some("user@7.service"));
    }
}
