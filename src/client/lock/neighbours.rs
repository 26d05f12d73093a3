//! What else on this machine decides who reaches the metadata service: what the lock would be of no use beside, or would open.

use std::fs;
use std::path::Path;

use super::nft::{is_active, is_failed, list, list_table};
use super::rules;
use crate::client::error::{ClientError, Exit};
use crate::client::finding::Finding;
use crate::config::LockMode;
use crate::observe::lock::{REQUEST, STATE, Why};

/// Azure's agent that redirects such connections below every firewall rule.
const PROXY_AGENT: &str = "azure-proxy-agent.service";
/// In it msi-tokend-lock.service leaves what `iptables-legacy-save` prints: that wants more than the loader may.
const LEGACY: &str = "/run/msi-tokend-lock/iptables-legacy";
/// Where systemd-imdsd leaves how the network is to be set up for it.
const NETWORKS: &str = "/run/systemd/network";

/// What `doctor` says of the lock's unit, and of the agent that it cannot work beside.
pub fn findings(is_on: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if is_failed("msi-tokend-lock.service") {
        findings.push(Finding::Wrong(
            Exit::Other,
            "the lock is not loaded: msi-tokend-lock.service has failed".to_owned(),
            "`systemctl status msi-tokend-lock.service` says why.".to_owned(),
        ));
    }
    if is_on && is_active(PROXY_AGENT) {
        findings.push(Finding::from(&agent_runs()));
    }
    findings
}

/// Refuses where others already do what the lock does, or something that it cannot work beside.
pub fn check(mode: LockMode) -> Result<(), ClientError> {
    if is_active(PROXY_AGENT) {
        return Err(agent_runs());
    }
    if are_passed_by() {
        return Err(refused(
            "the rules are in the kernel, and the daemon's request reached the metadata service all the same: something takes \
             connections away before any firewall rule, as Azure's guest proxy agent does",
            "`bpftool cgroup tree` shows programs at connect4. Keep one of the two, or disable msi-tokend-lock.service.",
        ));
    }
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    if is_prohibited(&routes) || is_kept_by_systemd(Path::new(NETWORKS)) {
        return Err(refused(
            "a prohibit route closes 169.254.169.254 to all, as that of a systemd-imdsd that locks it, and to the daemon, too",
            "Keep one of the two: systemd.imds.network=unlocked on the kernel's command line, or disable \
             msi-tokend-lock.service.",
        ));
    }
    if mode == LockMode::Observe {
        let table = rules::closed_by(&list(&["ruleset"])?).map(|table| format!("the firewall table {table}"));
        let legacy = fs::read_to_string(LEGACY).unwrap_or_default();
        let legacy = is_closed_by_iptables(&legacy).then(|| "a rule of iptables-legacy".to_owned());
        if let Some(what) = table.or(legacy) {
            return Err(refused(
                format!("{what} closes 169.254.169.254 already, and observing would open it"),
                "This VM is closed already; use enforce (lock.mode = \"enforce\"), then remove that.",
            ));
        }
    }
    Ok(())
}

fn agent_runs() -> ClientError {
    refused(
        format!(
            "{PROXY_AGENT} runs: Azure's guest proxy agent takes connections to the metadata service away before any firewall \
             rule"
        ),
        "Keep one of the two: stop the agent, or disable msi-tokend-lock.service.",
    )
}

pub fn refused(cause: impl Into<String>, advice: &'static str) -> ClientError {
    ClientError::new(Exit::Configuration, cause, advice)
}

/// Whether the daemon has missed the rules since they were loaded, and they are there.
fn are_passed_by() -> bool {
    let modified = |path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let is_missed = fs::read_to_string(REQUEST).is_ok_and(|why| why == Why::Lost.text())
        && modified(STATE).is_some_and(|loaded| modified(REQUEST) > Some(loaded));
    is_missed && list_table().is_ok_and(|table| table.contains("redirect to :169"))
}

/// Whether a route of the main table rejects the address, in `/proc/net/route`: numbers are hexadecimal, addresses in the
/// machine's byte order (`route(8)`, flag `!`).
fn is_prohibited(routes: &str) -> bool {
    const RTF_REJECT: u32 = 0x200;
    let address = format!("{:08X}", u32::from_ne_bytes([169, 254, 169, 254]));
    routes.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        words.get(1) == Some(&address.as_str()) && flags.is_some_and(|flags| flags & RTF_REJECT != 0)
    })
}

/// At boot that route is still to come.
fn is_kept_by_systemd(networks: &Path) -> bool {
    let files = fs::read_dir(networks).into_iter().flatten().flatten();
    let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.any(|text| text.contains("169.254.169.254") && text.lines().any(|line| line.trim() == "Type=prohibit"))
}

/// In what `iptables-save` prints.
fn is_closed_by_iptables(saved: &str) -> bool {
    let refuses = |line: &str| line.contains("-j REJECT") || line.contains("-j DROP");
    saved
        .lines()
        .any(|line| line.contains("-d 169.254.169.254") && refuses(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prohibit_route_to_the_address_is_found_and_a_usual_one_is_none() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let line = |interface: &str, destination: &str, flags: &str| {
            format!("{head}{interface}\t{destination}\t0100000A\t{flags}\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n")
        };
        let address = format!("{:08X}", u32::from_ne_bytes([169, 254, 169, 254]));
        assert!(is_prohibited(&line("*", &address, "0205")));
        assert!(!is_prohibited(&line("eth0", &address, "0007")));
        assert!(!is_prohibited(&line("*", "0000FEA9", "0205")));
        assert!(!is_prohibited(""));
    }

    #[test]
    fn the_network_that_systemd_imdsd_leaves_tells_whether_it_locks() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("10-imds.network");
        let text = "[Match]\nName=*\n[Route]\nDestination=169.254.169.254\n";
        fs::write(&file, text).unwrap();
        assert!(!is_kept_by_systemd(directory.path()));
        fs::write(&file, format!("{text}Type=prohibit\n")).unwrap();
        assert!(is_kept_by_systemd(directory.path()));
        assert!(!is_kept_by_systemd(Path::new("/nonexistent")));
    }

    #[test]
    fn a_rule_of_iptables_that_closes_the_address_is_found() {
        let rule =
            "-A OUTPUT -d 169.254.169.254/32 -m owner ! --uid-owner 0 -j REJECT --reject-with icmp-port-unreachable";
        assert!(is_closed_by_iptables(&format!(
            "*filter\n:OUTPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n"
        )));
        assert!(is_closed_by_iptables(&rule.replace("REJECT", "DROP")));
        for open in [
            "-A OUTPUT -d 169.254.169.254/32 -j ACCEPT",
            "-A OUTPUT -d 10.0.0.1/32 -j DROP",
            "",
        ] {
            assert!(!is_closed_by_iptables(open), "{open}");
        }
    }
}
