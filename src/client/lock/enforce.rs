//! `lock enforce`: from observing to enforcing, once it is known whom that denies what.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::nft::{list_table, systemd};
use super::packet_counts::PacketCounts;
use super::status::{beside, missing, observed};
use crate::client::connection::Daemon;
use crate::client::error::{ClientError, Exit, tell};
use crate::client::{output, ready, reload, status};
use crate::config::{self, LockMode};
use crate::observe::evidence::ENOUGH;
use crate::observe::lock::{Standing, loaded_mode};
use crate::observe::status::LockStatus;
use crate::replace::replace_at;

/// In conf.d beside the configuration file.
const FILE: &str = "90-lock.toml";
const TEXT: &str = "# Written by `msi-token lock enforce`.\n[lock]\nmode = \"enforce\"\n";
/// Until the daemon has seen the rules of the new mode. It looks every ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Arguments {
    /// Whatever is missing: only say what.
    #[arg(long)]
    force: bool,
    /// The daemon's configuration file; the mode is written to conf.d/90-lock.toml beside it.
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Returns once the mode is in effect.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), ClientError> {
    // Rules that were written just now count.
    reload::run(daemon).await?;
    let not_loaded = || {
        let advice = "`systemctl enable --now msi-tokend-lock.service` switches it on, to observe first.";
        ClientError::new(Exit::Other, "the lock is not loaded", advice)
    };
    loaded_mode().ok_or_else(not_loaded)?;
    let lock = status::get(daemon).await?.lock.ok_or_else(not_loaded)?;
    if lock.mode == LockMode::Observe {
        check(&lock, arguments.force)?;
        switch(daemon, &arguments.config).await?;
    }
    systemd("systemctl", &["reload", "msi-tokend-lock.service"])?;
    let begin = Instant::now();
    while !is_in_effect(daemon).await? {
        if begin.elapsed() > PATIENCE {
            return Err(ClientError::new(
                Exit::Other,
                "the daemon enforces, and the firewall rules of that mode are not seen yet",
                "`msi-token lock status` says how it is.",
            ));
        }
        sleep(Duration::from_secs(1)).await;
    }
    output::line(&[b"The lock enforces the rules. `msi-token lock status` shows who is refused."])
}

async fn is_in_effect(daemon: &Daemon) -> Result<bool, ClientError> {
    let lock = ready::get(daemon).await?.lock;
    let is_locked = lock.is_some_and(|lock| (lock.state, lock.mode) == (Standing::Locked, LockMode::Enforce));
    Ok(is_locked && loaded_mode() == Some(LockMode::Enforce))
}

/// Whether it is known whom it denies what, and nobody is.
fn check(lock: &LockStatus, force: bool) -> Result<(), ClientError> {
    let reasons = reasons(lock);
    for line in reasons
        .iter()
        .flat_map(|(reason, lines)| std::iter::once(reason).chain(lines))
    {
        tell(line);
    }
    // These are no reason, since no rule can help.
    if !lock.breaks.is_empty() {
        tell("Enforcing would refuse requests that the metadata service answers: `msi-token lock status` shows them.");
    }
    if let Ok(table) = list_table() {
        for line in beside(PacketCounts::of(&table)) {
            tell(&line);
        }
    }
    if reasons.is_empty() || force {
        return Ok(());
    }
    Err(ClientError::new(
        Exit::TryLater,
        "not enforced, because of what is said above",
        "Mend it, or wait; --force enforces all the same.",
    ))
}

/// Why not to enforce yet, each with its details.
fn reasons(lock: &LockStatus) -> Vec<(String, Vec<String>)> {
    let mut reasons = Vec::new();
    if lock.observed.is_none_or(|seconds| seconds < ENOUGH.as_secs()) {
        reasons.push((
            format!(
                "{} It takes {} h to see the jobs of a day.",
                observed(lock),
                ENOUGH.as_secs() / 3600
            ),
            Vec::new(),
        ));
    }
    if !lock.missing.is_empty() {
        let what = "no rule allows these what they asked for; `msi-token suggest` prints the rules:";
        reasons.push((what.to_owned(), missing(&lock.missing)));
    }
    reasons
}

/// Writes the file and has the daemon read it. Where it does not take it, the file is as it was before.
async fn switch(daemon: &Daemon, main: &Path) -> Result<(), ClientError> {
    let path = main.with_file_name("conf.d").join(FILE);
    let written = |error| ClientError::system(&format!("write {}", path.display()), &error);
    let before = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(written(error)),
    };
    if before.as_deref().is_some_and(|text| !has_the_mode_alone(text)) {
        return Err(ClientError::new(
            Exit::Configuration,
            format!("{} has other settings, which would be lost", path.display()),
            "Set lock.mode to \"enforce\" there yourself, then `systemctl reload msi-tokend`.",
        ));
    }
    replace_at(&path, TEXT.as_bytes(), 0o644).map_err(written)?;
    let taken = match reload::run(daemon).await {
        Ok(()) => status::get(daemon).await,
        Err(failure) => Err(failure),
    };
    let failure = match taken {
        Ok(status) if status.lock.as_ref().is_some_and(|lock| lock.mode == LockMode::Enforce) => return Ok(()),
        Ok(_) => ClientError::new(
            Exit::Configuration,
            format!(
                "{} does not decide: a later file sets lock.mode, or the daemon reads others",
                path.display()
            ),
            "`msi-tokend --check` shows where the value comes from.",
        ),
        Err(failure) => failure,
    };
    match before {
        Some(text) => replace_at(&path, text.as_bytes(), 0o644).map_err(written)?,
        None => fs::remove_file(&path).map_err(written)?,
    }
    _ = reload::run(daemon).await;
    Err(failure)
}

fn has_the_mode_alone(text: &str) -> bool {
    let table: toml::Table = text.parse().unwrap_or_default();
    let lock = table.get("lock").and_then(toml::Value::as_table);
    table.len() == 1 && lock.is_some_and(|lock| lock.len() == 1 && lock.contains_key("mode"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::observe::evidence::{Gap, MissingRule};

    #[test]
    fn it_takes_a_day_without_a_gap_and_no_missing_rule() {
        let day = ENOUGH.as_secs();
        let missing = MissingRule {
            uid: 4_000_000,
            unit: Some("a.service".to_owned()),
            resource: "https://a/".to_owned().try_into().unwrap(),
            identity: "default".to_owned().try_into().unwrap(),
        };
        for (observed, missing, wanted) in [
            (Some(day), vec![], 0),
            (Some(day - 1), vec![], 1),
            (None, vec![], 1),
            (Some(day), vec![missing.clone()], 1),
            (Some(0), vec![missing], 2),
        ] {
            let lock = LockStatus {
                mode: LockMode::Observe,
                observed,
                gap: Gap::AuditOff,
                missing,
                breaks: Vec::new(),
                users: BTreeMap::new(),
            };
            let reasons = reasons(&lock);
            assert_eq!(reasons.len(), wanted, "{reasons:?}");
            assert_eq!(check(&lock, false).is_ok(), wanted == 0);
            assert!(check(&lock, true).is_ok());
            if observed.is_none() {
                assert!(reasons[0].0.contains("log.audit was off"), "{reasons:?}");
            }
            if let Some((_, lines)) = reasons.iter().find(|(_, lines)| !lines.is_empty()) {
                assert_eq!(lines, &["  uid 4000000 in a.service  https://a/  default"]);
            }
        }
    }

    #[test]
    fn a_file_with_other_settings_is_not_written_over() {
        for (text, is) in [
            (TEXT, true),
            ("[lock]\nmode = \"observe\"", true),
            ("lock.mode = \"observe\"", true),
            ("[lock]\nmode = \"observe\"\npass = \"none\"", false),
            ("[lock]\nmode = \"observe\"\n[log]\n", false),
            ("no toml", false),
            ("", false),
        ] {
            assert_eq!(has_the_mode_alone(text), is, "{text}");
        }
    }
}
