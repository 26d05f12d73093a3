//! The loopback listener for unmodified Azure SDKs, with real processes of real users.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/cgroups.rs"]
mod cgroups;
mod common;
#[path = "common/users.rs"]
mod users;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cgroups::Cgroup;
use common::{Daemon, Emulator, MANAGEMENT, Reply, STORAGE, TOKEND, directory, eventually, exchange, upstream, write};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use users::as_user;

const SDK: &str = "[listen]\nsdk = \"127.0.0.1:0\"\n";
/// Uids that no account has.
const FRIEND: u32 = 54_320;
const STRANGER: u32 = 54_321;

/// What an application is given in its environment.
struct Environment {
    endpoint: String,
    secret: String,
    /// `127.0.0.1:PORT`
    address: String,
}

impl Environment {
    /// As the daemon wrote it: who is answered at all knows that the file is there.
    fn of(daemon: &Daemon) -> Self {
        assert_eq!(daemon.send("GET", "/live", &[], "").status, 200);
        Self::at(daemon.directory())
    }

    /// As the package's own file has it.
    fn by(address: String) -> Self {
        Self {
            endpoint: format!("http://{address}/msi/token"),
            secret: "msi-tokend".to_owned(),
            address,
        }
    }

    fn at(directory: &Path) -> Self {
        let text = fs::read_to_string(directory.join("sdk.env")).unwrap();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
            line.unwrap_or_else(|| panic!("no {key}: {text}")).to_owned()
        };
        let endpoint = value("IDENTITY_ENDPOINT");
        let address = endpoint
            .strip_prefix("http://")
            .unwrap()
            .strip_suffix("/msi/token")
            .unwrap();
        let environment = Self::by(address.to_owned());
        assert_eq!(environment.endpoint, endpoint);
        assert_eq!(environment.secret, value("IDENTITY_HEADER"));
        environment
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    /// A request with the right `Host`.
    fn ask(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
        let host = format!("Host: {}", self.address);
        self.raw(method, target, &[&[&*host], headers].concat(), body)
    }

    fn raw(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
        let length = format!("Content-Length: {}", body.len());
        let framing = if body.is_empty() { "Connection: close" } else { &*length };
        let head = [headers, &["Connection: close", framing]].concat().join("\r\n");
        exchange(
            self.connect(),
            &format!("{method} {target} HTTP/1.1\r\n{head}\r\n\r\n{body}"),
        )
    }

    fn secret(&self) -> String {
        format!("X-IDENTITY-HEADER: {}", self.secret)
    }

    /// As SDKs do by `IDENTITY_ENDPOINT`.
    fn token(&self, resource: &str) -> Reply {
        let target = format!("/msi/token?api-version=2019-08-01&resource={resource}");
        self.ask("GET", &target, &[&self.secret()], "")
    }

    /// `curl` as `uid`, in no group but its own: the status and the body.
    fn curl(&self, uid: u32, resource: &str) -> (u16, String) {
        self.curl_in(None, uid, uid, resource)
    }

    /// `curl` in a cgroup, as `uid` in one group.
    fn curl_in(&self, cgroup: Option<&Path>, uid: u32, gid: u32, resource: &str) -> (u16, String) {
        let procs = cgroup.map_or("/dev/null".into(), |cgroup| cgroup.join("cgroup.procs"));
        let output = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec setpriv \"$@\""])
            .arg(procs)
            .args([format!("--reuid={uid}"), format!("--regid={gid}")])
            .args([
                "--clear-groups",
                "curl",
                "--silent",
                "--globoff",
                "--noproxy",
                "*",
                "--write-out",
                "\n%{http_code}",
                "--header",
            ])
            .arg(self.secret())
            .arg(format!("{}?api-version=2019-08-01&resource={resource}", self.endpoint))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }
}

fn imds(resource: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}")
}

fn root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can run clients as other users");
    }
    root
}

#[test]
fn the_three_shapes_are_served_and_nothing_else() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    let token = sdk.token(STORAGE).access_token();
    assert_eq!(
        sdk.ask("GET", &imds(STORAGE), &["Metadata: true"], "").access_token(),
        token
    );
    let form = ["Metadata: true", "Content-Type: application/x-www-form-urlencoded"];
    let posted = sdk.ask("POST", "/oauth2/token", &form, &format!("resource={STORAGE}"));
    assert_eq!(posted.access_token(), token);
    assert_eq!(
        daemon.token(STORAGE).access_token(),
        token,
        "one cache for both listeners"
    );
    assert_eq!(emulator.count(), 1);

    let (metadata, secret) = ("Metadata: true", sdk.secret());
    for method in ["GET", "POST"] {
        for path in ["/live", "/ready", "/status", "/metrics", "/"] {
            let reply = sdk.ask(method, path, &[metadata, &secret], "");
            assert_eq!(reply.status, 404, "{method} {path}: {reply:?}");
        }
    }
    assert_eq!(sdk.ask("POST", "/msi/token", &[&secret], "").status, 405);
    assert_eq!(sdk.ask("POST", &imds(STORAGE), &[metadata], "").status, 405);
    assert_eq!(sdk.ask("OPTIONS", &imds(STORAGE), &[metadata], "").status, 405);
}

#[test]
fn a_request_that_may_be_somebody_elses_idea_is_refused_before_anything_is_asked() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    let port = sdk.address.rsplit_once(':').unwrap().1;
    let (host, secret, metadata) = (format!("Host: {}", sdk.address), sdk.secret(), "Metadata: true");
    let app = format!("/msi/token?api-version=2019-08-01&resource={STORAGE}");
    let evil = format!("Host: evil.example:{port}");
    let signed = format!("Host: 127.0.0.1:+{port}");
    let other = if port == "80" {
        "Host: 127.0.0.1:81"
    } else {
        "Host: 127.0.0.1"
    };
    let whole = format!("http://{}{}", sdk.address, imds(STORAGE));
    let cases: &[(u16, &str, &[&str])] = &[
        (400, &app, &[&host]),
        (400, &app, &[&host, "Metadata: false"]),
        (400, &imds(STORAGE), &[&host]),
        (400, &imds(STORAGE), &[&host, "Metadata: false"]),
        (400, &format!("/oauth2/token?resource={STORAGE}"), &[&host]),
        (403, &app, &[&evil, &secret]),
        (403, &imds(STORAGE), &[&evil, metadata]),
        (403, &imds(STORAGE), &[other, metadata]),
        (403, &imds(STORAGE), &[metadata]),
        (400, &imds(STORAGE), &[&host, &evil, metadata]),
        (403, &imds(STORAGE), &[&host, metadata, "Origin: http://evil.example"]),
        (403, &imds(STORAGE), &[&host, metadata, "Origin: null"]),
        (403, &app, &[&host, &secret, "Origin: http://127.0.0.1"]),
        (403, &imds(STORAGE), &[&signed, metadata]),
        (400, &whole, &[&host, metadata]),
    ];
    for (status, target, headers) in cases {
        let reply = sdk.raw("GET", target, headers, "");
        assert_eq!(reply.status, *status, "{target} {headers:?}: {}", reply.body);
        assert!(reply.json()["error_description"].is_string());
        assert!(
            !reply.body.contains("unreachable"),
            "SDKs take this word for: no endpoint"
        );
    }
    assert_eq!(emulator.count(), 0);
    let localhost = format!("Host: localhost:{port}");
    assert_eq!(sdk.raw("GET", &imds(STORAGE), &[&localhost, metadata], "").status, 200);
}

#[test]
fn what_a_proxy_forwarded_gets_no_token_on_any_route() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    let secret = sdk.secret();
    let routes = [
        (
            format!("/msi/token?api-version=2019-08-01&resource={STORAGE}"),
            &*secret,
        ),
        (format!("/oauth2/token?resource={STORAGE}"), "Metadata: true"),
        (imds(STORAGE), "Metadata: true"),
    ];
    for added in [
        "X-Forwarded-For: 127.0.0.1",
        "forwarded: for=_x",
        "VIA: 1.1 p",
        "x-real-ip: ::1",
        "Via:",
    ] {
        for (target, proof) in &routes {
            let over_tcp = sdk.ask("GET", target, &[proof, added], "");
            let over_socket = daemon.send("GET", target, &[proof, added], "");
            assert_eq!((over_tcp.status, over_socket.status), (403, 400), "{target} {added}");
            assert!(over_tcp.body.contains("proxy"), "{over_tcp:?}");
        }
        assert_eq!(daemon.send("GET", "/live", &[added], "").status, 200, "no token route");
    }
    let metrics = daemon.get("/metrics").body;
    assert!(
        metrics.contains("msi_tokend_denied_total{reason=\"forwarded\"} 15\n"),
        "{metrics}"
    );
    assert_eq!(emulator.count(), 0);
    for (target, proof) in &routes {
        assert_eq!(sdk.ask("GET", target, &[proof], "").status, 200, "{target}");
    }
}

#[test]
fn one_header_of_three_suffices_on_every_route_and_both_listeners_whatever_its_value() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    for header in [
        "Metadata: True",
        "X-IDENTITY-HEADER: wrong",
        "X-Identity-Header:",
        "secret: x",
    ] {
        for (method, target, body) in [
            ("GET", imds(STORAGE), String::new()),
            ("GET", format!("/oauth2/token?resource={STORAGE}"), String::new()),
            ("POST", "/oauth2/token".to_owned(), format!("resource={STORAGE}")),
            (
                "GET",
                format!("/msi/token?api-version=2017-09-01&resource={STORAGE}"),
                String::new(),
            ),
            (
                "GET",
                format!("/msi/token?api-version=2019-08-01&resource={STORAGE}"),
                String::new(),
            ),
        ] {
            for reply in [
                sdk.ask(method, &target, &[header], &body),
                daemon.send(method, &target, &[header], &body),
            ] {
                assert_eq!(reply.status, 200, "{header} {method} {target}: {}", reply.body);
                let expires_on = reply.json()["expires_on"].as_str().unwrap().to_owned();
                assert!(expires_on.bytes().all(|b| b.is_ascii_digit()), "{expires_on}");
            }
        }
    }
    assert_eq!(emulator.count(), 1);
}

#[test]
fn users_are_told_apart_and_groups_are_those_of_the_account() {
    if !root() {
        return;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let accounts = passwd.lines().filter_map(|line| {
        let mut ids = line.split(':').skip(2).map(|id| id.parse::<u32>().unwrap());
        Some((ids.next()?, ids.next()?))
    });
    let (member, group) = accounts.into_iter().find(|(uid, gid)| *uid != 0 && *gid != 0).unwrap();
    let emulator = Emulator::start(&[]);
    let rules = format!(
        "{SDK}[[allow]]\nusers = [\"{FRIEND}\"]\nresources = [\"{STORAGE}\"]\n\
         [[allow]]\ngroups = [\"{group}\"]\nresources = [\"{STORAGE}\"]\n"
    );
    let daemon = Daemon::start(&emulator, &rules);
    let sdk = Environment::of(&daemon);
    assert_eq!(sdk.curl(FRIEND, STORAGE).0, 200);
    let (status, body) = sdk.curl(FRIEND, MANAGEMENT);
    assert_eq!(status, 403, "{body}");
    // Whichever groups its process is in.
    assert_eq!(sdk.curl_in(None, member, STRANGER, STORAGE).0, 200);
    assert_eq!(sdk.curl_in(None, member, group, MANAGEMENT).0, 403);
    let (status, body) = sdk.curl_in(None, STRANGER, group, STORAGE);
    assert_eq!(status, 403, "{body}");
    for part in ["54321", "journalctl -u msi-tokend", STORAGE] {
        let text = serde_json::from_str::<serde_json::Value>(&body).unwrap();
        assert!(text["message"].as_str().unwrap().contains(part), "{part}: {body}");
    }
    assert_eq!(sdk.curl(0, MANAGEMENT).0, 200, "root");
    assert_eq!(emulator.count(), 2);
}

#[test]
fn units_are_told_apart_and_a_refusal_names_one_that_no_rule_does() {
    let [allowed, other] =
        ["allowed", "other"].map(|name| format!("msitokendtest{}-{name}.service", std::process::id()));
    let groups = [allowed.clone(), other.clone(), format!("{other}/below")].map(|group| Cgroup::make(&group));
    let ([Some(in_allowed), Some(in_other), Some(below_other)], true) = (&groups, root()) else {
        return eprintln!("skipped: no cgroup2 tree that can be written to");
    };
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("{SDK}[[allow]]\nunits = [\"{allowed}\"]\n"));
    let sdk = Environment::of(&daemon);
    for _ in 0..2 {
        assert_eq!(sdk.curl_in(Some(&in_allowed.0), STRANGER, STRANGER, STORAGE).0, 200);
        assert_eq!(sdk.curl_in(Some(&in_other.0), STRANGER, STRANGER, STORAGE).0, 403);
    }
    assert_eq!(sdk.curl(STRANGER, STORAGE).0, 403, "where the tests run");
    for (verdict, unit) in [("allowed", &allowed), ("denied", &other)] {
        eventually("a record", || daemon.log().contains(&format!("verdict={verdict} ")));
        let log = daemon.log();
        let records: Vec<_> = log
            .lines()
            .filter(|line| line.contains(&format!("verdict={verdict} ")))
            .collect();
        assert!(records[0].contains(&format!("unit={unit} ")), "{log}");
        assert!(!log.contains("cgroup="), "{log}");
    }
    // No rule names that unit, so only the log looks below it.
    assert_eq!(sdk.curl_in(Some(&below_other.0), STRANGER, STRANGER, MANAGEMENT).0, 403);
    let named = format!("unit={other} resource={MANAGEMENT}");
    eventually("the unit in a record", || daemon.log().contains(&named));
    // A reload that names it: what was not found before is looked for again.
    daemon.reload(&format!("{SDK}[[allow]]\nunits = [\"{other}\"]\n"));
    assert_eq!(sdk.curl_in(Some(&in_other.0), STRANGER, STRANGER, STORAGE).0, 200);
    assert_eq!(sdk.curl_in(Some(&below_other.0), STRANGER, STRANGER, STORAGE).0, 200);
    assert_eq!(sdk.curl_in(Some(&in_allowed.0), STRANGER, STRANGER, STORAGE).0, 403);
}

/// No defence, but what `SECURITY.md` says: who is given a socket of root's is root to the kernel.
#[test]
fn a_socket_that_root_made_and_handed_on_counts_as_roots() {
    if !root() {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\nConnection: close\r\n\r\n",
        imds(STORAGE),
        sdk.address
    );
    let asked = || {
        let made_by_root = TcpSocket::new_v4().unwrap();
        as_user(STRANGER, STRANGER, &[], || {
            let runtime = Builder::new_current_thread().enable_io().build().unwrap();
            let connected = runtime.block_on(made_by_root.connect(sdk.address.parse().unwrap()));
            let stream = connected.unwrap().into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            exchange(stream, &request).status
        })
    };
    assert_eq!(sdk.curl(STRANGER, STORAGE).0, 403);
    assert_eq!(asked(), 200);
    daemon.reload(&format!("{}{SDK}[access]\nroot = \"rules\"\n", upstream(&emulator)));
    assert_eq!((asked(), sdk.curl(0, STORAGE).0), (403, 403));
}

#[test]
fn a_client_that_is_gone_is_not_root() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    let request = |resource: &str| {
        let target = imds(resource);
        format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\n\r\n",
            sdk.address
        )
    };
    // The daemon stands still until the clients have sent and gone, so that it meets each in its last state.
    daemon.signal(Signal::SIGSTOP);
    let mut half = sdk.connect();
    half.write_all(request("https://half/").as_bytes()).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    for i in 0..20 {
        let mut gone = sdk.connect();
        gone.write_all(request(&format!("https://gone{i}/")).as_bytes())
            .unwrap();
    }
    let mut reset = sdk.connect();
    reset.write_all(request("https://reset/").as_bytes()).unwrap();
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&reset, sockopt::Linger, &at_once).unwrap();
    drop(reset);
    let mut alive = sdk.connect();
    alive
        .write_all(
            request(STORAGE)
                .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .unwrap();
    daemon.signal(Signal::SIGCONT);

    // Connections are accepted in order, so the others have been judged when this one is served.
    assert_eq!(exchange(alive, "").status, 200);
    assert_eq!(sdk.token(STORAGE).status, 200);
    assert_eq!(emulator.count(), 1, "{:?}", emulator.requests());
}

#[test]
fn ipv6_callers_are_known_as_well() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let emulator = Emulator::start(&[]);
    let config = format!("[listen]\nsdk = \"[::1]:0\"\n[[allow]]\nusers = [\"{FRIEND}\"]\n");
    let daemon = Daemon::start(&emulator, &config);
    let sdk = Environment::of(&daemon);
    assert!(sdk.address.starts_with("[::1]:"), "{}", sdk.address);
    assert_eq!(sdk.token(STORAGE).status, 200);
    let elsewhere = sdk.address.replace("::1", "::");
    assert_eq!(
        sdk.raw(
            "GET",
            &imds(STORAGE),
            &[&format!("Host: {elsewhere}"), "Metadata: true"],
            ""
        )
        .status,
        403
    );
    if root() {
        assert_eq!(sdk.curl(FRIEND, STORAGE).0, 200);
        assert_eq!(sdk.curl(STRANGER, STORAGE).0, 403);
    }
}

#[test]
fn everybody_may_read_the_file_which_goes_when_the_daemon_stops_listening_and_comes_back_as_it_was() {
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start(&emulator, SDK);
    let path = daemon.directory().join("sdk.env");
    let before = Environment::of(&daemon);
    // For the next start to have the same port.
    let config = fs::read_to_string(daemon.config_path()).unwrap();
    write(&daemon.config_path(), &config.replace("127.0.0.1:0", &before.address));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o644, geteuid().as_raw()));
    assert_eq!(before.token(STORAGE).status, 200);
    // A request under way holds the daemon, and not the file.
    let mut held = daemon.connect();
    held.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    daemon.signal(Signal::SIGTERM);
    eventually("the file is gone", || !path.exists());
    drop(held);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.start_again();
    assert_eq!(daemon.send("GET", "/live", &[], "").status, 200);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(
        before.token(STORAGE).status,
        200,
        "what programs were given is still good"
    );
}

#[test]
fn a_file_that_a_crash_left_goes_when_the_next_start_does_not_listen() {
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start(&emulator, SDK);
    let path = daemon.directory().join("sdk.env");
    Environment::of(&daemon);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert!(path.exists());
    write(&daemon.config_path(), &common::upstream(&emulator));
    daemon.start_again();
    assert_eq!(daemon.send("GET", "/live", &[], "").status, 200);
    assert!(!path.exists());
    eventually("the log says so", || {
        daemon.log().contains("removed an old environment file")
    });
}

/// It would lead the programs of this machine to whoever took the port meanwhile.
#[test]
fn a_file_that_a_crash_left_goes_when_the_port_is_taken() {
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start(&emulator, SDK);
    let sdk = Environment::of(&daemon);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let _stranger = TcpListener::bind(&sdk.address).unwrap();
    let config = fs::read_to_string(daemon.config_path()).unwrap();
    write(&daemon.config_path(), &config.replace("127.0.0.1:0", &sdk.address));
    let code = Command::new(TOKEND)
        .arg("--config")
        .arg(daemon.config_path())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .code();
    assert_eq!(code, Some(69));
    assert!(!daemon.directory().join("sdk.env").exists());
}

#[test]
fn quotas_are_shared_with_the_unix_socket() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("{SDK}[limits]\nmax_connections_per_uid = 2\n"));
    let sdk = Environment::of(&daemon);
    let held = sdk.connect();
    let mut unix = daemon.connect();
    unix.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    unix.read_exact(&mut [0; 12]).unwrap();
    let mut third = sdk.connect();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\n\r\n",
        imds(STORAGE),
        sdk.address
    );
    _ = third.write_all(request.as_bytes());
    let mut answer = String::new();
    _ = third.read_to_string(&mut answer);
    assert!(!answer.contains("access_token"), "{answer}");
    drop((held, unix));
    eventually("a seat is free again", || {
        TcpStream::connect(&sdk.address).is_ok_and(|mut stream| {
            let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            stream.write_all(request.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.contains("access_token")
        })
    });
}

/// A daemon's directory and configuration, for starts that fail.
fn configured(emulator: &Emulator, listen: &str) -> TempDir {
    let directory = directory();
    let socket = directory.path().join("s");
    let config = format!(
        "[upstream]\nendpoint = \"http://{}/metadata/identity/oauth2/token\"\n[listen]\nsocket = \"{}\"\n{listen}\n",
        emulator.address,
        socket.display()
    );
    write(&directory.path().join("config.toml"), &config);
    directory
}

#[test]
fn a_listener_that_cannot_be_had_ends_the_start_with_a_remedy() {
    let emulator = Emulator::start(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let refused = |listen: &str, code: i32, words: &[&str]| {
        let directory = configured(&emulator, listen);
        let output = Command::new(TOKEND)
            .arg("--config")
            .arg(directory.path().join("config.toml"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    };
    refused(
        &format!("sdk = \"{taken}\""),
        69,
        &[&taken.to_string(), "ss -ltnp", "listen.sdk"],
    );
    refused("sdk = \"0.0.0.0:1234\"", 78, &["listen.sdk", "loopback"]);
    refused("sdk = \"10.0.0.4:1234\"", 78, &["listen.sdk", "loopback"]);
    let unsafe_directory = "sdk = \"127.0.0.1:0\"\nsdk_env = \"/tmp/sdk.env\"";
    refused(unsafe_directory, 78, &["/tmp", "others could put files there"]);
}

/// A daemon with sockets from systemd; never outlives its test.
struct Activated(Child);

impl Activated {
    fn code(&mut self) -> Option<i32> {
        eventually("the daemon ends", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }

    fn stop(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.code()
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Starts the daemon as systemd would, with these sockets.
fn activate(directory: &Path, sockets: &[(BorrowedFd<'_>, &str)]) -> Activated {
    let mut script = String::new();
    for (number, (socket, _)) in sockets.iter().enumerate() {
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        // By way of a number that is surely free: the lower ones may be each other's.
        write!(script, "exec {}<&{};", number + 100, socket.as_raw_fd()).unwrap();
    }
    for number in 0..sockets.len() {
        write!(script, "exec {}<&{};", number + 3, number + 100).unwrap();
    }
    script.push_str("export LISTEN_PID=$$; exec \"$@\"");
    let names: Vec<_> = sockets.iter().map(|(_, name)| *name).collect();
    let child = Command::new("bash")
        .args(["-c", &script, "bash", TOKEND, "--config"])
        .arg(directory.join("config.toml"))
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Activated(child)
}

#[test]
fn systemds_sockets_are_taken_by_name_and_callers_wait_in_them_over_a_restart() {
    let emulator = Emulator::start(&[]);
    let directory = configured(&emulator, "");
    let path = directory.path();
    let unix = UnixListener::bind(path.join("s")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [(tcp.as_fd(), "sdk"), (unix.as_fd(), "msi-tokend.socket")];
    // As version 0.1.0 left it there.
    let secret = "A".repeat(43);
    let stale = format!("IDENTITY_ENDPOINT=http://127.0.0.1:40343/msi/token\nIDENTITY_HEADER={secret}\n");
    fs::write(path.join("sdk.env"), stale).unwrap();
    let first = activate(path, &sockets);
    let sdk = Environment::by(tcp.local_addr().unwrap().to_string());
    assert_eq!(sdk.token(STORAGE).status, 200);
    assert!(
        !path.join("sdk.env").exists(),
        "the package's file leads to systemd's port"
    );
    assert_eq!(first.stop(), Some(0));
    assert!(path.join("s").exists(), "the socket is systemd's");

    let mut waiting = sdk.connect();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nMetadata: true\r\n\r\n",
        imds(STORAGE),
        sdk.address
    );
    waiting.write_all(request.as_bytes()).unwrap();
    let second = activate(path, &sockets);
    assert_eq!(exchange(waiting, "").status, 200);
    let config = fs::read_to_string(path.join("config.toml")).unwrap();
    let asks_itself = config.replace(&emulator.address, &sdk.address);
    write(&path.join("config.toml"), &asks_itself);
    let reload = "POST /reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let reload = exchange(UnixStream::connect(path.join("s")).unwrap(), reload);
    assert_eq!(reload.status, 409, "{}", reload.body);
    assert!(reload.body.contains("would ask itself"), "{}", reload.body);
    assert_eq!(sdk.token(MANAGEMENT).status, 200, "the endpoint is the same as before");
    assert_eq!(second.stop(), Some(0));

    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut refused = activate(path, &[(open.as_fd(), "sdk"), (unix.as_fd(), "msi-tokend.socket")]);
    assert_eq!(refused.code(), Some(71), "other machines could call");
    let mut refused = activate(path, &sockets);
    assert_eq!(refused.code(), Some(78), "the daemon would ask itself");
}
