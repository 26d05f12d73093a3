//! The broker at work: its timer, its fetches and its callers, on tokio's paused clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use msi_tokend::broker::{Answer, Ask, Note, Policy, Renewal, Unserved};
use msi_tokend::clock::{Clock, Now};
use msi_tokend::config::{self, Kind};
use msi_tokend::engine::{Asked, Engine, Observer};
use msi_tokend::failure::{Class, Failure};
use msi_tokend::key::{Identity, Key, Resource};
use msi_tokend::token::Token;
use msi_tokend::upstream::Upstream;
use tokio::time::Instant;

/// Both clocks go as tokio's does.
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Now {
        let passed = Instant::now().duration_since(self.0);
        Now {
            wall: Duration::from_secs(1_764_000_000) + passed,
            boot: Duration::from_secs(100) + passed,
        }
    }
}

struct Quiet;

impl Observer for Quiet {
    fn note(&self, _: &Note, _: Now) {}
    fn fetched(&self, _: Result<&Token, &Failure>, _: Duration) {}
}

/// Stands for anything in a fetch that panics.
struct Panics;

impl Observer for Panics {
    fn note(&self, _: &Note, _: Now) {}
    fn fetched(&self, _: Result<&Token, &Failure>, _: Duration) {
        panic!("as the test wants it");
    }
}

fn engine(endpoint: &TcpListener, observer: impl Observer + 'static) -> Arc<Engine> {
    let upstream = config::UpstreamSettings {
        kind: Kind::Imds,
        endpoint: format!("http://{}/p", endpoint.local_addr().unwrap()).parse().unwrap(),
        max_concurrent: 4,
        max_per_second: 10,
        connect_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(600),
    };
    let policy = Policy {
        max_tokens: 10,
        max_bytes: 8_000_000,
        max_tokens_per_uid: 10,
        idle_drop: Duration::from_hours(1),
        caller_wait: Duration::from_secs(1),
        max_concurrent: 4,
        max_per_second: 10,
        warm: Vec::new(),
    };
    let clock = Arc::new(Paused(Instant::now()));
    let engine = Engine::new(policy, Upstream::new(&upstream), clock, Arc::new(observer));
    tokio::spawn(Arc::clone(&engine).run());
    engine
}

fn key() -> Key {
    Key::new(Resource::new("r").unwrap(), Identity::Default)
}

fn ask(key: &Key) -> Ask<'_> {
    Ask {
        key,
        uid: 1,
        renewal: Renewal::No,
    }
}

/// What one caller gets.
async fn answer(engine: &Arc<Engine>) -> Answer {
    match engine.ask(ask(&key())) {
        Asked::Answered(answer) => answer,
        Asked::Waits(waiting) => waiting.answer().await.0,
    }
}

#[tokio::test(start_paused = true)]
async fn the_timer_comes_round_for_a_caller_whose_wait_ends_before_it_would_have() {
    // It listens and never answers.
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = engine(&endpoint, Quiet);
    for _ in 0..3 {
        // The timer has gone to sleep with nothing to wait for.
        tokio::time::sleep(Duration::from_millis(5100)).await;
        let began = Instant::now();
        let answer = answer(&engine).await;
        assert!(matches!(answer, Err(Unserved::TimedOut(None))), "{answer:?}");
        let waited = began.elapsed();
        assert!(
            waited >= Duration::from_secs(1) && waited < Duration::from_millis(1010),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_leaves_nobody_waiting_and_blocks_nobody() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = engine(&endpoint, Panics);
    // Nobody listens any more: the fetch ends at once, and its report panics.
    drop(endpoint);
    for _ in 0..10 {
        let answer = answer(&engine).await;
        let Err(Unserved::Failed(failure, next_in)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(failure.class, Class::Faulty);
        assert!(failure.text.contains("ended without an answer"), "{failure:?}");
        // All four seats at the endpoint would be taken by now, had the panics kept theirs.
        tokio::time::sleep(next_in).await;
    }
}
