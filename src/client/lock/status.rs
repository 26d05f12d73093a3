//! `lock status`: whether the lock is there, and what it saw.

use std::process::ExitCode;
use std::time::Duration;

use nix::unistd::{Uid, User};

use super::nft::list_table;
use super::packet_counts::PacketCounts;
use crate::client::connection::Daemon;
use crate::client::error::ClientError;
use crate::client::{output, ready, status, table};
use crate::config::LockMode;
use crate::observe::evidence::{Break, Gap, MissingRule, Tally};
use crate::observe::lock::{LockHealth, Standing, loaded_mode};
use crate::observe::status::LockStatus;

/// Prints it. Everybody sees whether the lock is there, and root what it saw.
pub async fn run(daemon: &Daemon) -> Result<ExitCode, ClientError> {
    let Some(mode) = loaded_mode() else {
        let off = "The lock is not loaded: every user reaches the metadata service by itself. To switch it on: `systemctl \
                   enable --now msi-tokend-lock.service`.";
        output::line(&[off.as_bytes()])?;
        return Ok(ExitCode::from(3));
    };
    let ready = ready::get(daemon).await;
    let (state, code) = standing(mode, ready.as_ref().map(|ready| ready.lock));
    let mut lines = vec![state];
    if let Ok(status) = status::get(daemon).await
        && let Some(lock) = status.lock
    {
        lines.extend(seen(&lock));
    }
    if let Ok(table) = list_table() {
        lines.extend(beside(PacketCounts::of(&table)));
    }
    output::line(&[lines.join("\n").as_bytes()])?;
    Ok(ExitCode::from(code))
}

fn standing(mode: LockMode, lock: Result<Option<LockHealth>, &ClientError>) -> (String, u8) {
    let does = match mode {
        LockMode::Observe => "observing: nothing is denied",
        LockMode::Enforce => "enforcing",
    };
    let unknown = |why: &str| {
        (
            format!("The lock is loaded, {does}. Whether it works is not known: {why}."),
            1,
        )
    };
    match lock {
        Err(failure) => unknown(failure.cause.trim_end_matches('.')),
        Ok(None) => unknown(
            "the daemon does not look at it yet, as in the first ten seconds; if that lasts, `systemctl restart msi-tokend` lets it \
             take the lock's socket over",
        ),
        Ok(Some(lock)) => match (lock.state, lock.problem()) {
            (Standing::Locked, _) => (format!("The lock is loaded and works, {does}."), 0),
            (Standing::Lost, Some(problem)) => (format!("The lock is lost: {problem}."), 2),
            (Standing::Unknown, Some(problem)) => unknown(problem),
            _ => unknown("the daemon has not looked at it often enough yet"),
        },
    }
}

fn seen(lock: &LockStatus) -> Vec<String> {
    let mut lines = vec![observed(lock)];
    if !lock.missing.is_empty() {
        let what = match lock.mode {
            LockMode::Observe => "Enforcing would deny these; `msi-token suggest` prints the rules that are missing:",
            LockMode::Enforce => "While it observed these asked for tokens that no rule allows:",
        };
        lines.push(what.to_owned());
        lines.extend(missing(&lock.missing));
    }
    if !lock.breaks.is_empty() {
        lines.push(
            "Enforcing would refuse these requests, which the metadata service answers; no rule helps:".to_owned(),
        );
        let row = |Break { uid, unit, reason }: &Break| [who(*uid, unit.as_deref()), reason.clone()];
        let rows: Vec<_> = lock.breaks.iter().map(row).collect();
        lines.extend(indented(&rows));
    }
    if !lock.users.is_empty() {
        lines.push("By the lock came, since the daemon's start:".to_owned());
        let head = ["USER", "TOKENS", "PASSED ON", "REFUSED"].map(str::to_owned);
        let row = |(uid, tally): (&u32, &Tally)| {
            let Tally {
                tokens,
                passed_on,
                refused,
            } = tally;
            [
                who(*uid, None),
                tokens.to_string(),
                passed_on.to_string(),
                refused.to_string(),
            ]
        };
        let rows: Vec<_> = std::iter::once(head).chain(lock.users.iter().map(row)).collect();
        lines.extend(indented(&rows));
    }
    lines
}

/// How much is known.
pub fn observed(lock: &LockStatus) -> String {
    let before = match lock.gap {
        Gap::Start => "the daemon started",
        Gap::NotThere => "it was off, lost or enforcing",
        Gap::AuditOff => "log.audit was off",
        Gap::TooMany => "more happened than is recorded, or records were lost",
        Gap::Other => "something else was amiss",
    };
    match lock.observed {
        Some(seconds) => {
            let time = humantime::format_duration(Duration::from_secs(seconds));
            format!("It has observed for {time} without a gap; before that {before}.")
        }
        None => format!("It does not observe now: {before}."),
    }
}

/// A line for each.
pub fn missing(missing: &[MissingRule]) -> Vec<String> {
    let row = |missing: &MissingRule| {
        let unit = missing.unit.as_deref();
        [
            who(missing.uid, unit),
            missing.resource.to_string(),
            missing.identity.to_string(),
        ]
    };
    indented(&missing.iter().map(row).collect::<Vec<_>>())
}

/// What msi-tokend's rules are not about.
pub fn beside(counters: PacketCounts) -> Vec<String> {
    let PacketCounts { forwarded, others } = counters;
    let mut lines = Vec::new();
    if forwarded > 0 {
        lines.push(format!(
            "From network bridges {forwarded} packets went to 169.254.169.254 since the rules were loaded: enforcing rejects \
             them, and no rule helps. Give those containers the socket: /run/msi-tokend/msi-tokend.sock."
        ));
    }
    if others > 0 {
        lines.push(format!(
            "To other ports of 169.254.169.254, by other protocols, or by connections older than the lock, went {others} \
             packets: enforcing rejects them, and no rule helps."
        ));
    }
    lines
}

fn indented<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    table::lines(rows).iter().map(|line| format!("  {line}")).collect()
}

fn who(uid: u32, unit: Option<&str>) -> String {
    let account = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let user = account.map_or_else(|| format!("uid {uid}"), |user| format!("{} ({uid})", user.name));
    match unit {
        Some(unit) => format!("{user} in {unit}"),
        None => user,
    }
}
