//! Which accounts are in the groups that rules name, for callers of whom the kernel tells the uid alone, and which uids
//! belong to an account and what its name is.
//!
//! A group's members come from the group database. Accounts with the group as their primary one come from `/etc/passwd`
//! only, because a directory service may be slow to list all its users, or refuse to. The databases may be slow, so a
//! thread of its own reads them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::unistd::{Gid, Group, User};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tracing::warn;

use super::subuids::{SUBUID, Subuids};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// How often the files are checked for changes.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a start or a reload waits for the databases.
const PATIENCE: Duration = Duration::from_secs(2);

/// The uids in each group that a rule names.
pub(super) type Members = HashMap<u32, HashSet<u32>>;

/// The members of groups; empty before [`Accounts::look_for`].
#[derive(Default)]
pub struct Accounts {
    known: Arc<Known>,
    reader: Mutex<Option<Sender<GroupsWanted>>>,
}

#[derive(Default)]
struct Known {
    /// A member and a group, sorted.
    members: RwLock<Vec<(u32, u32)>>,
    subuids: RwLock<Subuids>,
    names: RwLock<Names>,
}

/// The accounts' names, as of a state of their file.
#[derive(Default)]
struct Names {
    of: HashMap<u32, Arc<str>>,
    state: FileState,
}

/// Changes whenever the file does, also where another one takes its place; `None` without a file.
type FileState = Option<(u64, u64, i64, i64)>;

/// What the reading thread shall read from now on.
struct GroupsWanted {
    groups: HashSet<u32>,
    read: oneshot::Sender<()>,
}

impl Accounts {
    /// In which of the groups the account is, sorted.
    pub fn groups_of(&self, uid: u32) -> Vec<u32> {
        let members = self.known.members.read();
        let from = members.partition_point(|(member, _)| *member < uid);
        let rest = members.iter().skip(from);
        rest.take_while(|(member, _)| *member == uid)
            .map(|(_, gid)| *gid)
            .collect()
    }

    /// Whom the uid counts as where users share something.
    pub fn owner_of(&self, uid: u32) -> u32 {
        self.known.subuids.read().owner_of(uid)
    }

    /// The account's name, if `/etc/passwd` has it; also of one that was made a moment ago, which the thread has not read yet.
    pub fn name_of(&self, uid: u32) -> Option<Arc<str>> {
        let newer = {
            let names = self.known.names.read();
            if let Some(name) = names.of.get(&uid) {
                return Some(Arc::clone(name));
            }
            names.newer(Path::new(PASSWD))?
        };
        let name = newer.of.get(&uid).cloned();
        *self.known.names.write() = newer;
        name
    }

    /// Reads who is in these groups and whose the subordinate uids are, now and whenever a file changes. Returns when they
    /// are read, or will be later.
    pub async fn look_for(&self, groups: HashSet<u32>) {
        let (read, done) = oneshot::channel();
        if let Err(error) = self.ask(GroupsWanted { groups, read }) {
            return warn!(
                "the thread that reads the accounts: {error}: rules with groups match nobody over TCP, and each subordinate \
                 uid counts as a user of its own"
            );
        }
        if tokio::time::timeout(PATIENCE, done).await.is_err() {
            let waited = PATIENCE.as_secs();
            warn!(
                "the user and group databases have not answered within {waited} s: until they do, a rule with groups that \
                 is new matches nobody over TCP, and subordinate uids count as before"
            );
        }
    }

    fn ask(&self, wanted: GroupsWanted) -> io::Result<()> {
        let mut reader = self.reader.lock();
        if reader.is_none() {
            let (sender, receiver) = channel();
            let known = Arc::clone(&self.known);
            std::thread::Builder::new()
                .name("accounts".into())
                .spawn(move || keep_reading(&receiver, &known))?;
            *reader = Some(sender);
        }
        let sent = reader.as_ref().map(|reader| reader.send(wanted));
        sent.transpose().map(drop).map_err(io::Error::other)
    }
}

/// Ends when nobody can ask any more.
fn keep_reading(wanted: &Receiver<GroupsWanted>, known: &Known) {
    let (mut groups, mut read) = (HashSet::new(), None);
    loop {
        let waiting = match wanted.recv_timeout(PERIOD) {
            Ok(GroupsWanted { groups: new, read }) => {
                groups = new;
                Some(read)
            }
            Err(RecvTimeoutError::Timeout) if read == Some(state()) => continue,
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Taken before reading, so that a change during the reading is noticed.
        read = Some(state());
        let passwd = passwd();
        let names = Names::in_passwd(&passwd, read.and_then(|[passwd, ..]| passwd));
        let (members, subuids) = (members_in(&passwd, &groups), subuids());
        *known.members.write() = by_member(&members);
        *known.subuids.write() = subuids;
        *known.names.write() = names;
        if let Some(waiting) = waiting {
            // An error means that the waiting side has given up.
            _ = waiting.send(());
        }
    }
}

fn by_member(members: &Members) -> Vec<(u32, u32)> {
    let each = members
        .iter()
        .flat_map(|(gid, uids)| uids.iter().map(|uid| (*uid, *gid)));
    let mut each: Vec<_> = each.collect();
    each.sort_unstable();
    each
}

/// Changes whenever one of the files does.
fn state() -> [FileState; 3] {
    [PASSWD, GROUP, SUBUID].map(|path| state_of(Path::new(path)))
}

fn state_of(path: &Path) -> FileState {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

impl Names {
    /// Without the file nobody has a name. Of several names for one uid the first one counts, as for getpwuid(3).
    fn in_passwd(passwd: &io::Result<String>, state: FileState) -> Self {
        let mut of = HashMap::new();
        for (name, uid, _) in accounts(passwd.as_deref().unwrap_or_default()) {
            of.entry(uid).or_insert_with(|| Arc::from(name));
        }
        Self { of, state }
    }

    /// What the file says by now, if it has changed.
    fn newer(&self, path: &Path) -> Option<Self> {
        let state = state_of(path);
        (state != self.state).then(|| Self::in_passwd(&read(path), state))
    }
}

/// Whose the subordinate uids are. Without the file there are none.
fn subuids() -> Subuids {
    let text = fs::read(SUBUID).unwrap_or_default();
    let uid_of = |name: &str| Some(User::from_name(name).ok()??.uid.as_raw());
    Subuids::parse(&String::from_utf8_lossy(&text), uid_of)
}

/// In which of the groups the account is, for judging rules off line. The databases may take their time.
pub fn groups_of_account(uid: u32, groups: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let members = members_of(&groups.into_iter().collect());
    let is_in = |(gid, uids): (u32, HashSet<u32>)| uids.contains(&uid).then_some(gid);
    members.into_iter().filter_map(is_in).collect()
}

/// Who is in each of the groups. The databases may take their time.
pub(super) fn members_of(groups: &HashSet<u32>) -> Members {
    members_in(&passwd(), groups)
}

fn members_in(passwd: &io::Result<String>, groups: &HashSet<u32>) -> Members {
    if groups.is_empty() {
        return Members::new();
    }
    let passwd = passwd.as_deref().unwrap_or_else(|error| {
        warn!("cannot read {PASSWD}: {error}; over TCP, rules do not see anybody's primary group");
        ""
    });
    let primary: Vec<_> = accounts(passwd).map(|(_, uid, gid)| (uid, gid)).collect();
    let members = |gid: u32| {
        let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
        let listed = group.map(|group| group.mem).unwrap_or_default();
        let listed = listed.iter().filter_map(|name| User::from_name(name).ok().flatten());
        let by_name = listed.map(|user| user.uid.as_raw());
        by_name
            .chain(primary.iter().filter(|(_, group)| *group == gid).map(|(uid, _)| *uid))
            .collect()
    };
    groups.iter().map(|gid| (*gid, members(*gid))).collect()
}

fn passwd() -> io::Result<String> {
    read(Path::new(PASSWD))
}

fn read(path: &Path) -> io::Result<String> {
    let text = fs::read(path)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The name, the uid and the primary group of each line of passwd(5) that has them.
fn accounts(passwd: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        Some((name, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_numbers_is_nobody() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\n# a comment\n+::::::\nshort:x:7\nodd:x:-1:5::/:\n\
                      big:x:4294967296:5::/:\nlast:x:1000:50:\u{fffd}:/:/bin/sh";
        assert_eq!(
            accounts(passwd).collect::<Vec<_>>(),
            [("root", 0, 0), ("last", 1000, 50)]
        );
    }

    #[test]
    fn an_account_that_was_made_since_the_last_look_has_a_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let names = Names::default().newer(file.path()).unwrap();
        assert!(names.newer(file.path()).is_none(), "it has not changed");
        fs::write(file.path(), "newcomer:x:1000:50::/:/bin/sh\n").unwrap();
        let newer = names.newer(file.path()).unwrap();
        assert_eq!(newer.of.get(&1000).map(|name| &**name), Some("newcomer"));
        assert!(newer.newer(file.path()).is_none());
    }

    #[tokio::test]
    async fn an_account_is_in_its_primary_group_and_nobody_is_in_one_that_was_not_asked_about() {
        let known = Accounts::default();
        assert!(known.groups_of(0).is_empty(), "nothing is read yet");
        let no_group = 4_294_967_000;
        known.look_for([0, no_group].into()).await;
        assert_eq!((known.groups_of(0), known.groups_of(1_918_273)), (vec![0], vec![]));
        assert_eq!(
            (known.name_of(0).as_deref(), known.name_of(1_918_273)),
            (Some("root"), None)
        );
        known.look_for(HashSet::new()).await;
        assert_eq!(known.groups_of(0), [0; 0]);
    }
}
