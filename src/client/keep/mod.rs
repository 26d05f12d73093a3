//! `keep`: keeps tokens in files, for programs that read a token from a file. To the daemon it is a caller like any other.

mod file_report;
mod file_store;
pub mod instances;
mod schedule;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use nix::unistd::{Gid, getegid, getgroups};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{Level, warn};

pub use self::file_store::FileState;

use self::file_report::FileReport;
use self::file_store::{FileStates, FileStore};
use self::schedule::Schedule;
use super::connection::Daemon;
use super::error::{ClientError, Exit, tell};
use super::get::{self, Mode};

use crate::clock::{Clock, SystemClock};
use crate::config::keep::{self as settings, KeptFile};
use crate::http::Response;
use crate::key::Key;
use crate::observe::log;
use crate::systemd::notify;

/// How long the end waits for the log to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Arguments {
    /// The settings, a list of [[file]].
    #[arg(value_name = "FILE")]
    settings: PathBuf,
    /// Where the files are kept; without it in the `RuntimeDirectory=` of the systemd unit.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// A token and the files that hold it.
struct KeptToken {
    key: Key,
    files: Vec<usize>,
}

/// Keeps all files of one process.
struct Keeper<'a, C> {
    daemon: &'a Daemon,
    clock: C,
    files: Vec<KeptFile>,
    tokens: Vec<KeptToken>,
    schedule: Schedule,
    store: FileStore,
    /// One for each file.
    reports: Vec<FileReport>,
    /// The requests under way, with the index of their token.
    answers: JoinSet<(usize, Result<Response, ClientError>)>,
    /// What systemd and the state file were told last, and whether every file has been current by then.
    told: Option<(FileStates, bool)>,
}

/// Keeps the files until a signal. The files stay, so that they are there during a restart.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), ClientError> {
    let files = settings::load(&arguments.settings, own_groups()).map_err(|violations| {
        for violation in violations.iter() {
            tell(&violation.to_string());
        }
        ClientError::quiet(Exit::Configuration)
    })?;
    let store = FileStore::open(&arguments.directory()?, &files)?;
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|error| ClientError::system("wait for signals", &error))?;
    let log = log::start(Level::INFO, "msi-token").map_err(|error| ClientError::system("start the log", &error))?;
    let mut keeper = Keeper::new(daemon, SystemClock, files, store);
    tokio::select! {
        () = keeper.keep() => {}
        _ = signals.next() => {}
    }
    // If systemd does not get this, it sees the process end.
    _ = notify(&[NotifyState::Stopping], &[]);
    log.flush(LAST_WORDS);
    Ok(())
}

impl Arguments {
    fn directory(&self) -> Result<PathBuf, ClientError> {
        let of_unit = || env::var_os("RUNTIME_DIRECTORY").filter(|path| !path.is_empty());
        let directory = self.directory.clone().or_else(|| of_unit().map(PathBuf::from));
        directory.ok_or_else(|| {
            let advice = "Name one with --directory, or set RuntimeDirectory= in the unit.";
            ClientError::new(Exit::Usage, "no directory for the files is named", advice)
        })
    }
}

/// The groups to which this process can give a file.
fn own_groups() -> impl Fn(Gid) -> bool {
    let groups = getgroups().unwrap_or_default();
    let primary = getegid();
    move |gid| gid == primary || groups.contains(&gid)
}

impl<'a, C: Clock> Keeper<'a, C> {
    fn new(daemon: &'a Daemon, clock: C, files: Vec<KeptFile>, store: FileStore) -> Self {
        let mut tokens: Vec<KeptToken> = Vec::new();
        for (index, file) in files.iter().enumerate() {
            match tokens.iter_mut().find(|token| token.key == file.key) {
                Some(token) => token.files.push(index),
                None => tokens.push(KeptToken {
                    key: file.key.clone(),
                    files: vec![index],
                }),
            }
        }
        let mut keeper = Self {
            schedule: Schedule::new(tokens.len(), clock.now()),
            reports: files.iter().map(FileReport::new).collect(),
            daemon,
            clock,
            files,
            tokens,
            store,
            answers: JoinSet::new(),
            told: None,
        };
        keeper.take_over();
        keeper
    }

    /// Removes the former process's files that the settings no longer have, or have for another token. The others stay
    /// until their token expires or the daemon gives a newer one.
    fn take_over(&mut self) {
        let now = self.clock.now();
        for former in self.store.former().files {
            let Some(expires_on) = former.expires_on else { continue };
            let same = self.reports.iter_mut().enumerate().find(|(_, report)| {
                let state = report.state();
                (&state.name, &state.resource, &state.identity) == (&former.name, &former.resource, &former.identity)
            });
            if let Some((index, report)) = same {
                report.inherited(expires_on);
                let token = self.tokens.iter().position(|token| token.files.contains(&index));
                self.schedule
                    .had(token.unwrap_or(usize::MAX), Duration::from_secs(expires_on), now);
            } else if let Err(error) = self.store.remove(&former.name) {
                warn!(file = %former.name, "cannot remove a file that is no longer in the settings: {error}");
            }
        }
    }

    async fn keep(&mut self) {
        loop {
            self.expire();
            self.ask();
            self.tell();
            let wait = self.schedule.wait(self.clock.now());
            tokio::select! {
                Some(Ok((token, answer))) = self.answers.join_next() => self.answered(token, answer),
                () = sleep(wait) => {}
            }
        }
    }

    fn expire(&mut self) {
        for token in self.schedule.expired(self.clock.now()) {
            for index in self.files_of(token) {
                if let (Some(file), Some(report)) = (self.files.get(index), self.reports.get_mut(index)) {
                    report.expired(self.store.remove(&file.name));
                }
            }
        }
    }

    fn ask(&mut self) {
        for index in self.schedule.due(self.clock.now()) {
            let Some(token) = self.tokens.get(index) else { continue };
            let (daemon, key) = (self.daemon.clone(), token.key.clone());
            self.answers
                .spawn(async move { (index, get::patient(&daemon, &key, Mode::Get, None).await) });
        }
    }

    fn answered(&mut self, token: usize, answer: Result<Response, ClientError>) {
        if let Err(failure) = answer.and_then(|answer| self.write(token, &answer)) {
            self.schedule.failed(token, failure.retry_in, self.clock.now());
            for index in self.files_of(token) {
                if let Some(report) = self.reports.get_mut(index) {
                    report.failed(failure.exit, failure.to_string());
                }
            }
        }
    }

    fn write(&mut self, token: usize, answer: &Response) -> Result<(), ClientError> {
        let Some(KeptToken { key, .. }) = self.tokens.get(token) else {
            return Ok(());
        };
        let issued = get::issued(answer, key)?;
        // The daemon rounds `expires_in` down.
        let [expires_on, left] = [issued.expires_on, issued.expires_in + 1].map(Duration::from_secs);
        if !self.schedule.got(token, expires_on, left, self.clock.now()) {
            let cause = format!("the token for {key} has expired by this machine's clock");
            return Err(ClientError::new(Exit::TryLater, cause, "Set the clock: `timedatectl`."));
        }
        for index in self.files_of(token) {
            if let (Some(file), Some(report)) = (self.files.get(index), self.reports.get_mut(index)) {
                match self.store.keep(index, file, &issued) {
                    Ok(changed) => report.kept(issued.expires_on, changed),
                    Err(error) => report.failed(Exit::Other, format!("cannot be written: {error}")),
                }
            }
        }
        Ok(())
    }

    /// Tells systemd and the state file about changes. What could not be told is told again the next time.
    fn tell(&mut self) {
        let state = FileStates {
            files: self.reports.iter().map(|report| report.state().clone()).collect(),
        };
        let was_ready = self.told.as_ref().is_some_and(|(_, is_ready)| *is_ready);
        let is_ready = was_ready || self.reports.iter().all(FileReport::is_current);
        let news = (state, is_ready);
        if self.told.as_ref() == Some(&news) {
            return;
        }
        if let Err(error) = self.store.tell(&news.0) {
            warn!("cannot write the report for `msi-token doctor`: {error}");
        }
        let line = news.0.line();
        let ready = (is_ready && !was_ready).then_some(NotifyState::Ready);
        let message: Vec<_> = ready.into_iter().chain([NotifyState::Status(&line)]).collect();
        if notify(&message, &[]).is_ok() {
            self.told = Some(news);
        }
    }

    fn files_of(&self, token: usize) -> Vec<usize> {
        self.tokens
            .get(token)
            .map_or_else(Vec::new, |token| token.files.clone())
    }
}
