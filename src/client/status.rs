//! `status`: lists the cached tokens, for people and scripts.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::connection::Daemon;
use super::error::{ClientError, Exit};
use super::listing::{Listing, Look};
use super::{output, terminal};
use crate::observe::status::Status;

/// The daemon answers this from memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two lists of --watch.
const PAUSE: Duration = Duration::from_secs(2);
/// Moves the cursor to the upper left corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Args)]
pub struct Arguments {
    /// Print the daemon's whole answer as JSON, in the form that msi-token(1) describes.
    #[arg(long)]
    json: bool,
    /// Print it every two seconds, until interrupted.
    #[arg(long)]
    watch: bool,
}

/// Prints the list.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), ClientError> {
    if !arguments.watch {
        return output::line(&[&once(daemon, arguments).await?]);
    }
    let clear = if stdout().is_terminal() { CLEAR } else { "" };
    loop {
        // --watch goes on while the daemon is away, and shows the error.
        let text = once(daemon, arguments)
            .await
            .unwrap_or_else(|failure| failure.to_string().into());
        output::line(&[clear.as_bytes(), &text])?;
        sleep(PAUSE).await;
    }
}

async fn once(daemon: &Daemon, arguments: &Arguments) -> Result<Vec<u8>, ClientError> {
    let body = body(daemon).await?;
    if arguments.json {
        return Ok(body.to_vec());
    }
    Ok(Listing(understood(&body)?).render(&look()).into())
}

/// What the daemon says of itself.
pub async fn get(daemon: &Daemon) -> Result<Status, ClientError> {
    understood(&body(daemon).await?)
}

async fn body(daemon: &Daemon) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let answer = daemon.answer("/status", PATIENCE).await?;
    if answer.status != StatusCode::OK {
        return Err(ClientError::of_answer(&answer, "no status"));
    }
    Ok(answer.body)
}

fn understood(body: &[u8]) -> Result<Status, ClientError> {
    serde_json::from_slice(body).map_err(|error| {
        ClientError::new(
            Exit::Other,
            format!("the daemon's status has an unknown form: {error}"),
            "Compare `msi-tokend --version` with `msi-token --version`. --json prints the status unread.",
        )
    })
}

fn look() -> Look {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    Look {
        width: terminal::width(),
        colour: stdout().is_terminal() && !plain,
    }
}
