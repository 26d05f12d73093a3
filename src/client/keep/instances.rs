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
/// A link for each unit that is enabled, as the unit's `WantedBy=` has it.
pub const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants";

/// One unit.
#[derive(Debug)]
pub struct Instance {
    pub user: String,
    /// What is wrong with the settings, also that an enabled unit has none; none if they are good.
    pub violations: Option<Violations>,
    /// systemd's `ActiveState`: active, activating, failed, inactive; none if systemd does not answer.
    pub activity: Option<String>,
    /// The state file's content; empty if it cannot be read.
    pub state: FileStates,
}

/// All units that have settings or files, or are enabled.
pub fn all(settings: &Path, files: &Path, enabled: &Path) -> Vec<Instance> {
    let enabled: BTreeSet<_> = names(enabled).iter().filter_map(|link| user_of(link)).collect();
    let mut users = enabled.clone();
    for name in names(settings) {
        users.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    users.extend(names(files));
    users.retain(|user| !user.starts_with('.'));
    let instance = |user: String| Instance {
        violations: violations(&settings.join(format!("{user}.toml")), &user, enabled.contains(&user)),
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

/// The user in the name of a unit.
fn user_of(unit: &str) -> Option<String> {
    let instance = unit.strip_prefix("msi-token-keep@")?.strip_suffix(".service")?;
    Some(instance.to_owned())
}

/// The names in a directory; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Without a file there are none, unless it is needed.
fn violations(path: &Path, user: &str, is_needed: bool) -> Option<Violations> {
    if !path.exists() && !is_needed {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_seen_by_its_settings_its_files_or_its_being_enabled() {
        let directory = tempfile::tempdir().unwrap();
        let [settings, files, enabled] = ["settings", "files", "enabled"].map(|name| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        fs::write(
            settings.join("a.toml"),
            "[[file]]\nname = \"t\"\nresource = \"https://a/\"\n",
        )
        .unwrap();
        fs::create_dir(files.join("b")).unwrap();
        for link in ["msi-token-keep@c.service", "msi-tokend.service"] {
            fs::write(enabled.join(link), "").unwrap();
        }
        let units = all(&settings, &files, &enabled);
        let [a, b, c] = units.as_slice() else {
            panic!("{units:?}")
        };
        assert_eq!([&*a.user, &*b.user, &*c.user], ["a", "b", "c"]);
        assert!(a.violations.is_none() && b.violations.is_none(), "{units:?}");
        let missing = c.violations.as_ref().unwrap().to_string();
        assert!(missing.contains("c.toml: does not exist"), "{missing}");
    }
}
