//! Who calls: asked of the kernel when the connection is accepted, never taken from what the caller sends.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::loopback::{self, Unowned};
use super::peer_groups::peer_groups;

/// The process at the other end of a connection, as it was when it connected.
#[derive(Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id; unknown on the loopback listener.
    pub gid: Option<u32>,
    /// Process id as seen from here; unknown on the loopback listener and across pid namespaces.
    pub pid: Option<i32>,
    /// Supplementary groups, where known.
    groups: Box<[u32]>,
    /// A handle on that very process, which a reused pid cannot take over.
    pidfd: Option<OwnedFd>,
    unit: OnceLock<Option<Box<str>>>,
}

impl Caller {
    /// The peer of a Unix socket. What the kernel does not say matches no rule later on; only a peer without a uid is an
    /// error.
    pub fn of_unix(socket: &impl AsFd) -> nix::Result<Self> {
        let peer = getsockopt(socket, sockopt::PeerCredentials)?;
        let pid = Some(peer.pid()).filter(|pid| *pid > 0);
        Ok(Self {
            uid: peer.uid(),
            gid: Some(peer.gid()),
            pid,
            groups: peer_groups(socket.as_fd()).unwrap_or_default(),
            pidfd: pid.and_then(|_| getsockopt(socket, sockopt::PeerPidfd).ok()),
            unit: OnceLock::new(),
        })
    }

    /// The peer of a TCP connection within this machine, from `client` to `dialled`. Only its uid is known.
    pub fn of_loopback(client: SocketAddr, dialled: SocketAddr) -> Result<Self, Unowned> {
        Ok(Self {
            uid: loopback::owner(client, dialled)?,
            gid: None,
            pid: None,
            groups: Box::default(),
            pidfd: None,
            unit: OnceLock::from(None),
        })
    }

    /// A caller of whom everything is said, for judging rules off line.
    pub fn described(uid: u32, groups: Vec<u32>, unit: Option<String>) -> Self {
        let unit = unit.map(String::into_boxed_str);
        Self {
            uid,
            gid: None,
            pid: None,
            groups: groups.into(),
            pidfd: None,
            unit: OnceLock::from(unit),
        }
    }

    /// Whether it is in the group, by its effective gid or a supplementary one.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == Some(gid) || self.groups.contains(&gid)
    }

    /// Whether rules with groups or units can never match it: it came over loopback.
    pub fn is_known_by_uid_only(&self) -> bool {
        self.gid.is_none()
    }

    /// The systemd unit it runs in; looked up when first asked for. `None` wherever there is doubt.
    pub fn unit(&self) -> Option<&str> {
        self.unit
            .get_or_init(|| unit_of(self.pidfd.as_ref()?.as_fd()))
            .as_deref()
    }
}

/// The unit of the process behind `pidfd`. The pid is read from the handle, then the cgroup from the pid; that the
/// process is still alive afterwards proves that the pid was not reused in between.
fn unit_of(pidfd: BorrowedFd<'_>) -> Option<Box<str>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid: i32 = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()?;
    if pid <= 0 {
        return None;
    }
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unit = unit_in(&cgroup)?.into();
    is_alive(pidfd).then_some(unit)
}

/// A pidfd becomes readable when its process has ended.
fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(0)
}

/// The first component of the unified hierarchy's path that is not a slice: a service, a scope, or for whatever a user
/// starts under a name of his choice, `user@UID.service`.
fn unit_in(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    path.split('/')
        .find(|part| part.strip_suffix(".slice").is_none())
        .filter(|part| !["", ".."].contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let caller = Caller::of_unix(&ours).unwrap();
        assert_eq!(caller.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(caller.pid, Some(i32::try_from(std::process::id()).unwrap()));
        for group in nix::unistd::getgroups().unwrap() {
            assert!(caller.is_in_group(group.as_raw()), "{group}");
        }
    }
}
