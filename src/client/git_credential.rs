//! `git-credential`: tokens for Azure DevOps, by git's protocol for helpers (`gitcredentials(7)`, `git-credential(1)`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read};

use clap::Args;
use hyper::StatusCode;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::connection::Daemon;
use super::error::{ClientError, tell};
use super::get::{self, Mode};
use super::output;
use super::selection::IdentityOptions;
use crate::key::{Key, Resource};

/// The application id of Azure DevOps in Microsoft Entra:
/// <https://learn.microsoft.com/azure/devops/integrate/get-started/authentication/service-principal-managed-identity>.
const RESOURCE: &str = "499b84ac-1321-427f-aa17-267ca6975798";
/// Azure DevOps ignores the user name.
const USERNAME: &str = "msi-token";
/// Far more than git sends, and little memory.
const MAX_INPUT: u64 = 1024 * 1024;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    selector: IdentityOptions,
    /// get, store or erase, which git appends by itself; any other operation does nothing.
    #[arg(value_name = "OPERATION")]
    operation: String,
}

/// Answers git. For a host other than Azure DevOps it prints nothing, so that git asks its next helper.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<(), ClientError> {
    let mut input = Zeroizing::new(String::new());
    io::stdin()
        .take(MAX_INPUT)
        .read_to_string(&mut input)
        .map_err(|error| ClientError::system("read standard input", &error))?;
    let described = describe(&input);
    if !is_ours(&described) {
        return Ok(());
    }
    let resource = Resource::new(RESOURCE).map_err(|error| ClientError::system("ask", &io::Error::other(error)))?;
    let key = Key::new(resource, arguments.selector.identity());
    match (arguments.operation.as_str(), described.get("password")) {
        ("get", _) => get(daemon, &key, &described).await,
        ("erase", Some(password)) => erase(daemon, &key, password).await,
        // A helper ignores operations that it does not know (gitcredentials(7)).
        _ => Ok(()),
    }
}

/// Reads the lines `key=value`, up to a blank one.
fn describe(input: &str) -> HashMap<&str, &str> {
    let lines = input.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// Whether git may get the token: only for Azure DevOps, and only over TLS.
fn is_ours(described: &HashMap<&str, &str>) -> bool {
    let host = described.get("host").copied().unwrap_or_default().to_ascii_lowercase();
    let is_devops = host == "dev.azure.com" || host.ends_with(".visualstudio.com");
    let is_https = described.get("protocol").is_some_and(|protocol| *protocol == "https");
    if is_devops && !is_https {
        tell(&format!(
            "a token for {host} goes over TLS only: change the remote's address (`git remote -v`) to one that begins with \
             https://"
        ));
    }
    is_devops && is_https
}

async fn get(daemon: &Daemon, key: &Key, described: &HashMap<&str, &str>) -> Result<(), ClientError> {
    let answer = get::patient(daemon, key, Mode::Get, None).await?;
    let issued = get::issued(&answer, key)?;
    let username = described.get("username").copied().unwrap_or(USERNAME);
    output::line(&[
        b"username=",
        username.as_bytes(),
        b"\npassword=",
        issued.token().as_bytes(),
        b"\npassword_expiry_utc=",
        issued.expires_on.to_string().as_bytes(),
    ])
}

/// git reports that a service refused the token. If it is the cached one, the daemon fetches another.
async fn erase(daemon: &Daemon, key: &Key, password: &str) -> Result<(), ClientError> {
    let mut target = get::target(key, Mode::Get) + "&token_sha256_to_refresh=";
    for byte in Sha256::digest(password) {
        _ = write!(target, "{byte:02x}");
    }
    let answer = daemon.held(&target).await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        _ => Err(ClientError::of_answer(&answer, &format!("no new token for {key}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_azure_devops_over_https_is_given_a_token() {
        let ours = |input: &str| is_ours(&describe(input));
        assert!(ours("protocol=https\nhost=dev.azure.com\npath=a/b\n"));
        assert!(ours(
            "capability[]=authtype\nprotocol=https\nhost=Org.VisualStudio.com\n\n"
        ));
        for other in [
            "protocol=http\nhost=dev.azure.com\n",
            "protocol=https\nhost=dev.azure.com.evil.example\n",
            "protocol=https\nhost=visualstudio.com.evil.example\n",
            "protocol=https\nhost=evilvisualstudio.com\n",
            "protocol=https\nhost=dev.azure.com:8443\n",
            "protocol=https\n\nhost=dev.azure.com\n",
            "host=dev.azure.com\n",
            "",
        ] {
            assert!(!ours(other), "{other:?}");
        }
    }
}
