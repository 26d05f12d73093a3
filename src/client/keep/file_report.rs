//! What people read about the files: the unit's status line, and journal lines about changes.

use tracing::{error, info, warn};

use super::file_store::{FileState, FileStates};
use crate::client::error::{Exit, printable};
use crate::client::forms::instant;
use crate::config::keep::KeptFile;
use crate::observe::events;

/// How many files the status line names; it is one line on a terminal.
const NAMED: usize = 3;

/// The state of one file, and what was logged about it.
#[derive(Debug)]
pub struct FileReport {
    state: FileState,
    /// The kind of failure that was logged.
    told: Option<Exit>,
    /// This process has written the file, or found it with the right token.
    is_current: bool,
}

impl FileReport {
    /// A file that does not exist yet.
    pub fn new(file: &KeptFile) -> Self {
        let state = FileState {
            name: file.name.clone(),
            resource: file.key.resource.to_string(),
            identity: file.key.identity.to_string(),
            expires_on: None,
            trouble: None,
        };
        Self {
            state,
            told: None,
            is_current: false,
        }
    }

    /// The former process has left the file.
    pub fn inherited(&mut self, expires_on: u64) {
        self.state.expires_on = Some(expires_on);
    }

    /// Whether this process has had the daemon's token in the file.
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// The state for the state file.
    pub fn state(&self) -> &FileState {
        &self.state
    }

    /// The file holds the daemon's token; `changed` if it was written now.
    pub fn kept(&mut self, expires_on: u64, changed: bool) {
        let FileState {
            name,
            resource,
            identity,
            ..
        } = &self.state;
        let until = instant(expires_on);
        if self.told.is_some() {
            info!(
                message_id = events::FILE_RENEWED,
                file = %name, %resource, %identity, expires_on = %until, "the file is renewed again"
            );
        } else if changed {
            info!(file = %name, %resource, %identity, expires_on = %until, "the file has a new token");
        }
        self.told = None;
        self.is_current = true;
        self.state.trouble = None;
        self.state.expires_on = Some(expires_on);
    }

    /// There is no newer token for the file, or it could not be written. Each kind of failure is logged once.
    pub fn failed(&mut self, kind: Exit, why: String) {
        let FileState {
            name,
            resource,
            identity,
            ..
        } = &self.state;
        if self.told != Some(kind) {
            let until = self
                .state
                .expires_on
                .map_or_else(|| "there is none".to_owned(), instant);
            warn!(
                message_id = events::FILE_FAILING,
                file = %name, %resource, %identity, expires_on = %until, error = %why, "the file cannot be renewed"
            );
        }
        self.told = Some(kind);
        self.state.trouble = Some(why);
    }

    /// Its token has expired; `removed` is the result of removing the file.
    pub fn expired(&mut self, removed: std::io::Result<()>) {
        let FileState {
            name,
            resource,
            identity,
            trouble,
            ..
        } = &self.state;
        let why = trouble.as_deref().unwrap_or("the daemon gave no newer token in time");
        match removed {
            Ok(()) => error!(
                message_id = events::FILE_EXPIRED,
                file = %name, %resource, %identity, error = %why, "the token has expired: the file is removed"
            ),
            Err(error) => error!(
                message_id = events::FILE_EXPIRED,
                file = %name, %resource, %identity, error = %why,
                "the token has expired, and the file cannot be removed: {error}"
            ),
        }
        // So that the next token is logged as the end of a failure.
        self.told.get_or_insert(Exit::TryLater);
        self.state
            .trouble
            .get_or_insert_with(|| "its token has expired".to_owned());
        self.state.expires_on = None;
    }
}

impl FileStates {
    /// One line: how many files are kept, which are missing or not renewed, and why.
    pub fn line(&self) -> String {
        let (there, missing): (Vec<_>, Vec<_>) = self.files.iter().partition(|file| file.expires_on.is_some());
        let stale: Vec<_> = there.iter().copied().filter(|file| file.trouble.is_some()).collect();
        let mut line = match (there.len(), self.files.len()) {
            (1, 1) => "1 file kept".to_owned(),
            (there, all) if there == all => format!("{all} files kept"),
            (there, all) => format!("{there} of {all} files kept"),
        };
        line.push_str(&named("missing", &missing));
        line.push_str(&named("not renewed", &stale));
        line
    }
}

fn named(what: &str, files: &[&FileState]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let named = files.iter().take(NAMED).map(|file| {
        let until = file.expires_on.map(|at| format!("good until {}: ", instant(at)));
        let why = file.trouble.as_deref().unwrap_or("not asked yet");
        format!("{} ({}{})", file.name, until.unwrap_or_default(), printable(why))
    });
    let named = named.collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(NAMED) {
        0 => format!("; {what}: {named}"),
        more => format!("; {what}: {named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(files: &[(&str, Option<u64>, Option<&str>)]) -> FileStates {
        let files = files.iter().map(|(name, expires_on, trouble)| FileState {
            name: (*name).to_owned(),
            resource: "r".to_owned(),
            identity: "default".to_owned(),
            expires_on: *expires_on,
            trouble: trouble.map(str::to_owned),
        });
        FileStates { files: files.collect() }
    }

    #[test]
    fn the_line_names_what_is_missing_and_why() {
        let all = state(&[("a", Some(7), None), ("b", Some(7), None)]);
        assert_eq!(all.line(), "2 files kept");
        let some = state(&[
            ("a", Some(1_764_010_000), Some("no answer")),
            ("b", None, Some("no rule")),
            ("c", None, None),
            ("d", None, None),
            ("e", None, None),
        ]);
        assert_eq!(
            some.line(),
            "1 of 5 files kept; missing: b (no rule), c (not asked yet), d (not asked yet) and 1 more; \
             not renewed: a (good until 2025-11-24T18:46:40Z: no answer)"
        );
    }
}
