//! What `doctor` says of the configuration files: faults, what the daemon cannot read, and whether it goes by them.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::connection::Daemon;
use super::error::Exit;
use super::finding::Finding;
use super::forms::instant;
use crate::config::{self, Loaded, Violations};
use crate::observe::status::Status;

/// The files that are judged.
pub struct ConfigFiles {
    main: PathBuf,
    /// Whether the packaged service reads them, which has a user of its own.
    of_service: bool,
}

impl ConfigFiles {
    /// Those named, or the service's; nothing where another daemon is asked, which may have any.
    pub fn of(daemon: &Daemon, named: Option<&Path>) -> Option<Self> {
        let of_service = daemon.socket() == Path::new(Daemon::SERVICE_SOCKET);
        let main = named
            .or(of_service.then_some(Path::new(config::DEFAULT_PATH)))?
            .to_owned();
        Some(Self { main, of_service })
    }

    /// `status` is that of a daemon that answers.
    pub fn judge(&self, status: Option<&Status>) -> Vec<Finding> {
        let main = self.main.display();
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(violations) => return self.faults(&violations, status.is_some()),
        };
        let verdict = match status.and_then(|status| status.configuration.as_ref()) {
            Some(running) if running.hash != loaded.hash => Finding::Wrong(
                Exit::Configuration,
                format!(
                    "{main} or its conf.d has changed since the daemon loaded it at {}: it goes by what was there then",
                    instant(running.loaded_at)
                ),
                "`systemctl reload msi-tokend` loads the files as they are now; a change of [listen] needs a restart."
                    .to_owned(),
            ),
            Some(running) => Finding::Well(format!(
                "{main} and its conf.d are in effect, loaded at {}",
                instant(running.loaded_at)
            )),
            None => Finding::Well(format!("{main} and its conf.d have no fault")),
        };
        let doubts = loaded.doubts.iter().map(|doubt| {
            let why = "The daemon takes it as it is; it is rarely meant so.";
            Finding::Note(doubt.to_string(), why.to_owned())
        });
        std::iter::once(verdict).chain(doubts).collect()
    }

    fn faults(&self, violations: &Violations, answers: bool) -> Vec<Finding> {
        let is_certain = !self.of_service || geteuid().is_root();
        let cure = if answers {
            "The daemon goes by what it loaded before, and its next start would fail: correct this, then `systemctl reload \
             msi-tokend`."
        } else {
            "Correct this, then `systemctl restart msi-tokend`."
        };
        let finding = |violation: &config::Violation| {
            if violation.is_of_the_file() && !is_certain {
                let why = "The daemon runs as another user, which may well read it: `sudo msi-token doctor` tells.";
                Finding::Note(violation.to_string(), why.to_owned())
            } else {
                Finding::Wrong(Exit::Configuration, violation.to_string(), cure.to_owned())
            }
        };
        violations.iter().map(finding).collect()
    }

    /// As the daemon would: root can read what the service cannot.
    fn load(&self) -> Result<Loaded, Violations> {
        if self.of_service {
            config::load_as_service(&self.main)
        } else {
            config::load(&self.main)
        }
    }
}
