//! `explain`: judges the configuration files off line, as the daemon would judge a request.

use std::ffi::CString;
use std::fmt::Display;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::connection::service_user;
use super::error::{ClientError, Exit, tell};
use super::selection::Selection;
use super::{output, table};
use crate::access::{Caller, Grant, Part, Rules, gid_of, rule_for, uid_of};
use crate::config::{self, Account, Allow, RootAccess};
use crate::key::{Key, Resource};

#[derive(Args)]
pub struct Arguments {
    /// The configuration file; conf.d/*.toml beside it is read after it.
    #[arg(long, value_name = "PATH", default_value = "/etc/msi-tokend/config.toml")]
    config: PathBuf,
    /// Who calls: a uid, or a user's name.
    #[arg(long, value_parser = uid)]
    uid: u32,
    /// A group the caller is in, by id or name; may be repeated. Without any: the groups that its account has.
    #[arg(long, value_parser = gid)]
    gid: Vec<u32>,
    /// The systemd unit that the caller runs in, such as nightly-backup.service.
    #[arg(long)]
    unit: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

/// Prints each rule with the parts of it that do not match, then the verdict.
pub fn run(arguments: &Arguments) -> Result<(), ClientError> {
    let config = config::load(&arguments.config).map_err(|problems| {
        for problem in problems.iter() {
            tell(&problem.to_string());
        }
        ClientError::quiet(Exit::Configuration)
    })?;
    let allow = &config.config.allow;
    let root = config.config.access.root;
    let (rules, doubts) = Rules::resolve(allow, root, service_user().map_or(0, |user| user.uid.as_raw()));
    for doubt in doubts {
        tell(&format!("warning: {doubt}"));
    }
    let groups = if arguments.gid.is_empty() {
        groups_of(arguments.uid)
    } else {
        arguments.gid.clone()
    };
    let mut key = arguments.selection.key()?;
    let caller = Caller::described(arguments.uid, groups.clone(), arguments.unit.clone());
    let mut token = format!("token:  {key}");
    if let Some((identity, origin)) = rules.default_for(&caller, &key) {
        token = format!(
            "token:  {} for {identity}, which {origin} gives where none is named",
            key.resource
        );
        key.identity = identity.clone();
    }
    let mut lines = vec![
        format!(
            "caller: uid {}, {}, {}",
            user(arguments.uid),
            listed("groups", &groups.iter().map(|gid| group(*gid)).collect::<Vec<_>>()),
            arguments
                .unit
                .as_ref()
                .map_or_else(|| "no unit".to_owned(), |unit| format!("unit {unit}")),
        ),
        token,
        String::new(),
    ];
    if !allow.is_empty() {
        lines.extend(each_rule(&rules, allow, &caller, &key));
        lines.push(String::new());
    }
    let verdict = rules.judge(&caller, &key);
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
    if verdict.is_none() && arguments.uid == 0 {
        lines.push("root needs a rule, because the configuration has access.root = \"rules\"".to_owned());
    }
    if verdict.is_none() {
        let account = User::from_uid(Uid::from_raw(arguments.uid)).ok().flatten();
        let account = account.as_ref().map(|user| user.name.as_str());
        if let Some(rule) = rule_for(arguments.uid, account, caller.unit(), &key) {
            lines.push(format!(
                "\n# This rule would allow it, as /etc/msi-tokend/conf.d/NAME.toml:\n{}",
                rule.trim_end()
            ));
        }
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

fn each_rule(rules: &Rules, allow: &[Allow], caller: &Caller, key: &Key) -> Vec<String> {
    let mut rows = vec![["RULE".to_owned(), "VERDICT".to_owned()]];
    rows.extend(
        rules
            .explain(caller, key)
            .iter()
            .zip(allow)
            .map(|((rule, parts), allow)| {
                let reasons: Vec<String> = parts.iter().map(|part| reason(*part, allow, caller, key)).collect();
                let verdict = if reasons.is_empty() {
                    "allows".to_owned()
                } else {
                    format!("does not match: {}", reasons.join("; "))
                };
                [rule.origin.to_string(), verdict]
            }),
    );
    table::lines(&rows)
}

/// What the rule asks for, and what a reader may have overlooked.
fn reason(part: Part, allow: &Allow, caller: &Caller, key: &Key) -> String {
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
        Part::Units if caller.unit().is_none() => wanted + " (no --unit given)",
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

fn listed(what: &str, items: &[impl Display]) -> String {
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
