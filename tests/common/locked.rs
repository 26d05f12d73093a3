//! A daemon behind the lock's redirect, and programs that ask the metadata service.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

pub use crate::common::bare_request as text;
use crate::common::{Daemon, Emulator, How, Reply, STORAGE, exchange};
use crate::namespace::{METADATA_SERVICE, run};
use crate::users::{ALICE, as_user};

pub const DAEMON: u32 = 1_918_280;
pub const LISTENER: &str = "127.0.0.1:169";
pub const ENDPOINT: &str = "[upstream]\nendpoint = \"http://169.254.169.254/metadata/identity/oauth2/token\"\n";
pub const ENFORCE: &str = "[lock]\nmode = \"enforce\"\n";
pub const PROBE: &str = "/metadata/msi-lock-probe";
/// As systemd would start it.
const ACTIVATE: &str = r#"exec bash -c 'exec 3<&$LOCK_SOCKET; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=lock;
exec "$0" "$@"' "$0" "$@""#;
/// A request that is answered at all is answered sooner.
pub const HANGS: Duration = Duration::from_secs(30);

/// A daemon behind the lock's redirect.
pub struct Locked {
    pub daemon: Daemon,
    pub listener: TcpListener,
}

impl Locked {
    /// The firewall rules are the redirect alone: what else there is at the gate must hold without them.
    pub fn start(config: &str) -> Self {
        let rules = format!(
            "table ip msi_tokend {{ chain out {{ type nat hook output priority -110; policy accept;\n\
             ip daddr 169.254.169.254 tcp dport 80 ip dscp != 0x3f meta skuid {{ 0, {DAEMON} }} accept\n\
             ip daddr 169.254.169.254 tcp dport 80 redirect to :169;\n}}\n}}"
        );
        run("nft", &[&rules]);
        Self::open(config)
    }

    /// Without any firewall rules, and with ALICE's rule for [`STORAGE`].
    pub fn open(config: &str) -> Self {
        Self::open_as(Some(DAEMON), config)
    }

    /// As this user, by default the test's own, whose daemon the client talks to.
    pub fn open_as(uid: Option<u32>, config: &str) -> Self {
        let listener = TcpListener::bind(LISTENER).unwrap();
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let how = How {
            uid,
            shell: Some(ACTIVATE),
            environment: vec![("LOCK_SOCKET", listener.as_raw_fd().to_string())],
        };
        let rule = format!("[[allow]]\nusers = [{ALICE}]\nresources = [\"{STORAGE}\"]\n");
        Self {
            daemon: Daemon::with_config_how(&format!("{ENDPOINT}{config}\n{rule}"), how),
            listener,
        }
    }

    pub fn count(&self, metric: &str) -> u64 {
        let text = self.daemon.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.unwrap_or_else(|| panic!("{metric}: {text}"))
            .trim()
            .parse()
            .unwrap()
    }

    pub fn reload(&self, config: &str) {
        self.daemon.reload(&format!("{ENDPOINT}{config}"));
    }
}

/// Dials the metadata service.
pub fn dial() -> TcpStream {
    let stream = TcpStream::connect(METADATA_SERVICE).unwrap();
    stream.set_read_timeout(Some(HANGS)).unwrap();
    stream
}

/// A request of this user to the metadata service's address, as any program makes it.
pub fn ask(uid: u32, method: &str, target: &str, headers: &[&str]) -> Reply {
    let headers = [&["Host: 169.254.169.254"], headers].concat();
    send(uid, &text(method, target, &headers, ""))
}

pub fn send(uid: u32, text: &str) -> Reply {
    as_user(uid, uid, &[], || exchange(dial(), text))
}

pub fn imds(resource: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}")
}

pub fn token(uid: u32, resource: &str) -> Reply {
    ask(uid, "GET", &imds(resource), &["Metadata: true"])
}

pub fn stand_in() -> Emulator {
    Emulator::start_at(METADATA_SERVICE, vec!["--any-address".to_owned()])
}

/// In place of the metadata service: gives each request's text away and answers with what `answer` writes.
pub fn service(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Receiver<String> {
    let listener = TcpListener::bind(METADATA_SERVICE).unwrap();
    let (seen, requests) = channel();
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen, answer) = (stream.unwrap(), seen.clone(), answer.clone());
            thread::spawn(move || {
                let head = head(&mut stream);
                // The test may have seen enough.
                _ = seen.send(head);
                answer(&mut stream);
            });
        }
    });
    requests
}

/// As far as the empty line.
pub fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

pub fn write_all(stream: &mut TcpStream, text: &str) {
    // The daemon may have gone away.
    _ = stream.write_all(text.as_bytes());
}
