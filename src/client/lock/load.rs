//! `lock load`: what msi-tokend-lock.service runs. It must not fail on a slip in a file: a lock that is not loaded leaves the
//! metadata service open to everybody.

use std::path::{Path, PathBuf};

use clap::Args;

use super::neighbours::{self, refused};
use super::nft;
use super::rules;
use crate::access::uid_of;
use crate::client::error::ClientError;
use crate::config::{self, Account, Lock, LockMode};
use crate::observe::lock::{STATE, loaded_mode};
use crate::replace::replace_at;

/// Whom systemd asks the metadata service as, from version 261 on.
const SYSTEMD_USER: &str = "systemd-imds";

#[derive(Args)]
pub struct Arguments {
    /// The daemon's configuration file; conf.d/*.toml beside it is read after it.
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Whom the daemon runs as.
    #[arg(long, value_name = "USER", default_value = "msi-tokend", value_parser = account)]
    user: Account,
}

fn account(text: &str) -> Result<Account, &'static str> {
    Account::named(text).ok_or("is no user id")
}

/// Loads the rules and notes in [`STATE`] which they are.
pub fn run(arguments: &Arguments) -> Result<(), ClientError> {
    let lock = wanted(&arguments.config)?;
    let Some(daemon) = uid_of(&arguments.user) else {
        let cause = format!("there is no user {}", arguments.user);
        return Err(refused(cause, "The package makes it: install msi-tokend anew."));
    };
    let mut exempt = vec![0, daemon];
    for user in &lock.exempt_users {
        match uid_of(user) {
            Some(uid) => exempt.push(uid),
            None => {
                eprintln!("msi-token: warning: lock.exempt_users: there is no user {user}, so nobody is exempt by it");
            }
        }
    }
    exempt.extend(uid_of(&Account::Name(SYSTEMD_USER.to_owned())));
    exempt.sort_unstable();
    exempt.dedup();
    neighbours::check(lock.mode)?;
    nft::load(&rules::text(&exempt, lock.mode))?;
    replace_at(Path::new(STATE), lock.mode.name().as_bytes(), 0o644)
        .map_err(|error| ClientError::system(&format!("write {STATE}"), &error))?;
    println!("the lock is loaded: {}", lock.mode.name());
    Ok(())
}

/// What the configuration says, or the strictest where it says nothing that can be relied on.
fn wanted(path: &Path) -> Result<Lock, ClientError> {
    match config::load(path) {
        Ok(loaded) if loaded.config.upstream.is_metadata_service() => Ok(loaded.config.lock),
        Ok(_) => Err(refused(
            "the lock is about the metadata service, and tokens come from elsewhere here",
            "Set upstream.kind to \"imds\" and leave upstream.endpoint out, or disable msi-tokend-lock.service.",
        )),
        Err(violations) => {
            eprintln!("msi-token: {violations}");
            let mode = loaded_mode().unwrap_or(LockMode::Observe);
            eprintln!(
                "msi-token: warning: the configuration has faults, so the strictest rules are loaded: root and the daemon \
                 are exempt and nobody else, and the mode is {}",
                mode.name()
            );
            Ok(Lock {
                mode,
                exempt_users: Vec::new(),
                ..config::Config::default().lock
            })
        }
    }
}
