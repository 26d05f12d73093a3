//! `status`: what is cached, for people and scripts.

use std::time::Duration;

use clap::Args;
use hyper::StatusCode;
use serde::Deserialize;

use super::connection::Daemon;
use super::failure::{Exit, Failure};
use super::{output, table};

/// The daemon answers this from memory.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct Arguments {
    /// Print the daemon's whole answer.
    #[arg(long)]
    json: bool,
}

/// What is shown of `/status`.
#[derive(Deserialize)]
struct Status {
    now: u64,
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    resource: String,
    identity: String,
    expires_in: u64,
    next_try: u64,
    last_error: Option<String>,
    hits: u64,
}

/// Prints the list.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), Failure> {
    let answer = daemon.answer("/status", PATIENCE).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure("no status"));
    }
    if arguments.json {
        return output::line(&[&answer.body]);
    }
    let status: Status = serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::new(
            Exit::Other,
            format!("the daemon's status cannot be understood: {error}"),
            "",
        )
    })?;
    output::line(&[rendered(&status).as_bytes()])
}

fn rendered(status: &Status) -> String {
    let mut rows = vec![
        [
            "RESOURCE",
            "IDENTITY",
            "EXPIRES IN",
            "NEXT TRY IN",
            "HITS",
            "LAST ERROR",
        ]
        .map(str::to_owned),
    ];
    rows.extend(status.tokens.iter().map(|token| {
        let expires = match token.expires_in {
            0 => "no token".to_owned(),
            left => seconds(left),
        };
        [
            token.resource.clone(),
            token.identity.clone(),
            expires,
            seconds(token.next_try.saturating_sub(status.now)),
            token.hits.to_string(),
            token.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    table::lines(&rows).join("\n")
}

fn seconds(count: u64) -> String {
    humantime::format_duration(Duration::from_secs(count)).to_string()
}
