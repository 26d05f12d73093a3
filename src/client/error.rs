//! The client's error: an exit code, a cause and a next step.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use serde::Deserialize;

use super::terminal::{self, wrapped};
use crate::failure::Codes;
use crate::http::Response;

/// Exit codes, by `sysexits.h`, and two that shells and env(1) have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// The daemon cannot be reached.
    Unreachable = 69,
    /// Anything else; asking the same again will not help.
    Other = 70,
    /// The same request may succeed later.
    TryLater = 75,
    /// The caller may not have what it asked for.
    NotAllowed = 77,
    /// The configuration is not valid.
    Configuration = 78,
    /// The program that `exec` was to become cannot be run.
    CannotRun = 126,
    /// There is no such program.
    NoProgram = 127,
}

/// An error as stderr shows it. Never holds a token.
#[derive(Clone, Debug)]
pub struct ClientError {
    /// The process's exit code.
    pub exit: Exit,
    /// What went wrong, a sentence without its full stop.
    pub cause: String,
    /// What the reader can do, a sentence with its full stop. Empty if the cause already says it.
    pub advice: Cow<'static, str>,
    /// How long to wait before another try; none if another try does not help.
    pub retry_in: Option<Duration>,
    /// The codes of the daemon's answer; empty without an answer.
    pub codes: Codes,
}

/// The JSON of an error answer.
#[derive(Default, Deserialize)]
struct ErrorText {
    error: Option<String>,
    error_description: Option<String>,
    #[serde(flatten)]
    codes: Codes,
}

impl ClientError {
    /// An error that another try does not solve.
    pub fn new(exit: Exit, cause: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Self {
        Self {
            exit,
            cause: cause.into(),
            advice: advice.into(),
            retry_in: None,
            codes: Codes::default(),
        }
    }

    /// Only an exit code, for when the message is already written or stderr is closed.
    pub fn quiet(exit: Exit) -> Self {
        Self::new(exit, "", "")
    }

    /// Another try may succeed after `pause`.
    pub fn retry_in(self, pause: Duration) -> Self {
        Self {
            retry_in: Some(pause),
            ..self
        }
    }

    /// A system call failed. `what` completes "cannot …".
    pub fn system(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Other, format!("cannot {what}: {error}"), "")
    }

    /// The error for an answer with a status other than 200. `wanted` begins the message if the answer has no description.
    pub fn of_answer(answer: &Response, wanted: &str) -> Self {
        let text: ErrorText = serde_json::from_slice(&answer.body).unwrap_or_default();
        let cause = match (text.error_description, text.error) {
            (Some(description), _) => printable(&description),
            (None, Some(error)) => format!("{wanted}: {}", printable(&error)),
            (None, None) => format!("{wanted}: the daemon answers HTTP {}", answer.status.as_u16()),
        };
        let failure = match answer.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                let seconds = answer
                    .header(RETRY_AFTER)
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(1);
                let advice =
                    format!("Try again in {seconds} s, or have --wait do it; `msi-token status` shows the cause.");
                ClientError::new(Exit::TryLater, cause, advice).retry_in(Duration::from_secs(seconds))
            }
            StatusCode::FORBIDDEN => ClientError::new(Exit::NotAllowed, cause, ""),
            StatusCode::BAD_REQUEST => ClientError::new(
                Exit::Other,
                format!("refused: {cause}"),
                "Asking the same again will not help: check --resource and the identity; `msi-token doctor` explains more.",
            ),
            _ => ClientError::new(
                Exit::Other,
                cause,
                "The daemon and this client may be of different versions: compare `msi-tokend --version`.",
            ),
        };
        Self {
            codes: text.codes,
            ..failure
        }
    }

    /// Writes it to stderr.
    pub fn tell(&self) {
        if !self.cause.is_empty() {
            tell(&self.to_string());
        }
    }
}

/// One line, without control characters.
impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = printable(self.cause.trim_end_matches('.'));
        let stop = if cause.ends_with('?') { "" } else { "." };
        match &*self.advice {
            "" => write!(f, "{cause}{stop}"),
            advice => write!(f, "{cause}{stop} {advice}"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Writes a line to stderr, broken where a terminal ends. An error is ignored: there is no other place to report it.
pub fn tell(line: &str) {
    let width = terminal::width_of(io::stderr());
    _ = writeln!(io::stderr(), "{}", wrapped(&format!("msi-token: {line}"), width, 0));
}

/// Replaces control characters by spaces, so that text from elsewhere is one line and cannot control a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
