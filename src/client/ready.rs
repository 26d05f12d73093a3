//! What is read of `/ready`, which shows everybody the tokens that are warm or in use.

use serde::Deserialize;

/// The daemon as it sees itself.
#[derive(Deserialize)]
pub struct Ready {
    /// What is wrong with the daemon as a whole.
    pub problems: Vec<String>,
    pub tokens: Vec<Token>,
}

#[derive(Deserialize)]
pub struct Token {
    pub resource: String,
    pub identity: String,
    pub warm: bool,
    pub ready: bool,
    pub expires_in: u64,
    pub failures: u64,
    pub reason: String,
}
