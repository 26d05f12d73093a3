//! `lock try`: the lock for a while. Whatever happens meanwhile, systemd takes it away.

use std::time::Duration;

use clap::Args;

use super::nft::systemd;
use crate::client::error::{ClientError, Exit};
use crate::client::output;
use crate::config::duration;
use crate::observe::lock::loaded_mode;

const TIMER: &str = "msi-tokend-lock-try";
const UNIT: &str = "msi-tokend-lock.service";

#[derive(Args)]
pub struct Arguments {
    /// For how long.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    time: Duration,
}

/// Switches it on, and says until when.
pub fn run(arguments: &Arguments) -> Result<(), ClientError> {
    if loaded_mode().is_some() {
        let advice =
            "`msi-token lock status` says how it is, and `systemctl disable --now msi-tokend-lock.service` ends it.";
        return Err(ClientError::new(
            Exit::Other,
            "the lock is on already, and a trial would end it",
            advice,
        ));
    }
    // First, so that there is no moment in which nothing would end it. It ends with the lock, or it would end a later one.
    systemd(
        "systemd-run",
        &[
            "--quiet",
            "--collect",
            &format!("--unit={TIMER}"),
            &format!("--on-active={}s", arguments.time.as_secs()),
            // Else up to a minute later.
            "--timer-property=AccuracySec=1s",
            &format!("--timer-property=PartOf={UNIT}"),
            "systemctl",
            "stop",
            UNIT,
        ],
    )?;
    if let Err(failure) = systemd("systemctl", &["start", UNIT, "msi-tokend-lock-repair.path"]) {
        _ = systemd("systemctl", &["stop", &format!("{TIMER}.timer")]);
        return Err(failure);
    }
    let note = format!(
        "The lock is on for {}. To end it now: `systemctl stop {UNIT}`. To keep it: `systemctl stop {TIMER}.timer && \
         systemctl enable {UNIT}`.",
        humantime::format_duration(arguments.time)
    );
    output::line(&[note.as_bytes()])
}
