//! How much memory the process can take at most, as a memory cgroup counts it: what each bound allows at its worst, all
//! of it at the same time, with the kernel's buffers. `MemoryMax=` in the unit is above the sum for the defaults.
//!
//! What is measured here was measured by `tests/memory/run` in a cgroup of its own.

use std::fmt;

use crate::access::SEND_BUFFER;
use crate::config::Config;
use crate::key::{MAX_IDENTITY, MAX_RESOURCE};
use crate::listen::RECEIVE_BUFFER;
use crate::memory_limit::Limit;
use crate::observe::{evidence, log};
use crate::server;
use crate::upstream;

/// Measured: 2 MB with 40 tokens. On top come what the audit remembers, some 2 MB, and what the allocator keeps.
const PROGRAM: usize = 5_500_000;
/// A resource, an identity, client capabilities and an authority, each at its longest.
const KEY: usize = MAX_RESOURCE + 3 * MAX_IDENTITY;
/// A key in the cache or in the document that systemd holds: beside its names its times and its last failure.
const ENTRY: usize = KEY + 2048;
/// What documents say of a key. `/metrics` names it in two series, and never its capabilities or
/// its authority.
const LINES: usize = 2 * (MAX_RESOURCE + MAX_IDENTITY + 128);

/// The kernel's objects for a connection. Measured: 1.5 KB over the Unix socket, 3.9 KB over TCP.
const SOCKET: usize = 4096;
/// The kernel takes twice the size that is set, and one more piece, which it rounds up, before it finds a buffer full.
const FULL: usize = 4;
/// A connection's task with hyper's state. Measured: 4.1 KB beside the buffer for the request's head.
const TASK: usize = 5120;
/// An error that names a key and says what the endpoint said, twice in App Service's shape.
const ERROR: usize = 4096;

/// A request that is passed on, beside its caller's connection: hyper's buffers each way, what of both bodies is on its way,
/// and a task.
const PASSED: usize = SOCKET + FULL * 2 * server::KERNEL_BUFFER as usize + 4 * server::READ_BUFFER + 2 * TASK;

/// What is held for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    what: &'static str,
    bytes: usize,
}

/// All that can be held under a configuration. Its text is a table with the sum in its last line.
#[derive(Debug)]
pub struct Budget([Item; 9]);

/// Bytes for people; rounded up, so that nothing looks as if it would fit that does not.
struct Mebibytes(usize);

impl Budget {
    /// With every listener switched on, since the units can do that without touching the configuration.
    pub fn of(config: &Config) -> Self {
        let connections = config.limits.max_connections + server::MONITORS.total + 2 * server::BEYOND;
        let kernel = SOCKET + FULL * (SEND_BUFFER + RECEIVE_BUFFER);
        let connection = kernel + server::MAX_HEAD + server::MAX_KEPT_TARGET + KEY + TASK + ERROR;
        let (keys, tokens) = (config.cache.max_tokens, config.cache.max_bytes);
        let cache = tokens.saturating_add(keys * ENTRY);
        let document = keys * LINES;
        let item = |what, bytes| Item { what, bytes };
        Self([
            item("the program", PROGRAM),
            item("connections", connections * connection),
            item("what the lock passes on", server::SLOTS.total * PASSED),
            item("tokens and their keys", cache),
            item("what the lock saw", evidence::MAX_BYTES),
            // As it is, and as it was before.
            item("the cache that systemd holds", cache.saturating_mul(2)),
            // A text that grows may have room for as much again.
            item("documents", server::MAX_DOCUMENTS.max(document) + 2 * document),
            item("waiting log records", log::MAX_WAITING),
            item(
                "replies of the endpoint",
                config.upstream.max_concurrent * 2 * upstream::MAX_BODY,
            ),
        ])
    }

    fn sum(&self) -> usize {
        self.0.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    /// What to tell the administrator where the kernel allows less.
    pub fn warning(&self) -> Option<String> {
        self.warning_for(&Limit::of_process()?)
    }

    fn warning_for(&self, limit: &Limit) -> Option<String> {
        (self.sum() > limit.bytes).then(|| {
            format!(
                "callers and the cache can take up to {} MiB together, and the memory cgroup {} allows {} MiB: the kernel \
                 may kill the daemon; raise MemoryMax= in its unit, or lower limits.max_connections, cache.max_bytes or \
                 cache.max_tokens",
                Mebibytes(self.sum()),
                limit.cgroup.display(),
                Mebibytes(limit.bytes),
            )
        })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = Item {
            what: "in all",
            bytes: self.sum(),
        };
        for Item { what, bytes } in self.0.iter().chain([&sum]) {
            writeln!(f, "{what:<32} {:>6}", Mebibytes(*bytes).to_string())?;
        }
        Ok(())
    }
}

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.saturating_mul(10).div_ceil(1 << 20);
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = include_str!("../systemd/msi-tokend.service");

    #[test]
    fn the_unit_shows_the_sum_for_the_defaults_and_allows_it() {
        let budget = Budget::of(&Config::default());
        for line in budget.to_string().lines() {
            assert!(
                UNIT.lines().any(|of_unit| of_unit == format!("#   {line}")),
                "the unit has to say:\n{budget}"
            );
        }
        let allowed = UNIT.lines().find_map(|line| line.strip_prefix("MemoryMax=")).unwrap();
        let allowed: usize = allowed.strip_suffix('M').unwrap().parse().unwrap();
        assert!(budget.sum() < allowed << 20, "{budget}");
    }

    #[test]
    fn every_bound_counts() {
        let sum = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            Budget::of(&config).sum()
        };
        let before = sum(|_| {});
        assert!(sum(|config| config.limits.max_connections += 1) > before);
        assert!(sum(|config| config.cache.max_tokens += 1) > before);
        assert!(sum(|config| config.cache.max_bytes += 1) > before);
        assert!(sum(|config| config.upstream.max_concurrent += 1) > before);
    }

    #[test]
    fn a_limit_below_the_sum_is_told_and_one_above_is_not() {
        let budget = Budget::of(&Config::default());
        let warning = |bytes| {
            budget.warning_for(&Limit {
                bytes,
                cgroup: "/a.service".into(),
                usage: Vec::new(),
            })
        };
        assert_eq!(warning(budget.sum()), None);
        let text = warning(64 << 20).unwrap();
        assert!(text.contains("/a.service") && text.contains(" 64.0 MiB"), "{text}");
    }

    #[test]
    fn mebibytes_are_rounded_up() {
        for (bytes, text) in [(0, "0.0"), (1, "0.1"), (1 << 20, "1.0"), ((1 << 20) + 1, "1.1")] {
            assert_eq!(Mebibytes(bytes).to_string(), text);
        }
    }
}
