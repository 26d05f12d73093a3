//! From files to a [`Config`]: the files are merged, then rules that concern several keys are checked.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hyper::Uri;
use sha2::{Digest, Sha256};

use super::doubts;
use super::effective::Printer;
use super::files::{self, SourceFile};
use super::read::{Names, Origins, Reader};
use super::schema::{AllowTable, Draft, Warm};
use super::violation::FaultKind;
use super::{Allow, Config, Effective, Listen, Origin, Violation, Violations};
use crate::key::{Identity, Key};

/// A configuration without violations.
#[derive(Debug)]
pub struct Loaded {
    /// What the daemon uses.
    pub config: Config,
    /// What `--check` prints.
    pub effective: Effective,
    /// SHA-256 of the files, in hexadecimal digits: whether two processes have read the same.
    pub hash: String,
    /// To warn of.
    pub doubts: Violations,
}

/// Reads `main` and `conf.d/*.toml` beside it, in name order: a later file wins key by key, `[[warm]]` and `[[allow]]`
/// append. A warm token that is listed twice is one: two packages may want the same.
///
/// Each file must be a regular one, not a link, belong to root or to the user of this process and be writable by its
/// owner alone; so must `conf.d`, which may be missing.
pub fn load(main: &Path) -> Result<Loaded, Violations> {
    let mut violations = Vec::new();
    let sources = files::read_all(main, &mut violations);
    understand(&sources, violations)
}

/// Merges the files; `violations` are those of reading them.
pub(super) fn understand(sources: &[SourceFile], mut violations: Vec<Violation>) -> Result<Loaded, Violations> {
    let names = names();
    let mut draft = Draft::new(Config::default());
    let mut origins = Origins::new();
    for source in sources {
        let (mut reader, root) = Reader::parse(source, &names, &mut violations);
        let Some(mut root) = root else { continue };
        reader.section(&mut root, "upstream", &mut origins, |v| draft.upstream_keys(v));
        reader.section(&mut root, "listen", &mut origins, |v| draft.listen_keys(v));
        reader.section(&mut root, "cache", &mut origins, |v| draft.cache_keys(v));
        reader.section(&mut root, "limits", &mut origins, |v| draft.limits_keys(v));
        reader.section(&mut root, "access", &mut origins, |v| draft.access_keys(v));
        reader.section(&mut root, "lock", &mut origins, |v| draft.lock_keys(v));
        reader.section(&mut root, "log", &mut origins, |v| draft.log_keys(v));
        for (origin, table) in reader.tables(&mut root, "warm") {
            let mut warm = Warm::default();
            let given = reader.table("warm", table, None, |v| warm.keys(v));
            reader.note(check_warm(&given, &origin));
            draft.warm.push((origin, warm));
        }
        for (origin, table) in reader.tables(&mut root, "allow") {
            let mut rule = AllowTable::default();
            let given = reader.table("allow", table, None, |v| rule.keys(v));
            reader.note(check_rule(&given, rule.default_identity, &origin));
            draft.allow.push((origin, rule));
        }
        reader.unknown_sections(&root);
    }
    // Without the values of a file that could not be read, rules about several keys cannot be checked.
    let whole = violations.iter().all(|problem| problem.class > FaultKind::Syntax);
    let config = complete(&mut draft);
    if whole {
        check_whole(&config, &draft, &origins, &mut violations);
    }
    let warm: Vec<_> = draft
        .warm
        .iter()
        .filter_map(|(origin, warm)| Some((origin, key_of(warm)?)))
        .collect();
    violations.extend(doubts::of_warm(&warm));
    let (doubts, violations): (Vec<_>, Vec<_>) = violations
        .into_iter()
        .partition(|found| found.class == FaultKind::Doubt);
    if violations.is_empty() {
        let effective = print(&mut draft, &origins);
        let hash = hash(sources);
        Ok(Loaded {
            config,
            effective,
            hash,
            doubts: Violations::new(doubts),
        })
    } else {
        Err(Violations::new(violations))
    }
}

/// The hash of names and texts, without directories: the same configuration may be loaded by different paths.
fn hash(sources: &[SourceFile]) -> String {
    let mut hasher = Sha256::new();
    for source in sources {
        let name = source.path.file_name().unwrap_or_default().as_bytes();
        for part in [name, source.text.as_bytes()] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
    }
    let digits: Vec<String> = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn names() -> Names {
    let mut draft = Draft::new(Config::default());
    let mut names = Names::default();
    draft.upstream_keys(names.enter("upstream"));
    draft.listen_keys(names.enter("listen"));
    draft.cache_keys(names.enter("cache"));
    draft.limits_keys(names.enter("limits"));
    draft.access_keys(names.enter("access"));
    draft.lock_keys(names.enter("lock"));
    draft.log_keys(names.enter("log"));
    Warm::default().keys(names.enter("warm"));
    AllowTable::default().keys(names.enter("allow"));
    names
}

/// Checks which keys were given. A key with a bad value counts as given, since it is reported already.
fn check_warm(given: &[&str], origin: &Origin) -> Option<Violation> {
    if !given.contains(&"resource") {
        let remedy = "add resource, such as resource = \"https://storage.azure.com/\"";
        Some(Violation::at(origin, "warm", "names no resource", remedy))
    } else if given.len() > 2 {
        let what = "names more than one identity";
        let remedy = "keep one of client_id, object_id, resource_id, and add a [[warm]] for each other one";
        Some(Violation::at(origin, "warm", what, remedy))
    } else {
        None
    }
}

const DEFAULTS: [&str; 3] = ["default_client_id", "default_object_id", "default_resource_id"];

fn check_rule(given: &[&str], default_identity: Option<bool>, origin: &Origin) -> Option<Violation> {
    let any_of = |keys: [&str; 3]| keys.iter().any(|key| given.contains(key));
    let mut defaults = given.iter().filter(|key| DEFAULTS.contains(key));
    let (default, another) = (defaults.next(), defaults.next());
    if !any_of(["users", "groups", "units"]) {
        let what = "has neither users nor groups nor units";
        let remedy = "add users, groups or units, or remove the rule";
        Some(Violation::at(origin, "allow", what, remedy))
    } else if another.is_some() {
        let what = "names more than one identity for callers that name none";
        let remedy = format!("keep one of {}", DEFAULTS.join(", "));
        Some(Violation::at(origin, "allow", what, remedy))
    } else if let Some(default) = default
        && given.contains(&"default_identity")
    {
        let what = format!("does not go with {default}: no caller of this rule gets the VM's default identity");
        let remedy = "remove one of the two";
        Some(Violation::at(origin, "allow.default_identity", what, remedy))
    } else if default_identity == Some(false) && !any_of(["client_ids", "object_ids", "resource_ids"]) {
        let what = "allows no identity";
        let remedy = "list the identities in client_ids, or leave default_identity out to allow any identity";
        Some(Violation::at(origin, "allow.default_identity", what, remedy))
    } else {
        None
    }
}

/// Fills in values that depend on other keys, also in the draft, for printing.
fn complete(draft: &mut Draft) -> Config {
    let (kind, socket) = (draft.upstream.kind, &draft.listen.socket);
    draft.upstream.endpoint = draft.endpoint.get_or_insert_with(|| kind.default_endpoint()).clone();
    draft.listen.sdk_env = draft
        .sdk_env
        .get_or_insert_with(|| Listen::sdk_env_beside(socket))
        .clone();
    let mut warm = Vec::new();
    for key in draft.warm.iter().filter_map(|(_, warm)| key_of(warm)) {
        if !warm.contains(&key) {
            warm.push(key);
        }
    }
    Config {
        upstream: draft.upstream.clone(),
        listen: draft.listen.clone(),
        cache: draft.cache.clone(),
        limits: draft.limits.clone(),
        access: draft.access.clone(),
        lock: draft.lock.clone(),
        log: draft.log.clone(),
        warm,
        allow: draft.allow.iter().map(|(origin, rule)| allow(rule, origin)).collect(),
    }
}

fn key_of(warm: &Warm) -> Option<Key> {
    let selector = warm
        .client_id
        .as_ref()
        .or(warm.object_id.as_ref())
        .or(warm.resource_id.as_ref());
    Some(Key::new(
        warm.resource.clone()?,
        selector.cloned().unwrap_or(Identity::Default),
    ))
}

fn allow(rule: &AllowTable, origin: &Origin) -> Allow {
    let lists = [&rule.client_ids, &rule.object_ids, &rule.resource_ids];
    let defaults = [
        &rule.default_client_id,
        &rule.default_object_id,
        &rule.default_resource_id,
    ];
    let default = defaults.into_iter().flatten().next().cloned();
    let given = rule.default_identity.is_some() || default.is_some() || lists.iter().any(|list| list.is_some());
    let of_the_vm = rule.default_identity.unwrap_or(false).then_some(Identity::Default);
    let listed = lists.into_iter().flatten().flatten().cloned();
    let identities = listed.chain(of_the_vm).chain(default.clone());
    Allow {
        users: rule.users.clone(),
        groups: rule.groups.clone(),
        units: rule.units.clone(),
        resources: rule.resources.clone(),
        identities: given.then(|| identities.collect()),
        default,
        origin: origin.clone(),
    }
}

fn check_whole(config: &Config, draft: &Draft, origins: &Origins, violations: &mut Vec<Violation>) {
    if config.warm.len() > config.cache.max_tokens
        && let Some((origin, _)) = draft.warm.get(config.cache.max_tokens)
    {
        let (count, max) = (config.warm.len(), config.cache.max_tokens);
        violations.push(Violation::at(
            origin,
            "warm",
            format!("is listed for {count} tokens and the cache holds {max}"),
            format!("set cache.max_tokens to {count} or more, or remove some"),
        ));
    }
    let listeners = [("sdk", config.listen.sdk), ("monitor", config.listen.monitor)];
    for (key, address) in listeners {
        if let Some(address) = address
            && reaches(&config.upstream.endpoint, address)
            && let Some(origin) = origins.get(&("listen", key))
        {
            violations.push(Violation::at(
                origin,
                format!("listen.{key}"),
                "is the address of upstream.endpoint: the daemon would ask itself",
                "choose another port",
            ));
        }
    }
    if let [(_, Some(sdk)), (_, Some(monitor))] = listeners
        && sdk == monitor
        && sdk.port() != 0
        && let Some(origin) = origins.get(&("listen", "monitor"))
    {
        let what = "is the address of listen.sdk as well";
        violations.push(Violation::at(origin, "listen.monitor", what, "choose another port"));
    }
    if config.listen.sdk_env == config.listen.socket
        && let Some(origin) = origins
            .get(&("listen", "sdk_env"))
            .or_else(|| origins.get(&("listen", "socket")))
    {
        let what = "is the path of listen.socket as well";
        violations.push(Violation::at(origin, "listen.sdk_env", what, "choose another name"));
    }
}

/// Whether a request to `endpoint` would come in at the loopback address `listener`. Names other than `localhost` are
/// not looked up.
pub fn reaches(endpoint: &Uri, listener: SocketAddr) -> bool {
    let host = endpoint.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ours = match host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.is_unspecified() || ip.to_canonical() == listener.ip().to_canonical(),
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    };
    ours && endpoint.port_u16().unwrap_or(80) == listener.port()
}

fn print(draft: &mut Draft, origins: &Origins) -> Effective {
    let mut printer = Printer::new(origins);
    draft.upstream_keys(printer.section("upstream"));
    draft.listen_keys(printer.section("listen"));
    draft.cache_keys(printer.section("cache"));
    draft.limits_keys(printer.section("limits"));
    draft.access_keys(printer.section("access"));
    draft.lock_keys(printer.section("lock"));
    draft.log_keys(printer.section("log"));
    for (origin, warm) in &mut draft.warm {
        warm.keys(printer.item("warm", origin));
    }
    for (origin, rule) in &mut draft.allow {
        rule.keys(printer.item("allow", origin));
    }
    printer.finish()
}
