//! What must hold for any configuration files.

use std::path::Path;
use std::str;
use std::sync::Arc;

use super::files::SourceFile;
use super::load::understand;
use super::{Account, Config, Loaded, Origin, Violations};

/// Begins the next file.
const NEXT_FILE: &str = "\n#--\n";

/// `input` is one file, or several with a line `#--` between them. Returns whether they are a valid configuration.
///
/// # Panics
/// Something does not hold.
pub fn config(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let loaded = load(text);
    let is_good = loaded.is_ok();
    match loaded {
        Ok(loaded) => {
            assert_is_sound(&loaded.config);
            let printed = loaded.effective.to_string();
            let again = load(&printed).unwrap_or_else(|violations| panic!("{printed}\n{violations}"));
            assert_eq!(without_places(again.config), without_places(loaded.config), "{printed}");
        }
        Err(violations) => {
            assert!(violations.iter().next().is_some());
            for problem in violations.iter() {
                let line = problem.to_string();
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert!(!problem.what.is_empty() && !problem.remedy.is_empty(), "{line}");
                assert!(
                    problem
                        .line
                        .is_none_or(|line| (1..=1 + text.matches('\n').count()).contains(&line)),
                    "{line}"
                );
            }
        }
    }
    is_good
}

fn load(text: &str) -> Result<Loaded, Violations> {
    let sources: Vec<SourceFile> = text
        .split(NEXT_FILE)
        .enumerate()
        .map(|(index, text)| SourceFile {
            path: Path::new(&format!("/etc/msi-tokend/{index}.toml")).into(),
            text: text.to_owned(),
        })
        .collect();
    understand(&sources, Vec::new())
}

fn assert_is_sound(config: &Config) {
    let Config {
        upstream,
        listen,
        cache,
        limits,
        warm,
        allow,
        ..
    } = config;
    assert!(upstream.endpoint.scheme_str() == Some("http") && upstream.endpoint.host().is_some());
    assert!(upstream.endpoint.query().is_none() && upstream.endpoint.path().starts_with('/'));
    let counts = [
        upstream.max_concurrent,
        upstream.max_per_second,
        cache.max_tokens,
        cache.max_bytes,
        cache.max_tokens_per_uid,
        limits.max_connections,
        limits.max_connections_per_uid,
    ];
    assert!(counts.iter().all(|count| *count > 0));
    let waits = [
        upstream.connect_timeout,
        upstream.request_timeout,
        cache.idle_drop,
        limits.header_timeout,
        limits.caller_wait,
    ];
    assert!(waits.iter().all(|wait| !wait.is_zero()));
    assert!(listen.socket.is_absolute() && listen.sdk_env.is_absolute() && listen.sdk_env != listen.socket);
    let addresses = [listen.sdk, listen.monitor];
    assert!(addresses.iter().flatten().all(|address| address.ip().is_loopback()));
    assert!(listen.socket_mode <= 0o777);
    assert!(warm.len() <= cache.max_tokens);
    for (index, key) in warm.iter().enumerate() {
        assert!(!warm.iter().skip(index + 1).any(|other| other == key));
    }
    for rule in allow {
        assert!(
            rule.users.is_some() || rule.groups.is_some() || rule.units.is_some(),
            "{rule:?}"
        );
        let is_somebody = |account: &Account| !matches!(account, Account::Name(name) if name.is_empty());
        let mut accounts = [&rule.users, &rule.groups].into_iter().flatten();
        assert!(accounts.all(|list| !list.is_empty() && list.iter().all(is_somebody)));
        let mut units = rule.units.iter();
        assert!(units.all(|list| !list.is_empty() && list.iter().all(|unit| !unit.is_empty())));
        assert!(rule.resources.as_ref().is_none_or(|list| !list.is_empty()));
        assert!(rule.identities.as_ref().is_none_or(|list| !list.is_empty()));
    }
}

/// The rules without their places, for a comparison.
fn without_places(mut config: Config) -> Config {
    let nowhere = Origin {
        file: Arc::from(Path::new("")),
        line: 0,
    };
    for rule in &mut config.allow {
        rule.origin = nowhere.clone();
    }
    config
}
