//! The members of `/ready` that the client reads. Everybody may read `/ready`.

use std::time::Duration;

use serde::Deserialize;

use super::connection::Daemon;
use super::error::{ClientError, Exit};
use crate::observe::health::TokenHealth;
use crate::observe::lock::LockHealth;

/// The other members are not read: they are for people, and a newer version may have more states.
#[derive(Deserialize)]
pub struct Ready {
    /// What is wrong with the daemon as a whole.
    pub problems: Vec<String>,
    /// The lock, where it is switched on.
    #[serde(default)]
    pub lock: Option<LockHealth>,
    /// The warm tokens, and those that somebody asked for within the last hour.
    pub tokens: Vec<TokenHealth>,
}

/// The daemon answers this from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the daemon is, ready or not.
pub async fn get(daemon: &Daemon) -> Result<Ready, ClientError> {
    let answer = daemon.answer("/ready", PATIENCE).await?;
    serde_json::from_slice(&answer.body).map_err(|error| {
        ClientError::new(
            Exit::Other,
            format!("the daemon's readiness has an unknown form: {error}"),
            "Compare `msi-tokend --version` with `msi-token --version`.",
        )
    })
}
