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
use super::get::{self, Mode};
use super::probe::Probe;
use super::ready::Ready;
use super::selection::IdentityOptions;
use super::{lock, output, probe, remedy, surroundings, terminal};
use crate::clock::{Clock, SystemClock};
use crate::failure::Failure;
use crate::key::{Key, Resource};
use crate::observe::health::TokenHealth;
use crate::observe::status::Status;

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
    findings.push(surroundings::proxies(|name| std::env::var(name).ok()));
    findings.extend(surroundings::kept_files());
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
            .flat_map(|lock| surroundings::locked(lock, |path| fs::read_to_string(path).ok())),
    );
    findings.extend(ready.lock.and_then(|_| surroundings::root_passes(&status.caller)));
    findings.extend(lock::findings(ready.lock.is_some()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Codes, ErrorClass};
    use crate::key::Identity;

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
