//! Why the client did not do what it was asked: an exit code, a cause, a next step.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use serde::Deserialize;

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
    /// The caller may not.
    NotAllowed = 77,
    /// The configuration is not valid.
    Configuration = 78,
    /// The program that `exec` was to become cannot be run.
    CannotRun = 126,
    /// There is no such program.
    NoProgram = 127,
}

/// What is told on stderr. Never holds a token.
#[derive(Clone, Debug)]
pub struct ClientError {
    /// What the process exits with.
    pub exit: Exit,
    /// What went wrong, a sentence without its full stop.
    pub cause: String,
    /// What the reader can do, a sentence with its full stop; empty where the cause says it.
    pub advice: Cow<'static, str>,
    /// When another try makes sense, if it does.
    pub retry_in: Option<Duration>,
    /// What the daemon's answer says for programs; nothing where there was no answer.
    pub codes: Codes,
}

/// What an error answer says.
#[derive(Default, Deserialize)]
struct ErrorText {
    error: Option<String>,
    error_description: Option<String>,
    #[serde(flatten)]
    codes: Codes,
}

impl ClientError {
    /// A failure that another try does not mend.
    pub fn new(exit: Exit, cause: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Self {
        Self {
            exit,
            cause: cause.into(),
            advice: advice.into(),
            retry_in: None,
            codes: Codes::default(),
        }
    }

    /// Only an exit code: all is said already, or nobody reads.
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

    /// The system would not do something that it always does.
    pub fn system(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Other, format!("cannot {what}: {error}"), "")
    }

    /// The failure that any other status than 200 is. `wanted` is what was asked for, for the message.
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

/// On one line, and nothing that a terminal would obey.
impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = printable(self.cause.trim_end_matches('.'));
        match &*self.advice {
            "" => write!(f, "{cause}."),
            advice => write!(f, "{cause}. {advice}"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Writes one line to stderr; if that is gone there is nobody left to tell.
pub fn tell(line: &str) {
    _ = writeln!(io::stderr(), "msi-token: {line}");
}

/// Text from elsewhere, for one line on a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
