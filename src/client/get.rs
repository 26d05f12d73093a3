//! `get` and `refresh`: one token, to stdout.

use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep};

use super::connection::Daemon;
use super::error::{ClientError, Exit};
use super::forms::{self, Issued};
use super::output;
use super::selection::Selection;
use crate::config::duration;
use crate::http::Response;
use crate::key::{Identity, Key};

/// A try without --wait: longer than the daemon holds a caller, unless it was told to hold it for ever.
const ONE_TRY: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// In which form.
    #[arg(long, value_enum, default_value_t = Output::Token)]
    output: Output,
    /// Keep trying for so long while the daemon cannot be reached or says "try later"; without it, one try of at most 60 s.
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

/// Whether the cached token will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It will.
    Get,
    /// A new one is wanted.
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
    // serde's own words may hold what it choked on.
    Issued::read(&answer.body).ok_or_else(|| {
        let cause = format!("the answer for {key} holds no access_token");
        ClientError::new(Exit::Other, cause, "Is it msi-tokend that serves on this socket?")
    })
}

/// Tries until there is a token, or a reason why there will be none before `wait` is over.
pub async fn patient(daemon: &Daemon, key: &Key, mode: Mode, wait: Option<Duration>) -> Result<Response, ClientError> {
    let target = target(key, mode);
    let start = Instant::now();
    let mut tries = 1;
    loop {
        let left = wait.unwrap_or(ONE_TRY).saturating_sub(start.elapsed());
        let failure = match daemon.answer(&target, left).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(answer),
            Ok(answer) => ClientError::of_answer(&answer, &format!("no token for {key}")),
            Err(failure) => failure,
        };
        let (Some(wait), Some(pause)) = (wait, failure.retry_in) else {
            return Err(failure);
        };
        if start.elapsed() + pause >= wait {
            return Err(given_up(&failure, tries, wait));
        }
        sleep(pause).await;
        tries += 1;
    }
}

fn given_up(failure: &ClientError, tries: u32, wait: Duration) -> ClientError {
    let wait = humantime::format_duration(wait);
    let tries = if tries == 1 {
        "1 try".to_owned()
    } else {
        format!("{tries} tries")
    };
    ClientError {
        cause: format!(
            "gave up after {tries}, as --wait {wait} allows no more: {}",
            failure.cause
        ),
        ..failure.clone()
    }
}

/// The token route of the metadata service, which all identities and `bypass_cache` can be asked of.
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
