//! `msi-emulator demo`: starts the stand-in and a real daemon, and shows with two requests what the daemon does.

use super::wall_clock::unix_now;
use super::{Emulator, Options, StartError, claims};
use crate::http::{self, Response};
use http_body_util::Empty;
use hyper::{Request, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, UNIX_EPOCH};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

const RESOURCE: &str = "https://storage.azure.com/";
const TARGET: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/";
/// The time-out of the daemon's start, of an answer, and of its end, which takes up to 10 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// Far more than a token's answer.
const MAX_BODY: usize = 64 * 1024;
const POLL: Duration = Duration::from_millis(20);

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The daemon's program is not found.
    #[error("there is no {0}: build it with `cargo build --release --bins`, or name it with --daemon PATH")]
    NoDaemon(PathBuf),
    /// The daemon's program cannot be run.
    #[error("cannot run {0}")]
    Run(PathBuf, #[source] io::Error),
    /// The stand-in does not start.
    #[error("the stand-in does not start")]
    Start(#[from] StartError),
    /// The private directory, or a file in it, cannot be made.
    #[error("cannot set up {0}")]
    Setup(PathBuf, #[source] io::Error),
    /// The daemon ended too early.
    #[error("the daemon ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// Its exit status.
        status: ExitStatus,
        /// Its last lines.
        log: String,
    },
    /// The daemon's answer is wrong.
    #[error("{problem}; the end of the daemon's log:\n{log}")]
    Answer {
        /// What is wrong with it.
        problem: String,
        /// The daemon's last lines.
        log: String,
    },
    /// The daemon did not end as it should after SIGTERM.
    #[error("the daemon did not stop cleanly: {0}")]
    Stop(String),
    /// Standard output is closed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// Runs the demo until `interrupted`, or with `once` until the two requests are shown. `daemon` is the program to start,
/// by default the `msi-tokend` beside this executable.
///
/// # Errors
/// See [`DemoError`]. The daemon is stopped and the directory removed in any case.
pub async fn run(once: bool, daemon: Option<PathBuf>, interrupted: impl Future<Output = ()>) -> Result<(), DemoError> {
    let program = daemon.unwrap_or_else(|| beside_this("msi-tokend"));
    if !program.is_file() {
        return Err(DemoError::NoDaemon(program));
    }
    let emulator = Emulator::start(Options::default()).await?;
    let home = Home::new()?;
    let mut daemon = DaemonProcess::start(&program, &home, &emulator.imds_endpoint())?;
    let mut interrupted = pin!(interrupted);
    let shown = tokio::select! {
        shown = show(&emulator, &home, &mut daemon) => shown,
        () = &mut interrupted => return daemon.stop().await,
    };
    if shown.is_ok() && !once {
        invite(&home)?;
        tokio::select! {
            ended = daemon.ended(&home) => return Err(ended),
            () = &mut interrupted => println!(),
        }
    }
    let stopped = daemon.stop().await;
    shown.and(stopped)
}

/// Sends two requests for the same token, and counts how many of each reached the endpoint.
async fn show(emulator: &Emulator, home: &Home, daemon: &mut DaemonProcess) -> Result<(), DemoError> {
    let bad = |problem: String| DemoError::Answer {
        problem,
        log: home.end_of_log(),
    };
    tokio::select! {
        ended = daemon.ended(home) => return Err(ended),
        accepting = timeout(PATIENCE, home.accepting()) => {
            accepting.map_err(|_| bad(format!("the daemon does not accept after {PATIENCE:?}")))?;
        }
    }
    let mut answers = Vec::new();
    for _ in 0..2 {
        let before = emulator.request_count();
        let answer = ask(&home.socket()).await.map_err(bad)?;
        answers.push((answer, emulator.request_count() - before));
    }
    let [(first, first_reached), (second, second_reached)] = answers.as_slice() else {
        return Ok(());
    };
    println!("A stand-in MSI endpoint, a real msi-tokend before it, and two requests for the same token:\n");
    println!("  1st   {}", account(first, *first_reached));
    println!("  2nd   {}", account(second, *second_reached));
    if (*first_reached, *second_reached) != (1, 0) {
        return Err(bad("1 and 0 requests should have reached the endpoint".to_owned()));
    }
    if first.token != second.token {
        return Err(bad("the two answers should have had the same token".to_owned()));
    }
    println!(
        "\n{}",
        describe(&second.token).ok_or_else(|| bad("the token has no claims".to_owned()))?
    );
    Ok(())
}

fn invite(home: &Home) -> Result<(), DemoError> {
    let socket = quoted(&home.socket());
    println!("Try it from another terminal:\n");
    println!("  curl --unix-socket {socket} -H Metadata:true 'http://localhost{TARGET}'\n");
    let client = beside_this("msi-token");
    if client.is_file() {
        println!(
            "  {} get --socket {socket} --resource {RESOURCE}\n",
            quoted(&from_here(&client))
        );
    }
    println!("Ctrl-C stops the daemon and the stand-in.");
    Ok(io::stdout().flush()?)
}

/// The token's length and claims.
fn describe(token: &str) -> Option<String> {
    let claims = claims(token)?;
    let text = |name| claims.get(name).and_then(Value::as_str);
    let seconds = claims.get("exp").and_then(Value::as_i64)?;
    let expiry = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?);
    let minutes = (seconds - unix_now()) / 60;
    Some(format!(
        "  token  {} characters, the same both times\n  aud    {}\n  appid  {}\n  exp    {} (in {} h {} min)\n",
        token.len(),
        text("aud")?,
        text("appid")?,
        humantime::format_rfc3339_seconds(expiry),
        minutes / 60,
        minutes % 60,
    ))
}

#[derive(Debug)]
struct TimedToken {
    token: String,
    took: Duration,
}

/// Sends one request over a new connection to the socket.
async fn ask(socket: &Path) -> Result<TimedToken, String> {
    #[derive(Deserialize)]
    struct TokenBody {
        access_token: String,
    }
    let start = Instant::now();
    let Response { status, body, .. } = timeout(PATIENCE, get(socket))
        .await
        .map_err(|_| format!("no answer from the daemon within {PATIENCE:?}"))?
        .map_err(|error| format!("the daemon did not answer: {error}"))?;
    let took = start.elapsed();
    if status != StatusCode::OK {
        return Err(format!(
            "the daemon answered {status}: {}",
            String::from_utf8_lossy(&body)
        ));
    }
    let body: TokenBody =
        serde_json::from_slice(&body).map_err(|error| format!("the daemon's 200 is no token: {error}"))?;
    Ok(TimedToken {
        token: body.access_token,
        took,
    })
}

async fn get(socket: &Path) -> Result<Response, Box<dyn std::error::Error>> {
    let request = Request::get(TARGET)
        .header("host", "localhost")
        .header("metadata", "true")
        .body(Empty::new())?;
    Ok(http::exchange(UnixStream::connect(socket).await?, request, MAX_BODY).await?)
}

/// A private directory, removed when this is dropped.
#[derive(Debug)]
struct Home(PathBuf);

impl Home {
    fn new() -> Result<Self, DemoError> {
        let name = format!("msi-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(DemoError::Setup(path, error)),
        }
    }

    fn socket(&self) -> PathBuf {
        self.0.join("msi-tokend.sock")
    }

    fn log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }

    async fn accepting(&self) {
        while UnixStream::connect(self.socket()).await.is_err() {
            sleep(POLL).await;
        }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.split_at(lines.len().saturating_sub(8)).1;
        if end.is_empty() {
            "  (empty)".to_owned()
        } else {
            format!("  {}", end.join("\n  "))
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("msi-emulator: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The daemon's process; killed if this is dropped while it runs.
#[derive(Debug)]
struct DaemonProcess(Child);

impl DaemonProcess {
    fn start(program: &Path, home: &Home, endpoint: &str) -> Result<Self, DemoError> {
        let path = home.0.join("config.toml");
        let setup = |error| DemoError::Setup(path.clone(), error);
        fs::write(
            &path,
            config(&home.socket(), endpoint).map_err(|error| setup(error.into()))?,
        )
        .map_err(setup)?;
        let log = File::create(home.log()).map_err(setup)?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&path)
            // A clean environment: no sockets of a service manager and no proxy.
            .env_clear()
            // Ctrl-C in a terminal signals the whole process group. In its own group the daemon gets one signal, from here.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(setup)?)
            .stderr(log)
            .spawn();
        child
            .map(Self)
            .map_err(|error| DemoError::Run(program.to_owned(), error))
    }

    /// Waits until the daemon ends without a signal from here.
    async fn ended(&mut self, home: &Home) -> DemoError {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => {
                    return DemoError::Ended {
                        status,
                        log: home.end_of_log(),
                    };
                }
                Ok(None) => sleep(POLL).await,
                Err(error) => return DemoError::Stop(error.to_string()),
            }
        }
    }

    /// Sends SIGTERM and waits for the end.
    async fn stop(mut self) -> Result<(), DemoError> {
        let failed = |error: &dyn std::fmt::Display| DemoError::Stop(error.to_string());
        if self.0.try_wait().map_err(|error| failed(&error))?.is_none() {
            let pid = Pid::from_raw(i32::try_from(self.0.id()).map_err(|error| failed(&error))?);
            kill(pid, Signal::SIGTERM).map_err(|error| failed(&error))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait().map_err(|error| failed(&error))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(failed(&status)),
                None if Instant::now() > deadline => return Err(failed(&format!("still running after {PATIENCE:?}"))),
                None => sleep(POLL).await,
            }
        }
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // An error means that it has just ended.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The daemon's configuration. A JSON string is a TOML string as well, so serde escapes the values.
fn config(socket: &Path, endpoint: &str) -> serde_json::Result<String> {
    let (endpoint, socket) = (serde_json::to_string(endpoint)?, serde_json::to_string(socket)?);
    Ok(format!(
        "[upstream]\nkind = \"imds\"\nendpoint = {endpoint}\n\n[listen]\nsocket = {socket}\n"
    ))
}

/// The program of that name in this executable's directory.
fn beside_this(name: &str) -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(name)
}

/// The path relative to the working directory, if it is below.
fn from_here(path: &Path) -> PathBuf {
    let below = std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok());
    below.map_or_else(|| path.to_owned(), |rest| Path::new(".").join(rest))
}

/// Quotes the path for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn account(answer: &TimedToken, reached: u64) -> String {
    let plural = if reached == 1 { "" } else { "s" };
    format!(
        "200 in {:4.1} ms, {reached} request{plural} reached the endpoint",
        answer.took.as_secs_f64() * 1000.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_when_a_shell_would_split_it() {
        assert_eq!(quoted(Path::new("/tmp/msi-demo-1/a.sock")), "/tmp/msi-demo-1/a.sock");
        assert_eq!(quoted(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }

    #[test]
    fn the_configuration_is_toml_whatever_the_path() {
        let socket = "/tmp/a \"b\\\t\u{1}é/s";
        let text = config(Path::new(socket), "http://127.0.0.1:1/x").unwrap();
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(read["listen"]["socket"].as_str(), Some(socket));
        assert_eq!(read["upstream"]["endpoint"].as_str(), Some("http://127.0.0.1:1/x"));
    }

    #[test]
    fn the_directory_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = Home::new().unwrap();
        let path = home.0.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(home.log(), "one\ntwo\n").unwrap();
        assert_eq!(home.end_of_log(), "  one\n  two");
        drop(home);
        assert!(!path.exists());
    }
}
