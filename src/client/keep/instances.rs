//! The units msi-token-keep@USER.service of this machine, for `doctor`: their settings, their state, their files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::User;

use super::file_store::{FileStates, STATE};
use crate::client::described::groups_of;
use crate::config::Violations;
use crate::config::keep as settings;

/// The units' settings, one file for each user.
pub const SETTINGS: &str = "/etc/msi-tokend/keep";
/// The units' files, one directory for each user.
pub const FILES: &str = "/run/msi-token";

/// One unit.
#[derive(Debug)]
pub struct Instance {
    pub user: String,
    /// What is wrong with the settings; none if they are good or missing.
    pub violations: Option<Violations>,
    /// systemd's `ActiveState`: active, activating, failed, inactive; none if systemd does not answer.
    pub activity: Option<String>,
    /// The state file's content; empty if it cannot be read.
    pub state: FileStates,
}

/// All units that have settings or files.
pub fn all(settings: &Path, files: &Path) -> Vec<Instance> {
    let mut users = BTreeSet::new();
    for name in names(settings) {
        users.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    users.extend(names(files));
    users.retain(|user| !user.starts_with('.'));
    let instance = |user: String| Instance {
        violations: violations(&settings.join(format!("{user}.toml")), &user),
        activity: activity(&user),
        state: state(&files.join(&user).join(STATE)),
        user,
    };
    users.into_iter().map(instance).collect()
}

impl Instance {
    /// The unit's name.
    pub fn unit(&self) -> String {
        format!("msi-token-keep@{}.service", self.user)
    }
}

/// The names in a directory; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn violations(path: &Path, user: &str) -> Option<Violations> {
    if !path.exists() {
        return None;
    }
    let account = User::from_name(user).ok().flatten();
    let groups = account.map_or_else(Vec::new, |account| groups_of(account.uid.as_raw()));
    settings::load(path, |gid| groups.contains(&gid.as_raw())).err()
}

fn activity(user: &str) -> Option<String> {
    let unit = format!("msi-token-keep@{user}.service");
    let show = Command::new("systemctl")
        .args(["show", "--property=ActiveState", "--value", &unit])
        .output();
    let text = String::from_utf8(show.ok()?.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn state(path: &Path) -> FileStates {
    let text = fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}
