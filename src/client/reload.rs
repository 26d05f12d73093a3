//! `reload`: has the daemon read its configuration again, and waits for the result.
//!
//! SIGHUP gives no result, so with it `systemctl reload` could not fail on a bad file.

use std::time::Duration;

use hyper::StatusCode;

use super::connection::Daemon;
use super::error::{ClientError, Exit};

/// A reload looks the names in rules up again, perhaps in a directory service.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints nothing on success.
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
