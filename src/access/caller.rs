//! Who is calling, by the kernel's word (`docs/protocol.md`, "The kernel and systemd") and never by the request's.
//!
//! The kernel remembers for the whole connection who the peer was when it connected. So only the uid is asked for at
//! once. The groups and the pidfd (which costs a descriptor, and a third of accepting a connection) are asked for when a
//! rule or a log record first needs them.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::cgroups::unit_named;
use super::loopback::{self, Owner, Unowned};
use super::machine::Machine;
use super::peer_groups::peer_groups;
use super::socket::Socket;

/// The process at the other end of a connection, as it was when it connected; over TCP, when it made its socket.
#[derive(Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// The uid that it counts as where users share something.
    pub counts_as: u32,
    /// Effective group id; unknown over TCP.
    pub gid: Option<u32>,
    /// Process id as seen from here; unknown over TCP and across pid namespaces.
    pub pid: Option<i32>,
    source: Source,
    /// Supplementary groups; empty if the kernel does not tell them.
    groups: OnceLock<Box<[u32]>>,
    /// Set once the unit is known; over TCP a later request may find it.
    unit: OnceLock<Option<Arc<str>>>,
}

/// Where the groups and the unit come from.
#[derive(Debug)]
enum Source {
    /// The kernel, by the connection.
    Unix { socket: Socket, machine: Arc<Machine> },
    /// The machine's accounts and cgroup tree.
    Tcp {
        /// The socket's cgroup.
        cgroup: Option<u64>,
        machine: Arc<Machine>,
    },
    /// Both were given.
    Described { groups: Box<[u32]>, unit: Option<Arc<str>> },
}

/// A user in a sentence: `www-data (33)`, or `uid 33` where no account is known.
#[derive(Clone, Debug)]
pub struct NamedUser {
    uid: u32,
    account: Option<Arc<str>>,
}

impl Caller {
    /// The peer of a Unix socket. What the kernel does not say matches no rule later on; only a peer without a uid is an
    /// error.
    pub fn of_unix(socket: &Socket, machine: &Arc<Machine>) -> nix::Result<Self> {
        let peer = socket.ask(|stream| getsockopt(&stream, sockopt::PeerCredentials))?;
        Ok(Self {
            uid: peer.uid(),
            counts_as: machine.owner_of(peer.uid()),
            gid: Some(peer.gid()),
            pid: Some(peer.pid()).filter(|pid| *pid > 0),
            source: Source::Unix {
                socket: socket.clone(),
                machine: Arc::clone(machine),
            },
            groups: OnceLock::new(),
            unit: OnceLock::new(),
        })
    }

    /// The peer of a TCP connection within this machine, from `client` to `dialled`.
    pub fn of_tcp(client: SocketAddr, dialled: SocketAddr, machine: &Arc<Machine>) -> Result<Self, Unowned> {
        let Owner { uid, cgroup } = loopback::owner(client, dialled)?;
        let machine = Arc::clone(machine);
        Ok(Self {
            uid,
            counts_as: machine.owner_of(uid),
            gid: None,
            pid: None,
            source: Source::Tcp { cgroup, machine },
            groups: OnceLock::new(),
            unit: OnceLock::new(),
        })
    }

    /// A caller with given properties, for judging rules without the daemon.
    pub fn described(uid: u32, groups: Vec<u32>, unit: Option<String>) -> Self {
        Self {
            uid,
            counts_as: uid,
            gid: None,
            pid: None,
            source: Source::Described {
                groups: sorted(groups.into()),
                unit: unit.map(Arc::from),
            },
            groups: OnceLock::new(),
            unit: OnceLock::new(),
        }
    }

    /// A caller over TCP as a record has it.
    pub fn recorded(uid: u32, unit: Option<&str>, machine: &Arc<Machine>) -> Self {
        let (cgroup, machine) = (None, Arc::clone(machine));
        Self {
            source: Source::Tcp { cgroup, machine },
            unit: OnceLock::from(unit.map(Arc::from)),
            ..Self::described(uid, Vec::new(), None)
        }
    }

    /// Its user, for sentences. The account is looked up here: most callers are never written about.
    pub fn user(&self) -> NamedUser {
        let machine = match &self.source {
            Source::Unix { machine, .. } | Source::Tcp { machine, .. } => Some(machine),
            Source::Described { .. } => None,
        };
        NamedUser {
            uid: self.uid,
            account: machine.and_then(|machine| machine.name_of(self.uid)),
        }
    }

    /// Whether it is in one of these groups, which are sorted: by its effective gid or a supplementary one, over TCP by its
    /// account.
    pub fn is_in_any(&self, groups: &[u32]) -> bool {
        let is_effective = self.gid.is_some_and(|gid| groups.binary_search(&gid).is_ok());
        is_effective || in_both(groups, &self.groups()).next().is_some()
    }

    /// Its groups but the effective one, sorted; over TCP those of its account that rules name.
    pub(super) fn groups(&self) -> Cow<'_, [u32]> {
        if let Source::Tcp { machine, .. } = &self.source {
            return machine.accounts.groups_of(self.uid).into();
        }
        let groups = self.groups.get_or_init(|| match &self.source {
            Source::Unix { socket, .. } => socket.ask(peer_groups).map(sorted).unwrap_or_default(),
            Source::Described { groups, .. } => groups.clone(),
            Source::Tcp { .. } => Box::default(),
        });
        Cow::Borrowed(groups)
    }

    /// The systemd unit that the caller runs in; `None` if there is any doubt.
    pub fn unit(&self) -> Option<&str> {
        if let Source::Tcp { cgroup, machine } = &self.source
            && self.unit.get().is_none()
        {
            // What is not known now may be later, by other rules.
            let found = machine.units.find((*cgroup)?, self.counts_as)?;
            _ = self.unit.set(Some(found));
        }
        let unit = self.unit.get_or_init(|| match &self.source {
            Source::Unix { socket, .. } => unit_behind(socket),
            Source::Described { unit, .. } => unit.clone(),
            Source::Tcp { .. } => None,
        });
        unit.as_deref()
    }

    /// For a log record: the unit if it is known without a search, else the cgroup to search for.
    pub fn unit_or_cgroup(&self) -> (Option<&str>, Option<u64>) {
        match (&self.source, self.unit.get()) {
            (Source::Tcp { cgroup, .. }, None) => (None, *cgroup),
            _ => (self.unit(), None),
        }
    }
}

impl NamedUser {
    /// The account's name, where it is known.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }
}

impl fmt::Display for NamedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            Some(account) => write!(f, "{account} ({})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// What is in two sorted lists.
pub(super) fn in_both<'a>(one: &'a [u32], other: &'a [u32]) -> impl Iterator<Item = u32> {
    let (few, many) = if one.len() < other.len() {
        (one, other)
    } else {
        (other, one)
    };
    few.iter().copied().filter(|id| many.binary_search(id).is_ok())
}

fn sorted(mut groups: Box<[u32]>) -> Box<[u32]> {
    // The kernel sorts them, but by ids that another user namespace may number in another order.
    groups.sort_unstable();
    groups
}

/// The unit of a process as its cgroup names it, for judging rules off line.
pub fn unit_of_process(pid: u32) -> Option<String> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    unit_in(&cgroup).map(str::to_owned)
}

/// Why no caller's unit can be known on the Unix socket, if so.
pub(super) fn units_unknown_because() -> Option<&'static str> {
    let (one, _other) = UnixStream::pair().ok()?;
    if getsockopt(&one, sockopt::PeerPidfd).err() == Some(Errno::ENOPROTOOPT) {
        return Some("this kernel has no SO_PEERPIDFD, which came with Linux 6.5");
    }
    match fs::read_to_string("/proc/1/cgroup") {
        Err(_) => Some("/proc does not show other users' processes (hidepid)"),
        Ok(cgroup) if unified(&cgroup).is_none() => Some("there is no unified cgroup hierarchy"),
        Ok(_) => None,
    }
}

fn unit_behind(socket: &Socket) -> Option<Arc<str>> {
    let pidfd = socket.ask(|s| getsockopt(&s, sockopt::PeerPidfd)).ok()?;
    unit_of(pidfd.as_fd())
}

/// The unit of the process behind `pidfd`. The pid comes from the pidfd and the cgroup from the pid. If the process is
/// still alive after that, its pid was not reused in between.
fn unit_of(pidfd: BorrowedFd<'_>) -> Option<Arc<str>> {
    let info = read_proc(&format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid: i32 = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()?;
    if pid <= 0 {
        return None;
    }
    let cgroup = read_proc(&format!("/proc/{pid}/cgroup")).ok()?;
    let unit = unit_in(&cgroup)?.into();
    is_alive(pidfd).then_some(unit)
}

/// The whole of a file of /proc. `fs::read_to_string` asks such a file for its length, gets none, and reads 32 bytes at a time.
fn read_proc(path: &str) -> io::Result<String> {
    const USUAL: usize = 4096;
    let mut text = String::with_capacity(USUAL);
    // What is taken of a file is not asked for its length.
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A pidfd becomes readable when its process has ended.
fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(0)
}

/// The first component of the path in the unified hierarchy that is not a slice: a service or a scope. For a unit of a
/// user's own manager, whose name the user chooses, it is `user@UID.service`.
fn unit_in(cgroup: &str) -> Option<&str> {
    unified(cgroup)?
        .split('/')
        .find_map(unit_named)
        .filter(|unit| !["", ".."].contains(unit))
}

/// The path in the unified hierarchy, without its first slash.
fn unified(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::/"))
}

#[cfg(test)]
impl Caller {
    /// Whether its groups and its unit were asked for.
    pub(super) fn asked(&self) -> (bool, bool) {
        (self.groups.get().is_some(), self.unit.get().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn the_unit_is_the_first_component_that_is_no_slice() {
        for (cgroup, unit) in [
            ("0::/system.slice/nginx.service\n", Some("nginx.service")),
            (
                "0::/system.slice/system-app.slice/app@2.service/sub\n",
                Some("app@2.service"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service\n",
                Some("user@1000.service"),
            ),
            ("0::/system.slice/docker-abc.scope/init\n", Some("docker-abc.scope")),
            (
                "12:cpu:/system.slice/fake.service\n0::/system.slice/real.service\n",
                Some("real.service"),
            ),
            ("0::/system.slice/_memory.service\n", Some("memory.service")),
            ("0::/system.slice/__odd.service\n", Some("_odd.service")),
            ("0::/_cpu.slice/a.service\n", Some("a.service")),
            ("0::/system.slice/a.service (deleted)\n", Some("a.service (deleted)")),
            ("0::/system.slice\n", None),
            ("0::/\n", None),
            ("0::/../other.service\n", None),
            ("1:name=systemd:/x.service\n", None),
            ("", None),
        ] {
            assert_eq!(unit_in(cgroup), unit, "{cgroup:?}");
        }
    }

    #[test]
    fn a_socket_pair_is_called_by_ourselves() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of_unix(&Socket::new(ours, None), &Machine::new(Arc::new(SystemClock))).unwrap();
        assert_eq!(caller.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(caller.pid, Some(i32::try_from(std::process::id()).unwrap()));
        for group in nix::unistd::getgroups().unwrap() {
            assert!(caller.is_in_any(&[group.as_raw()]), "{group}");
        }
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(caller.unit(), unit_in(&cgroup));
    }
}
