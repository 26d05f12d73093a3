//! The keys that a document tells of, soonest trouble first.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::broker::Entry;
use crate::engine::SLICE;
use crate::key::Key;
use crate::open_array::OpenArray;

/// An item with usual names has some 300 bytes. With room from the start a text of megabytes is not moved while it grows, which
/// takes a millisecond.
const ITEM: usize = 384;

/// In the order of what is left of their tokens, and of their names. Sorted as they come, so that nobody waits for a sort.
#[derive(Debug, Default)]
pub struct Listed(BTreeMap<(Duration, Arc<Key>), Entry>);

impl Listed {
    /// One more.
    pub fn add(&mut self, entry: Entry) {
        self.0.insert((entry.left, Arc::clone(&entry.key)), entry);
    }

    /// `document`, at whose end is an array, with an item for each key. Others have their turn after each slice.
    pub async fn written<T: Serialize>(
        self,
        document: impl Serialize,
        item: impl Fn(&Entry) -> T,
    ) -> io::Result<Vec<u8>> {
        let mut array = OpenArray::begin(Vec::with_capacity(self.0.len() * ITEM), &document)?;
        let mut entries = self.0.into_values();
        while entries.len() > 0 {
            for entry in entries.by_ref().take(SLICE) {
                array.push(&item(&entry))?;
            }
            tokio::task::yield_now().await;
        }
        array.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::pin::pin;

    use futures_util::FutureExt;
    use prometheus_client::metrics::counter::Counter;
    use zeroize::Zeroizing;

    use super::super::health::{Front, Health};
    use super::super::metrics::Metrics;
    use super::super::report::Reporter;
    use super::super::scrape;
    use super::super::status::{self, ConfigurationStatus, Status, TokenStatus};
    use super::*;
    use crate::access::{Caller, Rules};
    use crate::broker::{KeySnapshot, Policy};
    use crate::clock::{Clock, SystemClock};
    use crate::config::{Config, RootAccess};
    use crate::engine::{Engine, turns_beside};
    use crate::key::{Identity, Resource};
    use crate::token::{Parts, Token};
    use crate::upstream::Upstream;

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new(Counter::default(), Duration::ZERO))
    }

    fn policy(max_tokens: usize) -> Policy {
        Policy {
            max_tokens,
            max_bytes: 8_000_000,
            max_tokens_per_uid: max_tokens,
            idle_drop: Duration::from_hours(24),
            caller_wait: Duration::from_secs(20),
            max_concurrent: 4,
            max_per_second: 10,
            warm: Vec::new(),
        }
    }

    fn upstream() -> Upstream {
        let mut config = Config::default();
        config.upstream.endpoint = "http://127.0.0.1:9/token".parse().unwrap();
        Upstream::new(&config.upstream)
    }

    /// So many keys with a token each, which lives for an hour and some seconds more from key to key.
    fn engine(keys: usize) -> Arc<Engine> {
        let reporter = Arc::new(Reporter::new(metrics()));
        let engine = Engine::new(policy(keys), upstream(), Arc::new(SystemClock), reporter);
        let now = SystemClock.now();
        let carried = |number: usize| {
            let resource = Resource::new(&format!("https://{number}/")).unwrap();
            let life = Duration::from_secs(3600 + 10 * number as u64);
            let parts = Parts {
                access_token: Zeroizing::new("e30.e30.c2ln".to_owned()),
                client_id: None,
                expires_on: now.wall + life,
                not_before: now.wall,
            };
            KeySnapshot {
                token: Some((Arc::new(Token::new(&resource, &parts).unwrap()), now.boot + life)),
                key: Key::new(resource, Identity::Default),
                owner: 1,
                other: None,
                last_asked: now.boot,
                next_try: now.boot + life,
                trouble: None,
            }
        };
        engine.restore((0..keys).map(carried).collect());
        engine
    }

    async fn ready(engine: &Engine) -> Vec<u8> {
        let well = Front {
            live: true,
            out_of_descriptors: false,
            full_at: None,
            lock: None,
        };
        Health::document(engine, well).await.unwrap().1
    }

    async fn status(engine: &Engine) -> Vec<u8> {
        let rules = Rules::resolve(&[], RootAccess::Any, 0).0;
        let root = Caller::described(0, Vec::new(), None);
        let configuration = ConfigurationStatus::default();
        let document = status::document(engine, &configuration, None, &root, &rules, None, None);
        document.await.unwrap()
    }

    async fn text(engine: &Engine) -> String {
        scrape::text(&metrics(), engine, 0).await
    }

    #[tokio::test]
    async fn the_more_keys_a_document_tells_of_the_more_often_others_have_their_turn() {
        let (few, many) = (engine(1), engine(10 * SLICE));
        // A document is collected, and written.
        for (name, few, many) in [
            (
                "/ready",
                turns_beside(ready(&few)).await.1,
                turns_beside(ready(&many)).await.1,
            ),
            (
                "/status",
                turns_beside(status(&few)).await.1,
                turns_beside(status(&many)).await.1,
            ),
            (
                "/metrics",
                turns_beside(text(&few)).await.1,
                turns_beside(text(&many)).await.1,
            ),
        ] {
            assert!(many >= few + 2 * 9, "{name}: {few} turns for one key, {many} for many");
        }
    }

    #[tokio::test]
    async fn every_key_is_told_of_in_its_place_whatever_slice_it_is_in() {
        let engine = engine(2 * SLICE + 1);
        let names: Vec<String> = (0..=2 * SLICE).map(|number| format!("https://{number}/")).collect();
        let told: Status = serde_json::from_slice(&status(&engine).await).unwrap();
        let resource = |token: &TokenStatus| token.resource.to_string();
        assert_eq!(
            told.tokens.iter().map(resource).collect::<Vec<_>>(),
            names,
            "soonest first"
        );

        let text = text(&engine).await;
        let by_name: BTreeSet<&String> = names.iter().collect();
        for family in ["expiry", "refresh"] {
            let family = format!("msi_tokend_token_{family}_timestamp_seconds");
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(&family)).collect();
            let [help, kind, samples @ ..] = &lines[..] else {
                panic!("{text}")
            };
            assert!(help.starts_with("# HELP ") && kind.starts_with("# TYPE "), "{text}");
            let labels = by_name
                .iter()
                .map(|name| format!("{family}{{resource=\"{name}\",identity=\"default\"}} "));
            assert_eq!(samples.len(), names.len());
            assert!(
                samples
                    .iter()
                    .zip(labels)
                    .all(|(sample, labels)| sample.starts_with(&labels))
            );
        }
    }

    #[tokio::test]
    async fn keys_that_go_between_two_slices_are_told_of_once_or_not_at_all() {
        let engine = engine(3 * SLICE);
        let (mut seen, mut left) = (Vec::new(), Vec::new());
        {
            let mut all = pin!(engine.each_entry(engine.now(), |entry| seen.push(entry.key)));
            assert!(all.as_mut().now_or_never().is_none(), "others have their turn");
            engine.reconfigure(policy(5), upstream());
            all.await;
        }
        engine.each_entry(engine.now(), |entry| left.push(entry.key)).await;
        assert_eq!(left.len(), 5);
        let (first, rest) = seen.split_at(SLICE);
        left.retain(|key| !first.contains(key));
        assert_eq!(rest.iter().collect::<BTreeSet<_>>(), left.iter().collect());
        assert_eq!(rest.len(), left.len());
    }
}
