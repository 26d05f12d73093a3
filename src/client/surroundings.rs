//! What is around the daemon on this machine, for `doctor`: the lock and other firewalls, units that keep tokens in files, proxy
//! variables.

use std::path::Path;

use super::error::Exit;
use super::finding::Finding;
use super::forms::instant;
use super::keep::FileState;
use super::keep::instances::{self, Instance};
use crate::config::Violation;
use crate::observe::lock::{LockHealth, Standing};
use crate::observe::status::CallerStatus;

/// The lock, and what else on this machine gets in its way; `read` reads a file.
pub fn locked(lock: LockHealth, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = vec![match (lock.problem(), lock.state) {
        (None, Standing::Untried) => Finding::Note(
            "whether the lock is there is not known yet: the daemon has not looked at it often enough".to_owned(),
            "Ask again in ten seconds.".to_owned(),
        ),
        (None, _) => Finding::Well(lock.note().to_owned()),
        (Some(problem), Standing::Unknown) => Finding::Note(
            problem.to_owned(),
            "It may be a flood of connections, or the network is not up; nothing is unloaded for it.".to_owned(),
        ),
        (Some(problem), _) => Finding::Wrong(
            Exit::Other,
            problem.to_owned(),
            "Where they do not stay, another program replaces all rules: `nft list ruleset` shows what is there."
                .to_owned(),
        ),
    }];
    let is_set = |path, line| read(path).is_some_and(|text| text.lines().any(|set| set.trim() == line));
    let ufw_is_on = is_set("/etc/ufw/ufw.conf", "ENABLED=yes");
    let outgoing = ["DEFAULT_OUTPUT_POLICY=\"DROP\"", "DEFAULT_OUTPUT_POLICY=\"REJECT\""];
    if ufw_is_on && outgoing.iter().any(|line| is_set("/etc/default/ufw", line)) {
        findings.push(Finding::Note(
            "ufw denies outgoing connections, and so those that the lock leads to the daemon".to_owned(),
            "Callers hang unless it lets them: `ufw allow out to 127.0.0.1 port 169 proto tcp`.".to_owned(),
        ));
    }
    let number = |name| {
        read(&format!("/proc/sys/net/netfilter/{name}"))?
            .trim()
            .parse::<u64>()
            .ok()
    };
    if let (Some(count), Some(max)) = (number("nf_conntrack_count"), number("nf_conntrack_max"))
        && count >= max / 10 * 8
    {
        findings.push(Finding::Note(
            format!("the kernel tracks {count} connections of at most {max}; it has to, for the lock"),
            "New connections of every kind fail at the maximum: raise net.netfilter.nf_conntrack_max.".to_owned(),
        ));
    }
    findings
}

/// Whoever set `access.root` to "rules" meant root to need one.
pub fn root_passes(caller: &CallerStatus) -> Option<Finding> {
    (caller.uid == 0 && !caller.privileged).then(|| {
        Finding::Note(
            "root needs a rule here (access.root = \"rules\"), and the lock leaves root alone".to_owned(),
            "A process of root's gets every token from the metadata service itself, also one in a container with the \
             machine's network."
                .to_owned(),
        )
    })
}

/// The units that keep tokens in files.
pub fn kept_files() -> Vec<Finding> {
    let [settings, files, enabled] = [instances::SETTINGS, instances::FILES, instances::ENABLED].map(Path::new);
    let units = instances::all(settings, files, enabled);
    units.iter().flat_map(kept).collect()
}

fn kept(instance: &Instance) -> Vec<Finding> {
    let unit = instance.unit();
    if let Some(violations) = &instance.violations {
        let cure = format!(
            "Correct the settings, then `systemctl restart {unit}`; without files to keep, `systemctl disable --now {unit}`."
        );
        let wrong = |violation: &Violation| Finding::Wrong(Exit::Configuration, violation.to_string(), cure.clone());
        return violations.iter().map(wrong).collect();
    }
    let files = &instance.state.files;
    let mut findings: Vec<Finding> = files.iter().filter_map(|file| trouble(&unit, file)).collect();
    match instance.activity.as_deref() {
        Some("failed") => findings.push(Finding::Wrong(
            Exit::Other,
            format!("{unit} has failed"),
            format!("`journalctl --unit {unit}` tells why."),
        )),
        Some("inactive") => findings.push(Finding::Note(
            format!("{unit} has settings and does not run"),
            format!("`systemctl enable --now {unit}` starts it."),
        )),
        _ if findings.is_empty() => findings.push(Finding::Well(format!("{unit}: {}", instance.state.line()))),
        _ => {}
    }
    findings
}

fn trouble(unit: &str, file: &FileState) -> Option<Finding> {
    let FileState {
        name,
        resource,
        identity,
        ..
    } = file;
    let (what, cause) = match (file.expires_on, &file.trouble) {
        (Some(_), None) => return None,
        (Some(at), Some(cause)) => (
            format!("is not renewed, and is good until {}", instant(at)),
            cause.as_str(),
        ),
        (None, cause) => (
            "is missing".to_owned(),
            cause.as_deref().unwrap_or("it was not asked for yet"),
        ),
    };
    Some(Finding::Wrong(
        Exit::Other,
        format!("{unit}: the file {name} ({resource} for {identity}) {what}"),
        cause.to_owned(),
    ))
}

/// Programs that use a proxy variable would send the proxy their requests to this machine, with the tokens in them.
pub fn proxies(variable: impl Fn(&str) -> Option<String>) -> Finding {
    let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let proxies: Vec<&str> = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .filter(set)
        .collect();
    let exceptions = ["no_proxy", "NO_PROXY"]
        .map(|name| variable(name).unwrap_or_default())
        .join(",");
    let excepted = |host: &str| {
        let mut entries = exceptions.split([',', ' ']).map(str::trim);
        entries.any(|entry| entry == "*" || entry.eq_ignore_ascii_case(host))
    };
    let through: Vec<&str> = ["localhost", "127.0.0.1"]
        .into_iter()
        .filter(|host| !excepted(host))
        .collect();
    if proxies.is_empty() || through.is_empty() {
        return Finding::Well("no proxy variable is in the way".to_owned());
    }
    Finding::Wrong(
        Exit::Other,
        format!(
            "{} is set and NO_PROXY does not name {}: programs send their token requests to the proxy",
            proxies.join(", "),
            through.join(" and ")
        ),
        "Set NO_PROXY and no_proxy to localhost,127.0.0.1,169.254.169.254 wherever the proxy is set.".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LockMode;

    #[test]
    fn the_lock_and_what_gets_in_its_way_are_told() {
        let lock = |state| LockHealth {
            state,
            mode: LockMode::Observe,
        };
        let lines = |lock, files: &[(&str, &str)]| -> Vec<String> {
            let read = |path: &str| {
                files
                    .iter()
                    .find(|(at, _)| *at == path)
                    .map(|(_, text)| (*text).to_owned())
            };
            locked(lock, read)
                .iter()
                .flat_map(|finding| finding.lines(None))
                .collect()
        };
        assert_eq!(
            lines(lock(Standing::Locked), &[]),
            ["ok     lock observing: nothing is denied"]
        );
        assert!(
            lines(lock(Standing::Untried), &[])[0].starts_with("note   whether the lock is there is not known yet")
        );
        assert!(lines(lock(Standing::Lost), &[])[0].starts_with("WRONG  every user reaches the metadata service"));
        assert!(lines(lock(Standing::Unknown), &[])[0].starts_with("note "));
        let ufw = ("/etc/ufw/ufw.conf", "ENABLED=yes\n");
        let open = ("/etc/default/ufw", "DEFAULT_OUTPUT_POLICY=\"ACCEPT\"\n");
        let closed = ("/etc/default/ufw", "# x\nDEFAULT_OUTPUT_POLICY=\"DROP\"\n");
        assert_eq!(lines(lock(Standing::Locked), &[ufw, open]).len(), 1);
        assert_eq!(lines(lock(Standing::Locked), &[closed]).len(), 1);
        assert!(lines(lock(Standing::Locked), &[ufw, closed])[2].contains("ufw allow out to 127.0.0.1 port 169"));
        let count = |text| ("/proc/sys/net/netfilter/nf_conntrack_count", text);
        let max = ("/proc/sys/net/netfilter/nf_conntrack_max", "1000\n");
        assert_eq!(lines(lock(Standing::Locked), &[count("799\n"), max]).len(), 1);
        assert!(lines(lock(Standing::Locked), &[count("800\n"), max])[1].contains("800 connections of at most 1000"));
    }

    #[test]
    fn that_the_lock_leaves_root_alone_is_told_where_root_needs_a_rule() {
        let told = |uid, privileged| {
            root_passes(&CallerStatus {
                uid,
                privileged,
                rules: 0,
            })
            .is_some()
        };
        assert!(told(0, false));
        assert!(!told(0, true) && !told(1000, false));
    }

    #[test]
    fn a_proxy_is_in_the_way_unless_loopback_is_excepted() {
        for (variables, wrong) in [
            (&[][..], false),
            (&[("http_proxy", "http://p:3128")], true),
            (&[("HTTP_PROXY", "")], false),
            (&[("https_proxy", "http://p:3128")], false),
            (&[("ALL_PROXY", "p"), ("NO_PROXY", "localhost")], true),
            (&[("ALL_PROXY", "p"), ("NO_PROXY", "localhost, 127.0.0.1,.corp")], false),
            (
                &[
                    ("http_proxy", "p"),
                    ("no_proxy", "LOCALHOST"),
                    ("NO_PROXY", "127.0.0.1"),
                ],
                false,
            ),
            (&[("http_proxy", "p"), ("no_proxy", "*")], false),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(proxies(variable).exit().is_some(), wrong, "{variables:?}");
        }
    }
}
