//! What holds of a whole connection.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::Uri;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::answers::{CACHED, TOKEN, answers};
use super::reference::requests;
use crate::access::{Caller, Machine, Rules};
use crate::broker::{Failing, KeySnapshot, Note, Policy};
use crate::clock::{Clock, Now, SystemClock};
use crate::config::{self, Account, Allow, Kind, Origin, RootAccess};
use crate::engine::{Engine, Observer};
use crate::failure::{Cause, Class, Failure};
use crate::key::{Identity, Key, Resource};
use crate::observe::metrics::Metrics;
use crate::observe::status::ConfigurationStatus;
use crate::server::connection::serve;
use crate::server::guest::Guest;
use crate::server::last_request::LastRequest;
use crate::server::session::Session;
use crate::server::{Bounds, ListenerKind, Server, Settings};
use crate::token::{Parts, Token};
use crate::upstream::Upstream;

/// A port that nobody listens at; nothing is ever sent there.
const NOWHERE: &str = "http://127.0.0.1:1/metadata/identity/oauth2/token";
const SDK_PORT: u16 = 40343;
/// Its own uid, that of a rule for [`CACHED`] and one more resource, and that of nobody.
const DAEMON: u32 = 999;
const FRIEND: u32 = 1000;
const STRANGER: u32 = 1001;
const NOW: Now = Now {
    wall: Duration::from_secs(1_700_000_000),
    boot: Duration::from_secs(1000),
};

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Now {
        NOW
    }
}

impl Observer for Stopped {
    fn note(&self, _: &Note, _: Now) {}

    fn fetched(&self, _: Result<&Token, &Failure>, _: Duration) {
        panic!("the upstream was asked");
    }
}

/// The bytes of one connection, from its first to its last; a NUL, which HTTP has no use for, parts what comes at once.
/// Whether one of its requests was worth a token.
///
/// # Panics
/// Something does not hold.
pub fn connection(input: &[u8]) -> bool {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
        static SERVER: Arc<Server> = RUNTIME.with(|runtime| runtime.block_on(async { server() }));
    }
    let pieces: Vec<&[u8]> = input.splitn(8, |byte| *byte == 0).collect();
    let sent = pieces.concat();
    let requests = requests(&sent);
    let heads = occurrences(&sent, b"\n\n") + occurrences(&sent, b"\n\r\n");
    let mut has_token = false;
    for (uid, is_sdk) in [(FRIEND, false), (FRIEND, true), (STRANGER, false)] {
        let output = SERVER.with(|server| {
            let exchange = exchange(Arc::clone(server), session(uid, is_sdk), &pieces);
            RUNTIME.with(|runtime| runtime.block_on(exchange))
        });
        let answers = answers(&output);
        // One more for what is no head at all.
        assert!(answers.len() <= heads + 1, "{} answers to {heads} heads", answers.len());
        for (request, decided) in requests.iter().zip(&answers) {
            let sdk = is_sdk.then_some(SDK_PORT);
            assert!(!decided || request.is_worth_a_token(sdk), "{request:?}");
        }
        let decided = answers.contains(&true);
        assert!(!decided || uid != STRANGER, "a stranger's key was looked up");
        has_token |= decided;
    }
    has_token
}

fn session(uid: u32, is_sdk: bool) -> Session {
    let listener = if is_sdk {
        ListenerKind::Sdk { port: SDK_PORT }
    } else {
        ListenerKind::Unix
    };
    Session {
        guest: Arc::new(Guest::new(Caller::described(uid, Vec::new(), None), 0)),
        listener: Arc::new(listener),
        last_request: LastRequest::default(),
        answered: AtomicBool::new(false),
    }
}

/// One key is cached and cannot be refreshed, and there is no room for another: whatever gets past the checks is answered
/// at once, by a token or a 429.
fn server() -> Arc<Server> {
    let key = Key::new(Resource::new(CACHED).unwrap(), Identity::Default);
    let policy = Policy {
        max_tokens: 1,
        max_bytes: 8_000_000,
        max_tokens_per_uid: 1,
        idle_drop: Duration::from_hours(24),
        caller_wait: Duration::from_secs(20),
        max_concurrent: 1,
        max_per_second: 1,
        warm: vec![key.clone()],
    };
    let upstream = Upstream::new(&config::UpstreamSettings {
        kind: Kind::Imds,
        endpoint: Uri::from_static(NOWHERE),
        max_concurrent: 1,
        max_per_second: 1,
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
    });
    let engine = Engine::new(policy, upstream, Arc::new(Stopped), Arc::new(Stopped));
    let life = Duration::from_hours(20);
    let parts = Parts {
        access_token: Zeroizing::new(TOKEN.to_owned()),
        client_id: None,
        expires_on: NOW.wall + life,
        not_before: NOW.wall,
    };
    engine.restore(vec![KeySnapshot {
        token: Some((Arc::new(Token::new(&key.resource, &parts).unwrap()), NOW.boot + life)),
        key,
        owner: 0,
        other: None,
        last_asked: NOW.boot,
        next_try: NOW.boot + life,
        trouble: Some(Failing::new(Arc::new(Failure::new(
            Class::Faulty,
            Cause::Status,
            "HTTP 500",
        )))),
    }]);
    let allow = Allow {
        users: Some(vec![Account::Id(FRIEND)]),
        groups: None,
        units: None,
        resources: Some(vec![
            Resource::new(CACHED).unwrap(),
            Resource::new("https://vault.azure.net").unwrap(),
        ]),
        identities: None,
        default: None,
        origin: Origin {
            file: Path::new("config.toml").into(),
            line: 1,
        },
    };
    let settings = Settings {
        units_unknown: None,
        rules: Rules::resolve(&[allow], RootAccess::Any, DAEMON).0,
        bounds: Bounds { total: 1, per_uid: 1 },
        header_timeout: Duration::from_secs(30),
        audit: true,
        configuration: ConfigurationStatus::default(),
        lock: config::Config::default().lock,
        connect_timeout: Duration::from_secs(1),
    };
    let metrics = Arc::new(Metrics::new(Counter::default(), NOW.wall));
    Server::new(
        engine,
        metrics,
        Arc::default(),
        settings,
        Machine::new(Arc::new(SystemClock)),
        None,
        mpsc::channel(1).0,
    )
}

/// What the connection handler answers to `pieces`, before the caller hangs up.
async fn exchange(server: Arc<Server>, session: Session, pieces: &[&[u8]]) -> Vec<u8> {
    // Room for whatever so short an input can be answered with, so neither end waits for the other.
    let (mut client, stream) = tokio::io::duplex(1 << 22);
    let caller = async {
        for piece in pieces {
            // An error: the server has closed the connection.
            _ = client.write_all(piece).await;
            settled().await;
        }
        _ = client.shutdown().await;
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        output
    };
    tokio::join!(serve(&server, stream, session), caller).1
}

/// Nothing here waits for anything but the caller, so a few rounds bring the server to where only he can go on. One who
/// hangs up sooner misses answers.
async fn settled() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// Without case.
fn occurrences(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len())
        .filter(|window| window.eq_ignore_ascii_case(part))
        .count()
}
