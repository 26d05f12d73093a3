//! `health`: one line for a monitoring system, by the convention of the monitoring plugins
//! (<https://www.monitoring-plugins.org/doc/guidelines.html>).

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;
use tokio::time::Instant;

use super::connection::{Daemon, NoAnswer};
use super::error::{ClientError, printable};
use super::output;
use super::ready::Ready;
use crate::config::duration;
use crate::observe::health::TokenHealth;

/// The time-out of each of the two requests. Monitoring systems give a plugin ten seconds in all.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Args)]
pub struct Arguments {
    /// A token that lives shorter than this is a WARNING.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
    warning: Duration,
    /// A warm token that lives shorter than this is CRITICAL.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    critical: Duration,
}

/// A plugin's exit code, least urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

/// The line that the plugin prints.
#[derive(Debug, PartialEq, Eq)]
struct PluginLine {
    level: Level,
    text: String,
    /// Each `label=value;warning;critical;minimum`; none without an answer.
    perfdata: Vec<String>,
}

/// The exit code for a wrong command line.
pub fn unknown() -> ExitCode {
    Level::Unknown.into()
}

/// Prints the line.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<ExitCode, ClientError> {
    let start = Instant::now();
    let mut report = look(daemon, arguments).await;
    if !report.perfdata.is_empty() {
        report
            .perfdata
            .push(format!("time={:.6}s;;;0", start.elapsed().as_secs_f64()));
    }
    output::line(&[report.to_string().as_bytes()])?;
    Ok(report.level.into())
}

async fn look(daemon: &Daemon, arguments: &Arguments) -> PluginLine {
    if arguments.critical > arguments.warning {
        return PluginLine::plain(Level::Unknown, "--critical must not be longer than --warning");
    }
    let answers = async {
        let live = daemon.ask("/live", PATIENCE).await?;
        Ok((live.status, daemon.ask("/ready", PATIENCE).await?))
    };
    match answers.await {
        Ok((StatusCode::OK, ready)) => match serde_json::from_slice::<Ready>(&ready.body) {
            Ok(ready) => assess(&ready, arguments),
            Err(_) => PluginLine::plain(
                Level::Unknown,
                format!(
                    "the answer on /ready (HTTP {}) has an unknown form: compare `msi-tokend --version` with \
                     `msi-token --version`",
                    ready.status
                ),
            ),
        },
        Ok(_) => PluginLine::plain(
            Level::Critical,
            "the daemon answers, but its timer has stopped: run `systemctl restart msi-tokend`",
        ),
        Err(reason) => {
            let level = match reason {
                NoAnswer::NoPermission | NoAnswer::System(_) => Level::Unknown,
                _ => Level::Critical,
            };
            PluginLine::plain(level, daemon.unreachable(&reason).cause)
        }
    }
}

/// A warm token that is missing or ends soon is CRITICAL; any other token is at most a WARNING.
fn assess(ready: &Ready, Arguments { warning, critical }: &Arguments) -> PluginLine {
    let level = |token: &TokenHealth| {
        let runs_short = |threshold: &Duration| Duration::from_secs(token.expires_in) < *threshold;
        let first_fetch = !token.ready && token.failures == 0;
        match token.warm {
            true if !token.ready || runs_short(critical) => Level::Critical,
            false if first_fetch => Level::Ok,
            _ if token.failures > 0 || runs_short(warning) => Level::Warning,
            _ => Level::Ok,
        }
    };
    let mut troubled: Vec<(Level, &TokenHealth)> = ready.tokens.iter().map(|token| (level(token), token)).collect();
    troubled.retain(|(level, _)| *level > Level::Ok);
    troubled.sort_by_key(|(level, token)| (std::cmp::Reverse(*level), token.expires_in));
    let whole = if ready.problems.is_empty() {
        Level::Ok
    } else {
        Level::Warning
    };
    let runway = ready.tokens.iter().map(|token| token.expires_in).min();
    let text = match (troubled.first(), runway) {
        (None, _) if !ready.problems.is_empty() => ready.problems.join("; "),
        (Some((_, worst)), _) => {
            let others = match troubled.len() {
                1 => String::new(),
                all => format!(", and {} more with a problem", all - 1),
            };
            let token = format!("{} for {}: {}{others}", worst.resource, worst.identity, worst.reason);
            [&[token], &*ready.problems].concat().join("; ")
        }
        (None, None) => "no token is kept warm, and none was asked for in the last hour".to_owned(),
        (None, Some(runway)) => {
            let all = match ready.tokens.len() {
                1 => "1 token".to_owned(),
                all => format!("{all} tokens, the shortest"),
            };
            format!(
                "{all} good for {}",
                humantime::format_duration(Duration::from_secs(runway))
            )
        }
    };
    let count = |what: fn(&&TokenHealth) -> bool| ready.tokens.iter().filter(what).count();
    PluginLine {
        level: troubled.first().map_or(whole, |(level, _)| *level),
        text,
        perfdata: vec![
            // `U` is the plugins' "unknown".
            format!(
                "runway={};{}:;{}:;0",
                runway.map_or_else(|| "U".to_owned(), |seconds| format!("{seconds}s")),
                warning.as_secs(),
                critical.as_secs()
            ),
            format!("tokens={};;;0", ready.tokens.len()),
            format!("failing={};;;0", count(|token| token.failures > 0)),
            format!("missing={};;;0", count(|token| !token.ready)),
        ],
    }
}

impl PluginLine {
    fn plain(level: Level, text: impl Into<String>) -> Self {
        Self {
            level,
            text: text.into(),
            perfdata: Vec::new(),
        }
    }
}

/// `MSI-TOKEND LEVEL - text | perfdata`. The text has no `|`, which would begin the performance data.
impl fmt::Display for PluginLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        };
        write!(f, "MSI-TOKEND {level} - {}", printable(&self.text).replace('|', "/"))?;
        if !self.perfdata.is_empty() {
            write!(f, " | {}", self.perfdata.join(" "))?;
        }
        Ok(())
    }
}

impl From<Level> for ExitCode {
    fn from(level: Level) -> Self {
        Self::from(level as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Codes;
    use crate::key::{Identity, Resource};

    const ARGUMENTS: Arguments = Arguments {
        warning: Duration::from_secs(900),
        critical: Duration::from_secs(300),
    };

    fn token(warm: bool, expires_in: u64, failures: u32) -> TokenHealth {
        TokenHealth {
            resource: Resource::new(&format!("https://{expires_in}|/")).unwrap(),
            identity: Identity::Default,
            warm,
            ready: expires_in > 0,
            expires_in,
            failures,
            reason: "why".to_owned(),
            codes: Codes::default(),
        }
    }

    fn assessed(tokens: Vec<TokenHealth>) -> PluginLine {
        assessed_with(Vec::new(), tokens)
    }

    fn assessed_with(problems: Vec<String>, tokens: Vec<TokenHealth>) -> PluginLine {
        assess(
            &Ready {
                problems,
                lock: None,
                tokens,
            },
            &ARGUMENTS,
        )
    }

    #[test]
    fn each_level_begins_where_the_specification_has_it() {
        for (warm, expires_in, failures, level) in [
            (true, 900, 0, Level::Ok),
            (true, 899, 0, Level::Warning),
            (true, 40_000, 1, Level::Warning),
            (true, 300, 3, Level::Warning),
            (true, 299, 0, Level::Critical),
            (true, 0, 0, Level::Critical),
            (false, 900, 0, Level::Ok),
            (false, 299, 0, Level::Warning),
            (false, 40_000, 1, Level::Warning),
            (false, 0, 1, Level::Warning),
            (false, 0, 0, Level::Ok),
        ] {
            let report = assessed(vec![token(warm, expires_in, failures)]);
            assert_eq!(report.level, level, "{warm} {expires_in} {failures}");
        }
        assert_eq!(assessed(vec![]).level, Level::Ok);
    }

    #[test]
    fn what_is_wrong_with_the_whole_is_a_warning_beside_what_is_wrong_with_tokens() {
        let assessed = |tokens| assessed_with(vec!["callers wait".to_owned()], tokens);
        let report = assessed(vec![token(true, 5000, 0)]);
        assert_eq!((report.level, &*report.text), (Level::Warning, "callers wait"));
        let report = assessed(vec![token(true, 0, 1)]);
        assert_eq!(report.level, Level::Critical);
        assert_eq!(report.text, "https://0|/ for default: why; callers wait");
    }

    #[test]
    fn the_worst_comes_first_on_one_line_with_data_behind_a_single_bar() {
        let report = assessed(vec![
            token(true, 5000, 1),
            token(true, 10, 1),
            token(true, 0, 1),
            token(true, 9000, 0),
        ]);
        assert_eq!(
            report.to_string(),
            "MSI-TOKEND CRITICAL - https://0// for default: why, and 2 more with a problem | \
             runway=0s;900:;300:;0 tokens=4;;;0 failing=3;;;0 missing=1;;;0"
        );
        let report = assessed(vec![token(true, 7200, 0), token(false, 43_200, 0)]);
        assert_eq!(
            report.to_string(),
            "MSI-TOKEND OK - 2 tokens, the shortest good for 2h | \
             runway=7200s;900:;300:;0 tokens=2;;;0 failing=0;;;0 missing=0;;;0"
        );
        assert!(assessed(vec![]).to_string().contains("runway=U;900:;300:;0 tokens=0"));
    }
}
