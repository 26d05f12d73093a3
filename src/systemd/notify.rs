//! The daemon's state, as it is told to systemd (`sd_notify(3)`): ready, alive, the status line, stopping. Changes of state are also
//! logged.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::message::notify;
use crate::observe::events;
use crate::observe::health::{Health, State};

/// A message that systemd did not read is sent again after this time; without it systemd would take a start for failed, or
/// the daemon for dead.
const SOON: Duration = Duration::from_millis(500);
/// The state is looked at this often.
const PERIOD: Duration = Duration::from_secs(5);

/// Tells systemd that the daemon stops.
pub fn stopping() {
    // A stop does not wait for systemd to read this.
    _ = tell(NotifyState::Stopping);
}

/// Tells systemd that the daemon is ready, feeds the watchdog while the daemon's loops run, keeps the status line of
/// `systemctl status`, and logs each change of state. Callers are accepted when this begins. Never returns.
pub async fn keep_informed<H: Future<Output = Health>>(health: impl Fn() -> H) {
    let pause = sd_notify::watchdog_enabled().map_or(PERIOD, |limit| PERIOD.min(limit / 2));
    let mut spare = spare_descriptor();
    // What systemd has read so far; it may not read for a while.
    let mut ready = false;
    let mut told = String::new();
    let mut logged = State::Ok;
    loop {
        let health = health().await;
        // Each message takes a descriptor for a moment. One is kept for it; without it systemd would take a daemon that is out
        // of descriptors for dead.
        drop(spare.take());
        let mut unread = false;
        let mut tell = |state: NotifyState<'_>| {
            let result = tell(state);
            unread |= result
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            result.is_ok()
        };
        ready = ready || tell(NotifyState::Ready);
        if health.live {
            tell(NotifyState::Watchdog);
        }
        let line = health.line();
        // A first request that is under way is no change of state.
        if health.state != logged && health.state != State::Waiting {
            log(health.state, &line);
            logged = health.state;
        }
        if line != told && tell(NotifyState::Status(&line)) {
            told = line;
        }
        spare = spare_descriptor();
        tokio::time::sleep(if unread { SOON.min(pause) } else { pause }).await;
    }
}

fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

fn log(state: State, line: &str) {
    let (message_id, outcome) = (events::HEALTH_CHANGED, state.name());
    match state {
        State::Stuck => error!(
            message_id,
            outcome, "{line}; the watchdog is no longer fed and ends this process"
        ),
        State::NotReady => error!(message_id, outcome, "{line}"),
        State::Degraded => warn!(message_id, outcome, "{line}"),
        State::Ok | State::Waiting => info!(message_id, outcome, "well again: {line}"),
    }
}

/// A failure to send is logged once, until a message is sent again.
fn tell(state: NotifyState<'_>) -> io::Result<()> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let result = notify(&[state], &[]);
    let said = SAID.swap(result.is_err(), Ordering::Relaxed);
    if let Err(error) = &result
        && !said
    {
        warn!(%error, "systemd cannot be told the daemon's state");
    }
    result
}
