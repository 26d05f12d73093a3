//! The members of `/ready` that the client reads. Everybody may read `/ready`.

use serde::Deserialize;

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
