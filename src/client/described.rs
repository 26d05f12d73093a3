//! Whom `explain` judges: a process, an account, or a caller who is made up, as the daemon would see it on a listener.

use std::ffi::CString;
use std::fmt::Display;
use std::fs;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::error::{ClientError, Exit};
use crate::access::{Caller, Machine, Rules, UnitsUnknown, gid_of, groups_of_account, uid_of, unit_of_process};
use crate::clock::SystemClock;
use crate::config::Account;

#[derive(Args)]
pub struct CallerOptions {
    /// Who calls: a uid, or a user's name. Without it and without --pid: this process.
    #[arg(long, value_parser = uid)]
    uid: Option<u32>,
    /// A group the caller is in, by id or name; may be repeated. Without any: the groups that its account has.
    #[arg(long, value_parser = gid)]
    gid: Vec<u32>,
    /// The systemd unit that the caller runs in, such as nightly-backup.service.
    #[arg(long)]
    unit: Option<String>,
    /// A process that calls, with its user, groups and unit.
    #[arg(long, conflicts_with_all = ["uid", "gid", "unit"])]
    pid: Option<u32>,
    /// Where it calls.
    #[arg(long, value_enum, default_value_t = Listener::Socket)]
    listener: Listener,
}

/// Where callers come in, which decides what is known of them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Listener {
    /// The Unix socket: groups are those of the process.
    Socket,
    /// The loopback listener: groups are those of the account.
    Sdk,
    /// The lock's listener, as the loopback listener.
    Lock,
}

/// A caller, in words too.
pub struct Described {
    /// For the rules.
    pub caller: Caller,
    /// For people.
    pub text: String,
    /// What else they should know.
    pub notes: Vec<String>,
    /// Whether a rule with units asks for what is not known there.
    pub unit_is_unknown: bool,
}

/// What the kernel says of a process.
struct Process {
    uid: u32,
    groups: Vec<u32>,
    unit: Option<String>,
}

impl CallerOptions {
    /// As the daemon would see it.
    pub fn describe(&self, rules: &Rules) -> Result<Described, ClientError> {
        let Process {
            uid,
            mut groups,
            mut unit,
        } = match (self.pid, self.uid) {
            (Some(pid), _) => Process::of(pid)?,
            (None, Some(uid)) => Process {
                uid,
                groups: groups_of(uid),
                unit: None,
            },
            (None, None) => Process::of(std::process::id())?,
        };
        if !self.gid.is_empty() {
            groups.clone_from(&self.gid);
        }
        unit = self.unit.clone().or(unit);
        let mut notes = Vec::new();
        let whose = if self.listener == Listener::Socket {
            ""
        } else {
            groups = groups_of_account(uid, rules.named_groups());
            " (of those that rules name, by its account)"
        };
        let unknown = rules.need_units().then(|| self.units_unknown()).flatten();
        let unit_is_unknown = unknown.is_some();
        notes.extend(unknown);
        if self.uid.is_some() && unit.is_none() && rules.need_units() {
            notes.push("an account has no unit: --unit UNIT or --pid PID tries the rules with units, too".to_owned());
        }
        let names: Vec<String> = groups.iter().map(|gid| group(*gid)).collect();
        let text = format!(
            "uid {}, {}{whose}, {}",
            user(uid),
            listed("groups", &names),
            unit.as_ref()
                .map_or_else(|| "no unit".to_owned(), |unit| format!("unit {unit}")),
        );
        Ok(Described {
            caller: Caller::described(uid, groups, unit.filter(|_| !unit_is_unknown)),
            text,
            notes,
            unit_is_unknown,
        })
    }

    /// Why rules with units match nobody there, if so.
    fn units_unknown(&self) -> Option<String> {
        let machine = Machine::new(Arc::new(SystemClock));
        match self.listener {
            Listener::Socket => UnitsUnknown::on_socket(&machine).map(|unknown| {
                let elsewhere = if unknown.known_over_tcp {
                    "they match on the loopback listener: --listener sdk judges for it"
                } else {
                    "nor do they on the loopback listener"
                };
                format!("{unknown}; {elsewhere}")
            }),
            Listener::Sdk | Listener::Lock => machine
                .units_unknown_because()
                .map(|why| format!("rules with units match nobody over TCP: {why}")),
        }
    }
}

impl Process {
    fn of(pid: u32) -> Result<Self, ClientError> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).map_err(|error| {
            let cause = format!("process {pid} cannot be looked at: {path}: {error}");
            ClientError::new(Exit::Usage, cause, "Name a process that runs, or use --uid and --unit.")
        })?;
        Self::in_status(&status, unit_of_process(pid))
            .ok_or_else(|| ClientError::new(Exit::Other, format!("{path} is not understood"), ""))
    }

    /// By the effective ids, which the kernel tells the daemon too.
    fn in_status(status: &str, unit: Option<String>) -> Option<Self> {
        let numbers = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace()
                .map(|number| number.parse().ok())
                .collect::<Option<Vec<u32>>>()
        };
        let mut groups = numbers("Groups:")?;
        let group = *numbers("Gid:")?.get(1)?;
        if !groups.contains(&group) {
            groups.insert(0, group);
        }
        Some(Self {
            uid: *numbers("Uid:")?.get(1)?,
            groups,
            unit,
        })
    }
}

/// "groups a, b", or "no groups".
pub fn listed(what: &str, items: &[impl Display]) -> String {
    if items.is_empty() {
        return format!("no {what}");
    }
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{what} {}", items.join(", "))
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{uid} ({})", user.name),
        _ => format!("{uid} (no account)"),
    }
}

fn group(gid: u32) -> String {
    match Group::from_gid(Gid::from_raw(gid)) {
        Ok(Some(group)) => format!("{gid} ({})", group.name),
        _ => gid.to_string(),
    }
}

/// The groups that a login of this user would have.
pub fn groups_of(uid: u32) -> Vec<u32> {
    let account = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let groups = account.and_then(|user| getgrouplist(&CString::new(user.name).ok()?, user.gid).ok());
    groups.unwrap_or_default().iter().map(|gid| gid.as_raw()).collect()
}

fn uid(text: &str) -> Result<u32, String> {
    Account::named(text)
        .and_then(|user| uid_of(&user))
        .ok_or_else(|| "is no uid, and no user has this name".to_owned())
}

fn gid(text: &str) -> Result<u32, String> {
    Account::named(text)
        .and_then(|group| gid_of(&group))
        .ok_or_else(|| "is no gid, and no group has this name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_judged_by_its_effective_ids_and_all_its_groups() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t10\t20\t30\t40\nGroups:\t5 20 6 \n";
        let process = Process::in_status(status, None).unwrap();
        assert_eq!((process.uid, process.groups), (2, vec![5, 20, 6]));
        let process = Process::in_status(&status.replace("5 20 6", ""), None).unwrap();
        assert_eq!(process.groups, [20]);
        assert!(Process::in_status("Uid:\t1\n", None).is_none());
    }
}
