//! What the service manager is told (`sd_notify(3)`): ready, that we live, how we are, stopping. Outside systemd there
//! is nobody to tell.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, warn};

/// The status line is looked at this often.
const PERIOD: Duration = Duration::from_secs(5);

/// Configured, and callers are accepted.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// No more callers are accepted.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog for as long as `alive` holds, and keeps the line of `systemctl status` as `line` has it. Never
/// returns.
pub async fn keep_informed(alive: impl Fn() -> bool, line: impl Fn() -> String) {
    let pause = sd_notify::watchdog_enabled().map_or(PERIOD, |limit| PERIOD.min(limit / 2));
    let mut was_alive = true;
    let mut told = String::new();
    loop {
        let alive = alive();
        if alive {
            tell(&[NotifyState::Watchdog]);
        } else if was_alive {
            error!("the accept loop or the broker stands still: the watchdog is no longer fed and ends this process");
        }
        was_alive = alive;
        let line = line();
        if line != told {
            tell(&[NotifyState::Status(&line)]);
            told = line;
        }
        tokio::time::sleep(pause).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd cannot be told how we are");
    }
}
