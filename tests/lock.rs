//! The lock's listener: who comes in, what is served, what is passed on to the metadata service and what is not. Every test
//! is in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/locked.rs"]
mod locked;
#[path = "common/namespace.rs"]
mod namespace;
#[path = "common/users.rs"]
mod users;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::{MANAGEMENT, STORAGE, TOKEND, directory, eventually, exchange, write};
use locked::{
    DAEMON, ENFORCE, HANGS, LISTENER, Locked, PROBE, ask, dial, head, imds, send, service, stand_in, text, token,
    write_all,
};
use namespace::{METADATA_SERVICE, OWN_ADDRESS, in_namespace};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
use users::{ALICE, BOB, as_user};

#[test]
fn who_asks_the_metadata_service_gets_the_tokens_that_the_rules_allow() {
    in_namespace("who_asks", || {
        let emulator = stand_in();
        let locked = Locked::start(ENFORCE);
        let given = token(ALICE, STORAGE).access_token();
        assert_eq!(token(ALICE, STORAGE).access_token(), given);
        assert_eq!(
            locked.daemon.token(STORAGE).access_token(),
            given,
            "one cache for all listeners"
        );
        assert_eq!(emulator.count(), 1);
        for (uid, resource) in [(ALICE, MANAGEMENT), (BOB, STORAGE)] {
            let refused = token(uid, resource);
            assert_eq!(refused.status, 403, "{refused:?}");
            assert_eq!(refused.json()["error"], "access_denied");
        }
        assert_eq!(emulator.count(), 1);
        locked.daemon.logs(&format!("verdict=denied outcome=denied uid={BOB}"));
        // Whoever the rules of the firewall exempt asks the service itself.
        let own = exchange(dial(), &text("GET", &imds(STORAGE), &["Host: x", "Metadata: true"], ""));
        assert_eq!((own.status, emulator.count()), (200, 2));
    });
}

#[test]
fn while_the_lock_observes_nobody_is_denied_a_token_here_and_everywhere_else_the_rules_hold() {
    in_namespace("observe", || {
        const SDK: &str = "[listen]\nsdk = \"127.0.0.1:40343\"\n";
        let _emulator = stand_in();
        let locked = Locked::start(SDK);
        assert_eq!(token(ALICE, STORAGE).status, 200);
        assert_eq!(token(BOB, MANAGEMENT).status, 200);
        assert_eq!(token(BOB, MANAGEMENT).status, 200);
        let record = format!("verdict=observed outcome=would_deny uid={BOB}");
        locked.daemon.logs(&record);
        assert_eq!(locked.daemon.log().matches(&record).count(), 1);
        assert!(!locked.daemon.log().contains(&format!("outcome=would_deny uid={ALICE}")));
        let on_the_socket = as_user(BOB, BOB, &[], || locked.daemon.token(MANAGEMENT).status);
        assert_eq!(on_the_socket, 403);
        let on_the_listener = as_user(BOB, BOB, &[], || {
            let stream = TcpStream::connect("127.0.0.1:40343").unwrap();
            let headers = ["Host: 127.0.0.1:40343", "Metadata: true"];
            exchange(stream, &text("GET", &imds(MANAGEMENT), &headers, "")).status
        });
        assert_eq!(on_the_listener, 403);
        // Tokens that are bound to a key of the caller's are outside the rules.
        let platform = "/metadata/identity/getplatformmetadata?cred-api-version=2.0";
        let observed = ask(BOB, "GET", platform, &["Metadata: true"]);
        assert_eq!(observed.status, 200, "{observed:?}");
        locked.reload(&format!("{SDK}{ENFORCE}"));
        assert_eq!(token(BOB, MANAGEMENT).status, 403);
        assert_eq!(ask(BOB, "GET", platform, &["Metadata: true"]).status, 403);
    });
}

#[test]
fn only_metadata_true_and_the_services_own_name_are_let_in() {
    in_namespace("admission", || {
        let emulator = stand_in();
        let _locked = Locked::start(ENFORCE);
        let (host, metadata) = ("Host: 169.254.169.254", "Metadata: true");
        let (token, compute) = (
            imds(STORAGE),
            "/metadata/instance/compute?api-version=2021-02-01".to_owned(),
        );
        for target in [&token, &compute] {
            for (headers, status) in [
                (&[host, metadata][..], 200),
                (&["Host: 169.254.169.254:80", metadata], 200),
                (&[host], 400),
                (&[host, "X-IDENTITY-HEADER: x"], 400),
                (&[host, "secret: x"], 400),
                (&[host, "Metadata: false"], 400),
                (&[metadata], 403),
                (&["Host: 169.254.169.254:8080", metadata], 403),
                (&["Host: 169.254.169.254.", metadata], 403),
                (&["Host: 127.0.0.1", metadata], 403),
                (&["Host: metadata.example", metadata], 403),
                (&[host, "Host: 169.254.169.254", metadata], 400),
                (&[host, metadata, "Origin: null"], 403),
                (&[host, metadata, "Origin: http://169.254.169.254"], 403),
            ] {
                let reply = send(ALICE, &text("GET", target, headers, ""));
                assert_eq!(reply.status, status, "{target} {headers:?}: {reply:?}");
            }
            let forwarded = send(
                ALICE,
                &text("GET", target, &[host, metadata, "X-Forwarded-For: 10.0.0.1"], ""),
            );
            assert_eq!(forwarded.status, 403, "{forwarded:?}");
        }
        let whole = format!("http://169.254.169.254{token}");
        assert_eq!(send(ALICE, &text("GET", &whole, &[host, metadata], "")).status, 400);
        assert_eq!(
            emulator.count(),
            1 + 2 + 4,
            "one token; of the rest what had a good Host and no proof is the service's to refuse"
        );
    });
}

#[test]
fn what_could_be_a_token_request_never_reaches_the_service_however_it_is_spelt() {
    in_namespace("spellings", || {
        let requests = service(|stream| write_all(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        let locked = Locked::start(ENFORCE);
        let query = "?api-version=2018-02-01&resource=https://a/";
        for (path, status) in [
            ("/metadata/identity/oauth2/token", 403),
            ("/Metadata/IDENTITY/oauth2/token/", 403),
            ("//metadata//identity/oauth2/token", 403),
            ("/metadata/identity/oauth2/token/x", 403),
            ("/metadata/identity/oauth2//token;x", 403),
            ("/metadata/./identity/oauth2/token", 403),
            ("/metadata/instance/../identity/oauth2/token", 403),
            ("/metadata/%69dentity/oauth2/token", 403),
            ("/metadata/instance/%2e%2e/x", 403),
            ("/metadata/instance/..%2fx", 403),
            ("/metadata/instance\\..\\x", 403),
            ("/metadata/identity/getplatformmetadata", 403),
            ("/metadata/identity/issuecredential", 403),
            ("/metadata/identity/info/x", 403),
            ("/metadata/Identity/info", 403),
            ("/metadata/identity", 403),
            ("/metadata/xTOKENx", 403),
            ("/metadata/instance/..", 403),
            ("/metadata/instance/a..b", 403),
            ("/metadata/instance/./x", 403),
            ("/metadata/instance//x", 403),
            ("/metadata//instance", 403),
            ("/metadata/instance;a=b", 403),
            ("/metadata/instance/x%20y", 403),
            ("/metadata/", 403),
            ("/metadata", 403),
            ("/%6detadata/identity/oauth2/token", 403),
            ("/msi/token", 403),
            ("/oauth2/token", 403),
            ("/live", 404),
            ("/metrics", 404),
            ("/status", 404),
            ("/reload", 404),
            ("/", 404),
            ("/machine/?comp=goalstate", 404),
        ] {
            for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
                let target = if path.contains('?') {
                    path.to_owned()
                } else {
                    format!("{path}{query}")
                };
                let reply = ask(BOB, method, &target, &["Metadata: true"]);
                // The one route that is there knows its methods.
                let status = if method != "GET" && reply.header("allow") == Some("GET") {
                    405
                } else {
                    status
                };
                assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
            }
        }
        for method in ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND"] {
            assert_eq!(
                ask(BOB, method, "/metadata/instance", &["Metadata: true"]).status,
                405,
                "{method}"
            );
        }
        assert!(requests.try_recv().is_err(), "the service was asked");
        for target in [
            "/metadata/identity/info?api-version=2018-02-01",
            "/metadata/instance?api-version=2021-02-01&format=json",
            "/Metadata/instance/compute/",
            "/metadata/v1/a_b-c.d",
            "/metadata/scheduledevents?x=%C3%BC",
        ] {
            assert_eq!(ask(BOB, "GET", target, &["Metadata: true"]).status, 200, "{target}");
            let seen = requests.recv().unwrap();
            assert!(seen.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{seen}");
        }
        let refused = locked.count("msi_tokend_passed_through_total{outcome=\"refused\"}");
        assert!(
            refused > 100 && locked.count("msi_tokend_passed_through_total{outcome=\"ok\"}") == 5,
            "{refused}"
        );
        let none = "[lock]\nmode = \"enforce\"\npass = \"none\"\n";
        locked.reload(none);
        assert_eq!(ask(BOB, "GET", "/metadata/instance", &["Metadata: true"]).status, 403);
        assert_eq!(
            ask(BOB, "GET", "/metadata/identity/info", &["Metadata: true"]).status,
            403
        );
        assert!(requests.try_recv().is_err(), "the service was asked");
    });
}

#[test]
fn while_the_lock_observes_what_it_would_refuse_is_the_services_to_judge() {
    in_namespace("let through", || {
        let requests = service(|stream| write_all(stream, "HTTP/1.1 418 Judged\r\nContent-Length: 0\r\n\r\n"));
        let locked = Locked::start("");
        let (host, metadata) = ("Host: 169.254.169.254", "Metadata: true");
        let token = imds(STORAGE);
        let odd: Vec<(&str, String, Vec<&str>)> = vec![
            ("GET", format!("{token}&odd=1"), vec![host, metadata]),
            ("GET", format!("{token}&resource=b"), vec![host, metadata]),
            ("GET", format!("{token}&client_id=a&object_id=b"), vec![host, metadata]),
            ("GET", token.clone(), vec!["Host: metadata.example", metadata]),
            ("GET", token.clone(), vec![host, metadata, "Origin: http://x"]),
            ("GET", token.clone(), vec![host, metadata, "Via: 1.1 x"]),
            ("POST", token.clone(), vec![host, metadata]),
            (
                "GET",
                "/metadata/identity/oauth2//token;x".to_owned(),
                vec![host, metadata],
            ),
            ("GET", "/metadata/instance/%61".to_owned(), vec![host, metadata]),
            ("GET", "/metadata/instance/../x".to_owned(), vec![host]),
            (
                "GET",
                "/metadata/instance".to_owned(),
                vec!["Host: metadata.example", metadata],
            ),
            ("PUT", "/metadata/instance".to_owned(), vec![host, metadata]),
            (
                "POST",
                "/metadata/identity/issuecredential".to_owned(),
                vec![host, metadata],
            ),
            ("GET", "/%6detadata/instance".to_owned(), vec![host, metadata]),
            ("GET", "/".to_owned(), vec![host]),
        ];
        for (method, target, headers) in &odd {
            let reply = send(BOB, &text(method, target, headers, ""));
            assert_eq!(reply.status, 418, "{method} {target} {headers:?}: {reply:?}");
            let seen = requests.recv().unwrap().to_lowercase();
            assert!(
                seen.starts_with(&format!("{method} {target} http/1.1\r\n").to_lowercase()),
                "{seen}"
            );
            for header in headers.iter().filter(|header| !header.starts_with("Via")) {
                assert!(
                    seen.contains(&format!("{header}\r\n").to_lowercase()),
                    "{header}: {seen}"
                );
            }
        }
        // What may be two requests, and what the service itself refuses.
        let never = [
            (token.clone(), vec![host, "Host: x", metadata], 400),
            (token.clone(), vec![host, metadata, "Transfer-Encoding: gzip"], 400),
            (format!("http://169.254.169.254{token}"), vec![host, metadata], 400),
            (format!("{token}&odd=1"), vec![host], 400),
            (token.clone(), vec![host, metadata, "X-Forwarded-For: x"], 403),
            (
                "/metadata/instance".to_owned(),
                vec![host, metadata, "X-Forwarded-For: x"],
                403,
            ),
        ];
        for (target, headers, status) in &never {
            let reply = send(BOB, &text("GET", target, headers, ""));
            assert_eq!(reply.status, *status, "{target} {headers:?}: {reply:?}");
        }
        assert!(requests.try_recv().is_err(), "the service was asked");
        locked.reload(ENFORCE);
        for (method, target, headers) in &odd {
            let reply = send(BOB, &text(method, target, headers, ""));
            assert!(
                [400, 403, 404, 405].contains(&reply.status),
                "{method} {target} {headers:?}: {reply:?}"
            );
        }
        assert!(requests.try_recv().is_err(), "the service was asked");
    });
}

#[test]
fn a_request_is_built_anew_and_the_answer_is_the_services_own() {
    in_namespace("headers", || {
        let requests = service(|stream| {
            write_all(
                stream,
                "HTTP/1.1 404 Not Found\r\nServer: IMDS/150.870.65.1244\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                 x-ms-request-id: a\r\nConnection: close, x-hop\r\nx-hop: b\r\nKeep-Alive: timeout=5\r\n\
                 Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            );
        });
        let _locked = Locked::start("");
        let reply = ask(
            ALICE,
            "GET",
            "/metadata/instance?api-version=1",
            &[
                "Metadata: true",
                "User-Agent: test",
                "Accept: text/plain",
                "X-Ms-Client-Request-Id: 7",
                "X-Other: y",
                "Authorization: Bearer z",
                "Cookie: a=b",
                "Connection: accept, x-other",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
                "TE: trailers",
                "Trailer: x",
                "Keep-Alive: 1",
            ],
        );
        let seen = requests.recv().unwrap();
        let mut lines: Vec<_> = seen.trim_end().lines().map(str::to_lowercase).collect();
        assert_eq!(lines.remove(0), "get /metadata/instance?api-version=1 http/1.1");
        lines.sort();
        let wanted = [
            "connection: close",
            "host: 169.254.169.254",
            "metadata: true",
            "user-agent: test",
            "x-ms-client-request-id: 7",
        ];
        assert_eq!(lines, wanted);

        assert_eq!((reply.status, &*reply.body), (404, "2\r\nno\r\n0\r\n\r\n"));
        let mut names: Vec<_> = reply.headers.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["connection", "date", "server", "transfer-encoding", "x-ms-request-id"]
        );
        assert_eq!(reply.header("server"), Some("IMDS/150.870.65.1244"));
        assert_eq!(reply.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    });
}

#[test]
fn both_bodies_pass_as_they_come() {
    in_namespace("streams", || {
        let (first_is_read, wait) = channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let requests = service(move |stream| {
            // Nothing of the answer before the first half of the request has come, and not its end before the caller has
            // read its beginning.
            let mut half = [0; 5];
            stream.read_exact(&mut half).unwrap();
            assert_eq!(&half, b"first");
            write_all(
                stream,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
            );
            wait.lock().unwrap().recv().unwrap();
            let mut rest = [0; 6];
            stream.read_exact(&mut rest).unwrap();
            assert_eq!(&rest, b"second");
            write_all(stream, "3\r\ntwo\r\n0\r\n\r\n");
        });
        let _locked = Locked::start("");
        as_user(ALICE, ALICE, &[], move || {
            let mut stream = dial();
            let head_text = "POST /metadata/scheduledevents HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\
                             Content-Type: application/json\r\nContent-Length: 11\r\n\r\nfirst";
            stream.write_all(head_text.as_bytes()).unwrap();
            assert!(head(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
            let seen = requests.recv().unwrap().to_lowercase();
            assert!(seen.contains("content-length: 11\r\n") && seen.contains("content-type: application/json\r\n"));
            let mut one = [0; 8];
            stream.read_exact(&mut one).unwrap();
            assert_eq!(&one, b"3\r\none\r\n");
            first_is_read.send(()).unwrap();
            stream.write_all(b"second").unwrap();
            let mut two = [0; 13];
            stream.read_exact(&mut two).unwrap();
            assert_eq!(&two, b"3\r\ntwo\r\n0\r\n\r\n");
        });
    });
}

#[test]
fn a_change_of_protocol_and_a_service_that_is_away_are_errors_and_large_answers_come_whole() {
    in_namespace("answers", || {
        let locked = {
            let _requests = service(|stream| {
                write_all(
                    stream,
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
                );
                _ = stream.read(&mut [0]);
            });
            let locked = Locked::start("");
            let reply = ask(
                ALICE,
                "GET",
                "/metadata/instance",
                &["Metadata: true", "Connection: upgrade", "Upgrade: h2c"],
            );
            assert_eq!(reply.status, 502, "{reply:?}");
            locked
        };
        assert_eq!(locked.count("msi_tokend_passed_through_total{outcome=\"failed\"}"), 1);
        drop(locked);
    });
    in_namespace("large", || {
        const LENGTH: usize = 5_000_000;
        let _requests = service(|stream| {
            write_all(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            write_all(stream, &"x".repeat(LENGTH));
        });
        let _locked = Locked::start("");
        let reply = ask(ALICE, "GET", "/metadata/instance", &["Metadata: true"]);
        assert_eq!((reply.status, reply.body.len()), (200, LENGTH));
        assert_eq!(reply.header("content-length"), Some(&*LENGTH.to_string()));
        let head = ask(ALICE, "HEAD", "/metadata/instance", &["Metadata: true"]);
        assert_eq!((head.status, &*head.body), (200, ""));
        assert_eq!(head.header("content-length"), Some(&*LENGTH.to_string()));
    });
    in_namespace("away", || {
        let _locked = Locked::start("");
        let reply = ask(ALICE, "GET", "/metadata/instance", &["Metadata: true"]);
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, Some("1")),
            "{reply:?}"
        );
        assert_eq!(reply.json()["cause"], "connect");
    });
}

#[test]
fn a_user_that_holds_its_share_of_what_is_passed_on_is_told_so_and_another_is_served() {
    in_namespace("slots", || {
        let requests = service(|stream| _ = stream.read(&mut [0]));
        let locked = Locked::start("");
        let open = |uid| {
            as_user(uid, uid, &[], || {
                let mut stream = dial();
                let request = text(
                    "GET",
                    "/metadata/scheduledevents",
                    &["Host: 169.254.169.254", "Metadata: true"],
                    "",
                );
                stream.write_all(request.as_bytes()).unwrap();
                stream
            })
        };
        let mut held: Vec<_> = (0..8).map(|_| open(ALICE)).collect();
        for _ in 0..8 {
            requests.recv().unwrap();
        }
        let full = ask(ALICE, "GET", "/metadata/instance", &["Metadata: true"]);
        assert_eq!((full.status, full.header("retry-after")), (429, Some("1")), "{full:?}");
        assert_eq!(full.json()["class"], "full");
        let _other = open(BOB);
        requests.recv_timeout(HANGS).unwrap();
        assert_eq!(locked.count("msi_tokend_passed_through_total{outcome=\"full\"}"), 1);
        // Who hangs up makes room.
        held.pop();
        eventually("a place is free", || {
            let mut stream = open(ALICE);
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            stream.read(&mut [0; 12]).is_err()
        });
    });
}

/// A connection of this thread's user that comes from a port on which somebody else has a connection already.
#[expect(unsafe_code, reason = "nix has no IP_LOCAL_PORT_RANGE")]
fn dial_from(port: u16, to: &str) -> std::io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    let range = u32::from(port) << 16 | u32::from(port);
    // SAFETY: the kernel reads four bytes of a number that outlives the call.
    let set = unsafe {
        let range = (&raw const range).cast();
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IP, 51, range, 4)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    let own: SocketAddr = format!("{OWN_ADDRESS}:0").parse().unwrap();
    let SocketAddr::V4(own) = own else { unreachable!() };
    bind(fd.as_raw_fd(), &SockaddrIn::from(own))?;
    let SocketAddr::V4(to) = to.parse().unwrap() else {
        unreachable!()
    };
    connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(HANGS))?;
    Ok(stream)
}

#[test]
fn whoever_dials_the_listener_itself_gets_nothing_also_from_the_port_of_roots_connection() {
    in_namespace("walls", || {
        let emulator = stand_in();
        let locked = Locked::start("");
        // Root's, to the service itself.
        let roots = dial();
        let port = roots.local_addr().unwrap().port();
        assert_eq!(
            roots.local_addr().unwrap().ip(),
            OWN_ADDRESS.parse::<Ipv4Addr>().unwrap()
        );
        let request = text(
            "GET",
            &imds(MANAGEMENT),
            &["Host: 169.254.169.254", "Metadata: true"],
            "",
        );
        let mut ended = 0;
        as_user(BOB, BOB, &[], || {
            for stream in [
                TcpStream::connect(LISTENER).unwrap(),
                dial_from(port, LISTENER).unwrap(),
            ] {
                let mut answer = Vec::new();
                let mut stream = stream;
                // Closed at once, so that sending or reading fails, or nothing comes.
                _ = stream.write_all(request.as_bytes());
                _ = stream.read_to_end(&mut answer);
                assert_eq!(answer, b"", "{}", String::from_utf8_lossy(&answer));
                ended += 1;
            }
        });
        assert_eq!(
            locked.count("msi_tokend_connections_rejected_total{reason=\"unknown_caller\"}"),
            ended
        );
        assert_eq!(emulator.count(), 0);
        // Redirected, but from the port of a connection of root's that is older: it is the stranger's still.
        locked.reload(ENFORCE);
        let stranger = as_user(BOB, BOB, &[], || {
            dial_from(port, METADATA_SERVICE).map(|stream| exchange(stream, &request).status)
        });
        assert!(!matches!(stranger, Ok(200)), "{stranger:?}");
        drop(roots);
    });
}

#[test]
fn the_daemons_own_requests_are_never_passed_on_and_its_probe_is_told_that_the_lock_is_there() {
    in_namespace("own uid", || {
        let requests = service(|stream| write_all(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
        let locked = Locked::start("");
        let marked = |target: &str| {
            as_user(DAEMON, DAEMON, &[], || {
                let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
                setsockopt(&fd, sockopt::Ipv4Tos, &0xfc).unwrap();
                connect(fd.as_raw_fd(), &SockaddrIn::new(169, 254, 169, 254, 80)).unwrap();
                let headers = ["Host: 169.254.169.254", "Metadata: true"];
                exchange(TcpStream::from(fd), &text("GET", target, &headers, ""))
            })
        };
        assert_eq!(marked(PROBE).status, 508);
        for target in [&*imds(STORAGE), "/metadata/instance", "/"] {
            let reply = marked(target);
            assert_eq!(
                (reply.status, reply.json()["error"].as_str()),
                (403, Some("access_denied")),
                "{target}"
            );
        }
        assert_eq!(locked.count("msi_tokend_denied_total{reason=\"loop\"}"), 3);
        assert!(requests.try_recv().is_err());
        // Others find there what the service says.
        assert_eq!(ask(BOB, "GET", PROBE, &[]).status, 404);
        assert_eq!(requests.try_iter().count(), 1);
    });
}

#[test]
fn many_users_at_once_are_told_apart() {
    const USERS: u32 = 40;
    in_namespace("many", || {
        let _emulator = stand_in();
        let allowed: Vec<_> = (0..USERS).step_by(2).map(|number| ALICE + 100 + number).collect();
        let rules = format!("[[allow]]\nusers = {allowed:?}\n");
        let _locked = Locked::start(&format!("{ENFORCE}{rules}"));
        thread::scope(|scope| {
            for number in 0..USERS {
                let uid = ALICE + 100 + number;
                scope.spawn(move || {
                    as_user(uid, uid, &[], || {
                        for _ in 0..50 {
                            let headers = ["Host: 169.254.169.254", "Metadata: true"];
                            let reply = exchange(dial(), &text("GET", &imds(STORAGE), &headers, ""));
                            let wanted = if number % 2 == 0 { 200 } else { 403 };
                            assert_eq!(reply.status, wanted, "{uid}: {reply:?}");
                        }
                    });
                });
            }
        });
    });
}

#[test]
fn without_the_metadata_service_as_the_endpoint_there_is_no_lock() {
    in_namespace("no lock", || {
        let _emulator = stand_in();
        let locked = Locked::start("");
        let other = "[upstream]\nkind = \"vm-extension\"\nendpoint = \"http://127.0.0.1:1/oauth2/token\"\n";
        locked.daemon.reload(other);
        locked.daemon.logs("the lock needs upstream.kind");
        assert_eq!(token(BOB, STORAGE).status, 200, "the former configuration holds");

        let number = locked.listener.as_raw_fd();
        let directory = directory();
        let socket = directory.path().join("s");
        write(
            &directory.path().join("config.toml"),
            &format!("{other}[listen]\nsocket = \"{}\"\n", socket.display()),
        );
        let script = format!("exec 3<&{number}; export LISTEN_PID=$$; exec \"$0\" --config \"$1\"");
        let ended = Command::new("bash")
            .args(["-c", &script, TOKEND])
            .arg(directory.path().join("config.toml"))
            .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "lock")])
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(78), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("msi-tokend-lock.socket"));
    });
}
