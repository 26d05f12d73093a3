//! `reload`: has the daemon read its configuration again, and waits for what became of it.
//!
//! A signal would do the former but not the latter: `systemctl reload` could not fail on a bad file.

use std::time::Duration;

use hyper::StatusCode;

use super::connection::Daemon;
use super::error::{ClientError, Exit};

/// Names in rules are looked up anew, perhaps in a directory service.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says nothing if all is well.
pub async fn run(daemon: &Daemon) -> Result<(), ClientError> {
    let answer = daemon.post("/reload", PATIENCE).await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::CONFLICT => Err(ClientError {
            exit: Exit::Configuration,
            advice: "".into(),
            ..ClientError::of_answer(&answer, "not reloaded")
        }),
        _ => Err(ClientError::of_answer(&answer, "not reloaded")),
    }
}
