//! `get` and `refresh`: print one token.

use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep};

use super::connection::Daemon;
use super::error::{ClientError, Exit};
use super::forms::{self, Issued};
use super::selection::Selection;
use super::{output, remedy, status};
use crate::config::duration;
use crate::failure::{Cause, Codes, ErrorClass};
use crate::http::Response;
use crate::key::{Identity, Key};
use crate::observe::status::{Status, TokenStatus};

/// At the end of --wait, for asking the daemon what the last failure was.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// In which form.
    #[arg(long, value_enum, default_value_t = Output::Token)]
    output: Output,
    /// Give up after so long; until then try again where the daemon cannot be reached or says "try later". Without it there is
    /// one try, which lasts as long as the daemon holds its callers (`limits.caller_wait`).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// The bare token.
    Token,
    /// The daemon's whole answer.
    Json,
    /// `Authorization: Bearer …`, for `curl -H @<(msi-token get … --output header)`.
    Header,
    /// An `ExecCredential`, as kubectl reads it from an exec plugin.
    Kubernetes,
    /// As Google's libraries read it from an executable.
    Gcp,
    /// What the token says, in readable JSON: its claims and times, never the token itself.
    Claims,
}

/// Whether a cached token is enough.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The cached token, if there is one.
    Get,
    /// A new token.
    Refresh,
}

/// Prints a token, or says why there is none.
pub async fn run(daemon: &Daemon, arguments: &Arguments, mode: Mode) -> Result<(), ClientError> {
    let key = arguments.selection.key()?;
    let answer = patient(daemon, &key, mode, arguments.wait).await?;
    if let Output::Json = arguments.output {
        return output::line(&[&answer.body]);
    }
    let issued = issued(&answer, &key)?;
    output::line(&[&match arguments.output {
        Output::Token | Output::Json => issued.bare(),
        Output::Header => issued.header(),
        Output::Kubernetes => {
            let info = std::env::var("KUBERNETES_EXEC_INFO").ok();
            issued.kubernetes(forms::exec_version(info.as_deref()))
        }
        Output::Gcp => issued.gcp(),
        Output::Claims => issued.claims(),
    }])
}

/// The token in an answer.
pub fn issued<'a>(answer: &'a Response, key: &Key) -> Result<Issued<'a>, ClientError> {
    // serde's message may quote the answer, so it is not shown.
    Issued::read(&answer.body).ok_or_else(|| {
        let cause = format!("the answer for {key} holds no access_token");
        ClientError::new(Exit::Other, cause, "Is it msi-tokend that serves on this socket?")
    })
}

/// Tries until there is a token, or a reason why there will be none before `wait` is over. Without `wait` there is one try,
/// which takes as long as the daemon holds its callers.
pub async fn patient(daemon: &Daemon, key: &Key, mode: Mode, wait: Option<Duration>) -> Result<Response, ClientError> {
    let once = || once(daemon, key, mode);
    let Some(wait) = wait else {
        return once().await;
    };
    let (start, mut tries, mut last) = (Instant::now(), 0, None);
    let trying = async {
        loop {
            tries += 1;
            match once().await {
                Err(failure) if failure.retry_in.is_some_and(|pause| start.elapsed() + pause < wait) => {
                    let pause = failure.retry_in.unwrap_or_default();
                    if failure.exit == Exit::TryLater {
                        last = Some(failure);
                    }
                    sleep(pause).await;
                }
                end => return end,
            }
        }
    };
    let failure = tokio::select! {
        end = trying => match end {
            Err(failure) if failure.retry_in.is_some() => failure,
            end => return end,
        },
        cause = last_cause(daemon, key, wait) => cause.or(last).unwrap_or_else(|| {
            later(key, " has not answered yet", ErrorClass::Timeout.into())
        }),
    };
    Err(given_up(failure, tries, wait))
}

/// One try. Where the daemon cannot know this process's unit by its socket, and a rule may be for it, the loopback listener is
/// asked too, if it is on.
pub async fn once(daemon: &Daemon, key: &Key, mode: Mode) -> Result<Response, ClientError> {
    let target = target(key, mode);
    let token = |answer: Response| match answer.status {
        StatusCode::OK => Ok(answer),
        _ => Err(ClientError::of_answer(&answer, &format!("no token for {key}"))),
    };
    match token(daemon.held(&target).await?) {
        Err(refusal) if refusal.codes.cause == Some(Cause::UnitUnknown) => match status::get(daemon).await?.sdk {
            Some(address) => token(daemon.held_at(address, &target).await?),
            None => Err(refusal),
        },
        end => end,
    }
}

/// Ends when `wait` is over, with the last failure of this token that the daemon knows, if there was one, or why the daemon
/// does not tell. The daemon is asked a little before the end: the command ends in time, and a token that comes meanwhile
/// counts.
async fn last_cause(daemon: &Daemon, key: &Key, wait: Duration) -> Option<ClientError> {
    let spare = LAST_WORDS.min(wait / 2);
    sleep(wait.saturating_sub(spare)).await;
    let (answer, ()) = tokio::join!(daemon.answer("/status", spare), sleep(spare));
    let status: Status = match answer {
        Ok(answer) => serde_json::from_slice(&answer.body).ok()?,
        Err(failure) => return Some(failure),
    };
    let tokens: Vec<&TokenStatus> = status
        .tokens
        .iter()
        .filter(|token| token.resource == key.resource)
        .collect();
    let named = tokens.iter().find(|token| token.identity == key.identity);
    let token = named.or(match (&*tokens, &key.identity) {
        // Who names no identity may get one by a rule.
        ([only], Identity::Default) => Some(only),
        _ => None,
    })?;
    let error = token.last_error.as_ref()?;
    Some(later(key, &format!(": {error}"), token.codes.clone()))
}

fn later(key: &Key, what: &str, codes: Codes) -> ClientError {
    let cause = format!("No token for {key}: the VM's identity endpoint{what}");
    ClientError {
        codes,
        ..ClientError::new(Exit::TryLater, cause, "")
    }
}

fn given_up(failure: ClientError, tries: u32, wait: Duration) -> ClientError {
    let wait = humantime::format_duration(wait);
    let tries = if tries == 1 {
        "1 try".to_owned()
    } else {
        format!("{tries} tries")
    };
    let advice = match failure.exit {
        Exit::TryLater => remedy::for_codes(&failure.codes).into(),
        _ => failure.advice,
    };
    ClientError {
        cause: format!(
            "gave up after {tries}, as --wait {wait} allows no more: {}",
            failure.cause
        ),
        advice,
        ..failure
    }
}

/// The target of a token request. The metadata service's route takes every kind of identity, and `bypass_cache`.
pub fn target(key: &Key, mode: Mode) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let selector = match &key.identity {
        Identity::Default => String::new(),
        Identity::ClientId(id) => format!("&client_id={}", encoded(id)),
        Identity::ObjectId(id) => format!("&object_id={}", encoded(id)),
        Identity::ResourceId(id) => format!("&msi_res_id={}", encoded(id)),
    };
    let bypass = match mode {
        Mode::Get => "",
        Mode::Refresh => "&bypass_cache=true",
    };
    format!(
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}{selector}{bypass}",
        encoded(key.resource.as_str())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Resource;

    #[test]
    fn the_target_keeps_every_byte_of_the_resource_in_one_parameter() {
        let key = Key::new(
            Resource::new("https://a/?b=c&d%2F+#/").unwrap(),
            Identity::resource_id("/sub/a&b").unwrap(),
        );
        assert_eq!(
            target(&key, Mode::Refresh),
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fa%2F%3Fb%3Dc%26d%252F%2B%23%2F\
             &msi_res_id=%2Fsub%2Fa%26b&bypass_cache=true"
        );
    }
}
