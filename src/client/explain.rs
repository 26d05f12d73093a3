//! `explain`: judges a request by the configuration files, without the daemon.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::unistd::{Uid, User};
use tokio::time::timeout;

use super::connection::Daemon;
use super::described::{CallerOptions, Described, listed};
use super::error::{ClientError, Exit, tell};
use super::forms::instant;
use super::selection::Selection;
use super::terminal::wrapped;
use super::{output, status, table, terminal};
use crate::access::{Grant, Part, Rules, proposed_rule};
use crate::config::{self, Allow, RootAccess};
use crate::key::{Key, Resource};
use crate::observe::status::ConfigurationStatus;

/// The files are judged also where the daemon does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct Arguments {
    /// The configuration file; conf.d/*.toml beside it is read after it.
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(flatten)]
    caller: CallerOptions,
    #[command(flatten)]
    selection: Selection,
}

/// Prints each rule with the parts of it that do not match, then the verdict.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), ClientError> {
    let loaded = config::load(&arguments.config).map_err(|problems| {
        for problem in problems.iter() {
            tell(&problem.to_string());
        }
        ClientError::quiet(Exit::Configuration)
    })?;
    let allow = &loaded.config.allow;
    let root = loaded.config.access.root;
    let (rules, doubts) = Rules::resolve(allow, root, config::service_user().map_or(0, |user| user.uid.as_raw()));
    for doubt in doubts {
        tell(&format!("warning: {doubt}"));
    }
    let described = arguments.caller.describe(&rules)?;
    let caller = &described.caller;
    let mut key = arguments.selection.key()?;
    let mut token = format!("token:  {key}");
    if let Some((identity, origin)) = rules.default_for(caller, &key) {
        token = format!(
            "token:  {} for {identity}, which {origin} gives where none is named",
            key.resource
        );
        key.identity = identity.clone();
    }
    let mut lines = vec![format!("caller: {}", described.text), token];
    lines.extend(described.notes.iter().map(|note| format!("note:   {note}")));
    if let Some(note) = running(daemon, &loaded.hash).await {
        lines.push(format!("note:   {note}"));
    }
    let width = terminal::width();
    lines = lines.iter().map(|line| wrapped(line, width, 8)).collect();
    lines.push(String::new());
    if !allow.is_empty() {
        lines.extend(each_rule(&rules, allow, &described, &key, width));
        lines.push(String::new());
    }
    let verdict = rules.judge(caller, &key);
    lines.push(match &verdict {
        Some(Grant::Privileged) => {
            format!("allowed: {} may have any token, rules or not", without_a_rule(root))
        }
        Some(Grant::Rule(rule)) => format!("allowed by {}", rule.origin),
        None if allow.is_empty() => format!(
            "denied: there is no [[allow]] rule, and without a rule nobody but {} gets a token",
            without_a_rule(root)
        ),
        None => "denied: no rule matches".to_owned(),
    });
    if verdict.is_none() && caller.uid == 0 {
        lines.push("root needs a rule, because the configuration has access.root = \"rules\"".to_owned());
    }
    if verdict.is_none() {
        let account = User::from_uid(Uid::from_raw(caller.uid)).ok().flatten();
        let account = account.as_ref().map(|user| user.name.as_str());
        let rule = proposed_rule(caller.uid, account, caller.unit(), &key);
        lines.push(format!("\n{rule}"));
    }
    output::line(&[lines.join("\n").as_bytes()])?;
    verdict.map(|_| ()).ok_or_else(|| ClientError::quiet(Exit::NotAllowed))
}

/// Who gets tokens without a rule.
fn without_a_rule(root: RootAccess) -> &'static str {
    match root {
        RootAccess::Any => "root and the daemon's own user",
        RootAccess::Rules => "the daemon's own user",
    }
}

/// What to say where a daemon runs that has loaded other files. One that cannot be asked has loaded none.
async fn running(daemon: &Daemon, hash: &str) -> Option<String> {
    let status = timeout(PATIENCE, status::get(daemon)).await.ok()?.ok()?;
    let ConfigurationStatus {
        hash: loaded,
        loaded_at,
    } = status.configuration?;
    let at = instant(loaded_at);
    (loaded != hash).then(|| {
        format!(
            "the daemon that runs has loaded other files than these (at {at}) and judges by those; \
             `systemctl reload msi-tokend` loads those in /etc/msi-tokend"
        )
    })
}

fn each_rule(rules: &Rules, allow: &[Allow], described: &Described, key: &Key, width: Option<usize>) -> Vec<String> {
    let mut rows = vec![["RULE".to_owned(), "VERDICT".to_owned()]];
    rows.extend(
        rules
            .explain(&described.caller, key)
            .iter()
            .zip(allow)
            .map(|((rule, parts), allow)| {
                let reasons: Vec<String> = parts.iter().map(|part| reason(*part, allow, described, key)).collect();
                let verdict = if reasons.is_empty() {
                    "allows".to_owned()
                } else {
                    format!("does not match: {}", reasons.join("; "))
                };
                [rule.origin.to_string(), verdict]
            }),
    );
    let table = table::lines(&rows);
    if table::fits(&table, width) {
        return table;
    }
    let rows = rows.iter().skip(1);
    rows.flat_map(|[rule, verdict]| [rule.clone(), wrapped(&format!("    {verdict}"), width, 6)])
        .collect()
}

/// What the rule demands, with a hint at a likely mistake.
fn reason(part: Part, allow: &Allow, described: &Described, key: &Key) -> String {
    let caller = &described.caller;
    let wanted = match part {
        Part::Users if allow.users.is_none() => {
            return format!(
                "users: uid {} stands for every unmapped user and must be named",
                caller.uid
            );
        }
        Part::Users => listed("users", allow.users.as_deref().unwrap_or_default()),
        Part::Groups => listed("groups", allow.groups.as_deref().unwrap_or_default()),
        Part::Units => listed("units", allow.units.as_deref().unwrap_or_default()),
        Part::Resources => {
            let resources = allow.resources.as_deref().unwrap_or_default();
            let hint = if resources.iter().any(|resource| nearly(resource, &key.resource)) {
                " (nearly: upper and lower case count, only one slash at the end does not, and /.default belongs to a scope)"
            } else {
                ""
            };
            listed("resources", resources) + hint
        }
        Part::Identities => listed("identities", allow.identities.as_deref().unwrap_or_default()),
    };
    match part {
        Part::Units if described.unit_is_unknown => wanted + " (the caller's is not known there)",
        Part::Units if caller.unit().is_none() => wanted + " (the caller has none)",
        _ => wanted,
    }
}

fn nearly(a: &Resource, b: &Resource) -> bool {
    let bare = |resource: &Resource| {
        let text = resource.as_str().to_ascii_lowercase();
        let audience = text.strip_suffix("/.default").unwrap_or(&text);
        audience.trim_end_matches('/').to_owned()
    };
    bare(a) == bare(b)
}
