//! `doctor`: finds what is wrong and says what to do.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;

use super::config_files::ConfigFiles;
use super::connection::Daemon;
use super::error::{ClientError, Exit};
use super::finding::Finding;
use super::forms::instant;
use super::get::{self, Mode};
use super::keep::FileState;
use super::keep::instances::{self, Instance};
use super::probe::Probe;
use super::ready::Ready;
use super::selection::IdentityOptions;
use super::{output, probe, remedy, terminal};
use crate::clock::{Clock, SystemClock};
use crate::config::Violation;
use crate::failure::Failure;
use crate::key::{Key, Resource};
use crate::observe::health::TokenHealth;
use crate::observe::lock::{LockHealth, Standing};
use crate::observe::status::{CallerStatus, Status};

/// The time-out of what the daemon answers from memory.
const PATIENCE: Duration = Duration::from_secs(4);
/// Clocks that differ by less do no harm, and a second is lost on the way.
const SKEW: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Arguments {
    /// The configuration file to judge, with conf.d/*.toml beside it. Without it: the service's, unless another daemon's socket
    /// is named.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Also ask for this token.
    #[arg(long, value_parser = Resource::new)]
    resource: Option<Resource>,
    #[command(flatten)]
    selector: IdentityOptions,
}

/// Prints the diagnosis.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), ClientError> {
    let mut findings = examine(daemon, arguments).await;
    findings.push(proxies(|name| std::env::var(name).ok()));
    findings.extend(
        instances::all(
            instances::SETTINGS.as_ref(),
            instances::FILES.as_ref(),
            instances::ENABLED.as_ref(),
        )
        .iter()
        .flat_map(kept),
    );
    let width = terminal::width();
    let lines: Vec<String> = findings.iter().flat_map(|finding| finding.lines(width)).collect();
    output::line(&[lines.join("\n").as_bytes()])?;
    match findings.iter().find_map(Finding::exit) {
        Some(exit) => Err(ClientError::quiet(exit)),
        None => Ok(()),
    }
}

/// Checks the daemon first, then the endpoint and the tokens.
async fn examine(daemon: &Daemon, arguments: &Arguments) -> Vec<Finding> {
    let files = ConfigFiles::of(daemon, arguments.config.as_deref());
    let (status, ready) = match documents(daemon).await {
        Ok(documents) => documents,
        Err(finding) => return down(finding, files.map(|files| files.judge(None)).unwrap_or_default()),
    };
    let mut findings = vec![Finding::Well(format!(
        "msi-tokend {} answers on {}",
        status.version,
        daemon.socket().display()
    ))];
    findings.extend(files.iter().flat_map(|files| files.judge(Some(&status))));
    findings.extend(units(&status));
    findings.push(rules(&status));
    let failing = ready.tokens.iter().any(|token| token.failures > 0);
    let probe = probe::endpoint(&status.endpoint).await;
    findings.extend(endpoint(&status, probe, failing));
    findings.extend(tokens(&ready));
    findings.extend(
        ready
            .lock
            .into_iter()
            .flat_map(|lock| locked(lock, |path| fs::read_to_string(path).ok())),
    );
    findings.extend(ready.lock.and_then(|_| root_passes(&status.caller)));
    if let Some(resource) = &arguments.resource {
        let key = Key::new(resource.clone(), arguments.selector.identity());
        findings.push(asked(daemon, &key, status.caller.uid).await);
    }
    findings
}

/// A daemon that does not answer because its files keep it from starting does not want to be restarted.
fn down(daemon: Finding, files: Vec<Finding>) -> Vec<Finding> {
    let daemon = match daemon {
        Finding::Wrong(Exit::Unreachable, what, _) if files.iter().any(|finding| finding.exit().is_some()) => {
            let cure = "It cannot start with its configuration: correct what is said below.";
            Finding::Wrong(Exit::Unreachable, what, cure.to_owned())
        }
        daemon => daemon,
    };
    [vec![daemon], files].concat()
}

async fn documents(daemon: &Daemon) -> Result<(Status, Ready), Finding> {
    let get = async |target| daemon.answer(target, PATIENCE).await.map_err(|f| Finding::from(&f));
    if get("/live").await?.status != StatusCode::OK {
        return Err(Finding::Wrong(
            Exit::Unreachable,
            "the daemon answers, but its timer stands still: no token is refreshed".to_owned(),
            "Restart it: `systemctl restart msi-tokend`.".to_owned(),
        ));
    }
    let (status, ready) = (get("/status").await?, get("/ready").await?);
    let odd = |_| {
        Finding::Wrong(
            Exit::Other,
            format!("what answers on {} is not understood", daemon.socket().display()),
            "Is it msi-tokend? Compare `msi-tokend --version` with `msi-token --version`.".to_owned(),
        )
    };
    Ok((
        serde_json::from_slice(&status.body).map_err(odd)?,
        serde_json::from_slice(&ready.body).map_err(odd)?,
    ))
}

/// Rules that the Unix socket cannot judge by.
fn units(status: &Status) -> Option<Finding> {
    let unknown = status.units_unknown.as_ref()?;
    let (what, remedy) = (unknown.to_string(), format!("{}.", unknown.remedy(status.sdk)));
    Some(if unknown.known_over_tcp && status.sdk.is_some() {
        Finding::Note(what, remedy)
    } else {
        Finding::Wrong(Exit::Configuration, what, remedy)
    })
}

fn rules(status: &Status) -> Finding {
    let caller = &status.caller;
    match (caller.privileged, caller.rules) {
        (true, _) => Finding::Well(format!(
            "uid {} may have every token; `msi-token explain --uid USER --resource RESOURCE` judges for another user",
            caller.uid
        )),
        (false, 0) if status.units_unknown.is_some() => Finding::Note(
            format!("no rule without units is for you (uid {})", caller.uid),
            "One with units may be for the unit that you run in; --resource RESOURCE tries one token.".to_owned(),
        ),
        (false, 0) => Finding::Wrong(
            Exit::NotAllowed,
            format!(
                "no rule is for you (uid {}): every token is refused with 403{}",
                caller.uid,
                if caller.uid == 0 {
                    "; root needs a rule, because the configuration has access.root = \"rules\""
                } else {
                    ""
                }
            ),
            format!(
                "Add an [[allow]] rule, or your user to a group that has one, and log in anew; `msi-token explain --uid \
                 {} --resource RESOURCE` shows what each rule asks for.",
                caller.uid
            ),
        ),
        (false, rules) => Finding::Well(format!(
            "{} for you (uid {}); --resource RESOURCE tries one token",
            if rules == 1 {
                "1 rule is".to_owned()
            } else {
                format!("{rules} rules are")
            },
            caller.uid
        )),
    }
}

fn endpoint(status: &Status, probe: Result<Probe, Failure>, failing: bool) -> Vec<Finding> {
    let endpoint = &status.endpoint;
    let probe = match probe {
        Ok(probe) => probe,
        Err(failure) => {
            let what = format!(
                "the VM's endpoint {endpoint} cannot be reached from here: {}",
                failure.text
            );
            return vec![if failing || status.caller.uid == 0 {
                Finding::Wrong(Exit::TryLater, what, remedy::for_codes(&failure.codes()).to_owned())
            } else {
                let why = "No token fails: where a firewall lets only the daemon's user reach the endpoint, this is as \
                           it should be.";
                Finding::Note(what, why.to_owned())
            }];
        }
    };
    let mut findings = vec![Finding::Well(format!("the VM's endpoint {endpoint} answers"))];
    if let Some(why) = probe.stand_in {
        findings.push(Finding::Note(
            format!("the endpoint is a stand-in: {why}"),
            "Its tokens are worth nothing to Azure. On a real VM, remove upstream.endpoint from the configuration."
                .to_owned(),
        ));
    }
    findings.extend(probe.time.and_then(|time| skew(time, SystemClock.now().wall)));
    findings
}

fn skew(theirs: Duration, ours: Duration) -> Option<Finding> {
    let off = ours.abs_diff(theirs);
    (off > SKEW).then(|| {
        let (direction, harm) = if ours > theirs {
            ("ahead of", "tokens are taken for expired while they are good")
        } else {
            ("behind", "expired tokens are still served")
        };
        let off = humantime::format_duration(Duration::from_secs(off.as_secs()));
        Finding::Wrong(
            Exit::Other,
            format!("this machine's clock is {off} {direction} the endpoint's: {harm}"),
            "Set it: `timedatectl`, `chronyc tracking`.".to_owned(),
        )
    })
}

/// One finding for all tokens with the same remedy.
fn tokens(ready: &Ready) -> Vec<Finding> {
    let mut causes: Vec<(&str, Vec<&TokenHealth>)> = Vec::new();
    for token in ready.tokens.iter().filter(|token| token.failures > 0) {
        let remedy = remedy::for_codes(&token.codes);
        match causes.iter_mut().find(|(other, _)| *other == remedy) {
            Some((_, tokens)) => tokens.push(token),
            None => causes.push((remedy, vec![token])),
        }
    }
    let wrong = causes.into_iter().filter_map(|(remedy, tokens)| {
        let first = tokens.first()?;
        let more = match tokens.len() {
            1 => String::new(),
            all => format!(" (and {} more alike)", all - 1),
        };
        let what = format!("{} for {}: {}{more}", first.resource, first.identity, first.reason);
        Some(Finding::Wrong(Exit::Other, what, remedy.to_owned()))
    });
    let wrong: Vec<Finding> = wrong.collect();
    if !wrong.is_empty() {
        return wrong;
    }
    let ready_now = ready.tokens.iter().filter(|token| token.ready).count();
    vec![Finding::Well(match ready.tokens.len() {
        0 => "no token is kept warm, and none was asked for in the last hour".to_owned(),
        all => format!("{ready_now} of {all} tokens that are warm or in use can be served, and none fails"),
    })]
}

/// The lock, and what else on this machine gets in its way; `read` reads a file.
fn locked(lock: LockHealth, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
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
            "If they do not stay, another program manages the firewall: load the lock after it.".to_owned(),
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
fn root_passes(caller: &CallerStatus) -> Option<Finding> {
    (caller.uid == 0 && !caller.privileged).then(|| {
        Finding::Note(
            "root needs a rule here (access.root = \"rules\"), and the lock leaves root alone".to_owned(),
            "A process of root's gets every token from the metadata service itself, also one in a container with the \
             machine's network."
                .to_owned(),
        )
    })
}

async fn asked(daemon: &Daemon, key: &Key, uid: u32) -> Finding {
    let Err(failure) = get::once(daemon, key, Mode::Get).await else {
        return Finding::Well(format!("you get a token for {key}"));
    };
    let cure = match failure.exit {
        Exit::NotAllowed => format!(
            "`msi-token explain --uid {uid} --resource {}` shows what each rule asks for.",
            key.resource
        ),
        Exit::Unreachable => failure.advice.into_owned(),
        _ => remedy::for_codes(&failure.codes).to_owned(),
    };
    Finding::Wrong(failure.exit, failure.cause, cure)
}

/// A unit that keeps tokens in files.
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
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Finding {
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
    use crate::failure::{Codes, ErrorClass};
    use crate::key::Identity;

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
        assert!(lines(lock(Standing::Lost), &[])[0].starts_with("WRONG  the lock's firewall rules are gone"));
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

    #[test]
    fn a_clock_is_off_from_a_minute_on_and_the_direction_is_told() {
        let at = Duration::from_secs;
        assert!(skew(at(1000), at(1060)).is_none() && skew(at(1060), at(1000)).is_none());
        let text = |theirs, ours| skew(at(theirs), at(ours)).unwrap().lines(None).join(" ");
        assert!(text(1000, 1061).contains("clock is 1m 1s ahead of"));
        assert!(text(4000, 400).contains("clock is 1h behind"));
    }

    #[test]
    fn tokens_with_one_remedy_are_one_finding() {
        let token = |failures, reason: &str, codes| TokenHealth {
            resource: Resource::new("https://r/").unwrap(),
            identity: Identity::Default,
            ready: failures == 0,
            failures,
            reason: reason.to_owned(),
            warm: false,
            expires_in: 0,
            codes,
            problem: None,
        };
        let (restarting, faulty) = (Codes::from(ErrorClass::Restarting), Codes::from(ErrorClass::Faulty));
        let refused = "no token; the last request failed: connection refused";
        let found = |tokens| {
            super::tokens(&Ready {
                lock: None,
                problems: Vec::new(),
                tokens,
            })
        };
        let findings = found(vec![
            token(1, refused, restarting.clone()),
            token(0, "fine", Codes::default()),
            token(9, refused, restarting),
            token(1, "HTTP 500", faulty),
        ]);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(
            findings[0].lines(None)[0].contains("(and 1 more alike)"),
            "{findings:?}"
        );
        assert!(found(vec![token(0, "fine", Codes::default())])[0].exit().is_none());
    }
}
