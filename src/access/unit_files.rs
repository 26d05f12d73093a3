//! Whether the service manager knows a unit that a rule names. Asked of the files, since the daemon's sandbox does not let it
//! ask the manager, and `--check` runs where there may be none.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// Where systemd looks for units of the system, by systemd.unit(5).
const SYSTEM: [&str; 13] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    "run/systemd/system",
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/generator.late",
];
/// Where packages and administrators put units of users' own managers.
const USER: [&str; 3] = ["etc/systemd/user", "usr/local/lib/systemd/user", "usr/lib/systemd/user"];
/// A unit that every systemd has: where it is missing nothing can be said of others.
const OF_SYSTEMD: &str = "basic.target";

/// Why no process can be in `unit`, and what to do. Says nothing of scopes, mounts and swaps, which come without a file.
pub(super) fn doubt(root: &Path, unit: &str) -> Option<(String, String)> {
    let known = |name: &str| find(root, &SYSTEM, name);
    if !unit.ends_with(".service") && !unit.ends_with(".socket") || known(OF_SYSTEMD).is_none() {
        return None;
    }
    let Some(target) = known(unit).or_else(|| known(&template(unit)?)) else {
        let what = format!("names \"{unit}\", and there is no such unit on this machine");
        let remedy = if find(root, &USER, unit).is_some() {
            "it is a unit of users' own: to a rule their processes are in user@UID.service"
        } else {
            "create the unit, or correct the name"
        };
        return Some((what, remedy.to_owned()));
    };
    let target = target.file_name()?.to_str()?.to_owned();
    if target == "null" {
        let what = format!("names \"{unit}\", which is masked and never runs");
        return Some((what, format!("`systemctl unmask {unit}`, or correct the name")));
    }
    let is_alias = target != unit && Some(&target) != template(unit).as_ref();
    is_alias.then(|| {
        let what = format!("names \"{unit}\", which is another name of {target}");
        (what, format!("write \"{target}\", the name under which it runs"))
    })
}

/// What the unit's file is, through all links; a link that leads nowhere is what it names.
fn find(root: &Path, directories: &[&str], unit: &str) -> Option<std::path::PathBuf> {
    directories.iter().find_map(|directory| {
        let path = root.join(directory).join(unit);
        fs::canonicalize(&path).or_else(|_| fs::read_link(&path)).ok()
    })
}

/// `app@.service` for `app@1.service`.
fn template(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    let kind = Path::new(rest).extension().and_then(OsStr::to_str)?;
    Some(format!("{name}@.{kind}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A machine with these files, and links where a target is given.
    fn machine(files: &[(&str, Option<&str>)]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        for (path, target) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => symlink(target, &path).unwrap(),
                None => fs::write(&path, "").unwrap(),
            }
        }
        (directory, root)
    }

    const BASIC: (&str, Option<&str>) = ("usr/lib/systemd/system/basic.target", None);

    #[test]
    fn a_unit_is_known_by_its_file_its_template_or_the_manager_that_made_it() {
        let (_directory, root) = machine(&[
            BASIC,
            ("usr/lib/systemd/system/nginx.service", None),
            ("etc/systemd/system/app@.service", None),
            ("etc/systemd/system/linked.service", Some("/opt/app/linked.service")),
            ("run/systemd/transient/run-u5.service", None),
            ("run/systemd/generator.late/old.service", None),
            ("lib/systemd/system/user@.service", None),
        ]);
        for unit in [
            "nginx.service",
            "app@1.service",
            "app@a-b.c.service",
            "linked.service",
            "run-u5.service",
            "old.service",
            "user@1000.service",
            "docker-0123.scope",
            "srv.mount",
        ] {
            assert_eq!(doubt(&root, unit), None, "{unit}");
        }
        for unit in ["nginx2.service", "other@1.service", "nginx.socket", "app.service"] {
            let (what, remedy) = doubt(&root, unit).expect(unit);
            assert!(
                what.contains("no such unit") && remedy.contains("correct the name"),
                "{what}"
            );
        }
    }

    #[test]
    fn another_name_a_masked_unit_and_one_of_users_are_told() {
        let (_directory, root) = machine(&[
            BASIC,
            ("usr/lib/systemd/system/ssh.service", None),
            (
                "etc/systemd/system/sshd.service",
                Some("../../../usr/lib/systemd/system/ssh.service"),
            ),
            ("etc/systemd/system/off.service", Some("/dev/null")),
            ("usr/lib/systemd/user/sync.service", None),
        ]);
        for (unit, part) in [
            ("sshd.service", "write \"ssh.service\""),
            ("off.service", "systemctl unmask off.service"),
            ("sync.service", "user@UID.service"),
        ] {
            let (_, remedy) = doubt(&root, unit).expect(unit);
            assert!(remedy.contains(part), "{unit}: {remedy}");
        }
    }

    #[test]
    fn without_systemd_nothing_is_said() {
        let (_directory, root) = machine(&[("usr/lib/systemd/system/nginx.service", None)]);
        assert_eq!(doubt(&root, "nginx2.service"), None);
    }
}
