//! What of a configuration goes to whom, at the start and at a reload, and what is warned of.

use std::sync::Once;

use tracing::warn;

use crate::access::{Machine, Rules, UnitsUnknown};
use crate::broker::Policy;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Violations};
use crate::descriptors;
use crate::memory::Budget;
use crate::observe::status::ConfigurationStatus;
use crate::server::{Bounds, Settings};

pub(super) fn warn_of(doubts: &Violations) {
    for doubt in doubts.iter() {
        warn!("{doubt}");
    }
}

pub(super) fn warn_of_memory(config: &Config) {
    if let Some(warning) = Budget::of(config).warning() {
        warn!("{warning}");
    }
}

fn rules(config: &Config) -> Rules {
    let (rules, doubts) = Rules::resolve(&config.allow, config.access.root, nix::unistd::geteuid().as_raw());
    for doubt in doubts {
        warn!("{doubt}");
    }
    rules
}

/// For callers over TCP.
pub(super) async fn follow_rules(machine: &Machine, rules: &Rules) {
    if rules.need_units()
        && let Some(why) = machine.units_unknown_because()
    {
        static SAID: Once = Once::new();
        SAID.call_once(|| warn!("rules with units match nobody over TCP: {why}"));
    }
    machine.follow(rules.named_groups(), rules.named_units()).await;
}

pub(super) fn of(config: &Config, hash: String, machine: &Machine) -> Settings {
    let rules = rules(config);
    let units_unknown = rules.need_units().then(|| UnitsUnknown::on_socket(machine)).flatten();
    if let Some(unknown) = &units_unknown {
        static SAID: Once = Once::new();
        SAID.call_once(|| warn!("{unknown}"));
    }
    Settings {
        rules,
        units_unknown,
        bounds: bounds(config),
        header_timeout: config.limits.header_timeout,
        audit: config.log.audit,
        configuration: ConfigurationStatus {
            hash,
            loaded_at: SystemClock.now().wall.as_secs(),
        },
        lock: config.lock.clone(),
        connect_timeout: config.upstream.connect_timeout,
    }
}

/// Those of the configuration, as far as there are descriptors for them.
fn bounds(config: &Config) -> Bounds {
    let wanted = config.limits.max_connections;
    let total = descriptors::make_room(wanted, config.upstream.max_concurrent).unwrap_or(wanted);
    if total < wanted {
        warn!(
            "limits.max_connections is {wanted}, and there are descriptors for {total}: raise LimitNOFILE= in the unit, or lower it"
        );
    }
    Bounds {
        total,
        per_uid: config.limits.max_connections_per_uid,
    }
}

pub(super) fn policy(config: &Config) -> Policy {
    Policy {
        max_tokens: config.cache.max_tokens,
        max_bytes: config.cache.max_bytes,
        max_tokens_per_uid: config.cache.max_tokens_per_uid,
        idle_drop: config.cache.idle_drop,
        caller_wait: config.limits.caller_wait,
        max_concurrent: config.upstream.max_concurrent,
        max_per_second: config.upstream.max_per_second,
        warm: config.warm.clone(),
    }
}
