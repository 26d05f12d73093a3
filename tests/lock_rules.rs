//! The lock's firewall rules as `msi-token lock load` loads them, and how the daemon finds out that they are gone. Every test
//! is in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/locked.rs"]
mod locked;
#[path = "common/namespace.rs"]
mod namespace;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{MANAGEMENT, STORAGE, TOKEN, directory, eventually, exchange, write};
use locked::{DAEMON, ENFORCE, HANGS, LISTENER, Locked, PROBE, dial, head, imds, stand_in, text, token, write_all};
use namespace::{METADATA_SERVICE, in_namespace, run};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use users::{ALICE, BOB, as_user};

const OBSERVE: &str = "[lock]\nmode = \"observe\"\n";
const STATE: &str = "/run/msi-tokend-lock/mode";
const REQUEST: &str = "/run/msi-tokend/lock-lost";

/// `msi-token lock load` with this configuration, as its unit runs it.
fn load(config: &str) -> Output {
    let directory = directory();
    let path = directory.path().join("config.toml");
    write(&path, config);
    fs::create_dir_all("/run/msi-tokend-lock").unwrap();
    Command::new(TOKEN)
        .args(["lock", "load", "--user", &DAEMON.to_string(), "--config"])
        .arg(path)
        .output()
        .unwrap()
}

fn loaded(config: &str) {
    let output = load(config);
    assert!(output.status.success(), "{output:?}");
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn table() -> String {
    let output = Command::new("nft").args(["list", "table", "ip", "msi_tokend"]).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// Whether this user reaches a TCP port of the metadata service's address.
fn reaches(uid: u32, port: u16) -> bool {
    as_user(uid, uid, &[], || {
        let stream = TcpStream::connect(("169.254.169.254", port));
        stream.is_ok_and(|mut stream| {
            stream.set_read_timeout(Some(HANGS)).unwrap();
            _ = stream.write_all(b"x");
            stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
        })
    })
}

/// Sends back the first byte of each connection.
fn echo(port: u16) {
    let listener = TcpListener::bind(("169.254.169.254", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    _ = stream.write_all(&byte);
                }
            });
        }
    });
}

/// Sends a datagram there; the error where it is rejected.
fn datagram(uid: u32) -> std::io::Result<()> {
    as_user(uid, uid, &[], || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("169.254.169.254:53")?;
        // What comes back is told with the next call.
        _ = socket.send(b"x");
        socket.send(b"x").map(|_| ())
    })
}

#[test]
fn enforcing_leads_tokens_here_and_closes_everything_else_to_all_but_root_and_the_daemon() {
    in_namespace("enforce", || {
        let emulator = stand_in();
        echo(8080);
        let _udp = UdpSocket::bind("169.254.169.254:53").unwrap();
        let locked = Locked::open(ENFORCE);
        // Older than the lock.
        let mut older = as_user(BOB, BOB, &[], dial);
        loaded(ENFORCE);
        assert_eq!(token(ALICE, STORAGE).status, 200);
        assert_eq!(token(BOB, STORAGE).status, 403);
        assert_eq!(emulator.count(), 1);
        for (uid, open) in [(0, true), (DAEMON, true), (ALICE, false), (BOB, false)] {
            assert_eq!(reaches(uid, 8080), open, "{uid}");
            assert_eq!(datagram(uid).is_ok(), open, "{uid}");
        }
        let request = text("GET", &imds(MANAGEMENT), &["Host: x", "Metadata: true"], "");
        _ = older.write_all(request.as_bytes());
        let mut answer = Vec::new();
        _ = older.read_to_end(&mut answer);
        assert_eq!(answer, b"", "a connection that is older than the lock");
        // The listener itself, dialled by hand, is closed by the rules already.
        assert!(as_user(BOB, BOB, &[], || TcpStream::connect(LISTENER).is_err()));
        assert_eq!(
            locked.count("msi_tokend_connections_rejected_total{reason=\"unknown_caller\"}"),
            0
        );
        // Root and the daemon ask the service itself.
        assert_eq!(exchange(dial(), &request).status, 200);
        assert_eq!(emulator.count(), 2);
    });
}

#[test]
fn observing_changes_nothing_but_who_answers() {
    in_namespace("observe", || {
        let emulator = stand_in();
        echo(8080);
        let _udp = UdpSocket::bind("169.254.169.254:53").unwrap();
        let _locked = Locked::open("");
        let mut older = as_user(BOB, BOB, &[], dial);
        loaded(OBSERVE);
        assert_eq!(token(BOB, STORAGE).status, 200);
        for uid in [0, DAEMON, ALICE, BOB] {
            assert!(reaches(uid, 8080) && datagram(uid).is_ok(), "{uid}");
        }
        let request = text("GET", &imds(MANAGEMENT), &["Host: x", "Metadata: true"], "");
        older.write_all(request.as_bytes()).unwrap();
        assert_eq!(
            exchange(older, "").status,
            200,
            "a connection that is older than the lock"
        );
        assert_eq!(emulator.count(), 2);
        // A change of mode, and the same one again: one table each time.
        for config in [ENFORCE, ENFORCE, OBSERVE] {
            loaded(config);
            assert_eq!(reaches(BOB, 8080), config == OBSERVE);
            assert_eq!(table().matches("chain redirect_out").count(), 1);
        }
    });
}

#[test]
fn exempt_users_are_exempt_and_one_that_does_not_exist_stops_nothing() {
    in_namespace("exempt", || {
        echo(80);
        let output = load(&format!(
            "{ENFORCE}exempt_users = [\"root\", {ALICE}, \"msitokendtest-nobody\"]\n"
        ));
        assert!(output.status.success(), "{output:?}");
        assert!(
            stderr(&output).contains("there is no user msitokendtest-nobody"),
            "{output:?}"
        );
        assert_eq!(
            [0, DAEMON, ALICE, BOB].map(|uid| reaches(uid, 80)),
            [true, true, true, false]
        );
    });
}

#[test]
fn a_configuration_with_a_fault_loads_the_strictest_rules_in_the_last_mode() {
    in_namespace("faults", || {
        echo(80);
        echo(8080);
        let exempt = format!("exempt_users = [{ALICE}]\n");
        let broken = format!("{OBSERVE}{exempt}[limits]\nmax_connection = 1\n");
        for (before, mode, others) in [(None, "observe", true), (Some(ENFORCE), "enforce", false)] {
            if let Some(before) = before {
                loaded(&format!("{before}{exempt}"));
                assert!(reaches(ALICE, 80));
            }
            for config in [&*broken, "mode = \n", "[lock]\nmode = \"enforced\"\n"] {
                let output = load(config);
                assert!(output.status.success(), "{output:?}");
                let text = stderr(&output);
                assert!(text.contains("strictest") && text.contains("config.toml:"), "{text}");
                assert_eq!(fs::read_to_string(STATE).unwrap().trim(), mode);
                assert_eq!(
                    [0, DAEMON, ALICE, BOB].map(|uid| reaches(uid, 80)),
                    [true, true, false, false]
                );
                assert_eq!(reaches(BOB, 8080), others);
            }
        }
    });
}

#[test]
fn what_the_lock_cannot_work_with_is_refused_and_changes_nothing() {
    in_namespace("refusals", || {
        let refused = |config: &str, says: &str, code: i32| {
            let before = table();
            let output = load(config);
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            assert!(stderr(&output).contains(says), "{output:?}");
            assert_eq!(table(), before);
        };
        let arc = "[upstream]\nkind = \"arc\"\n";
        refused(arc, "upstream.kind", 78);
        refused("[upstream]\nendpoint = \"http://127.0.0.1:9/x\"\n", "upstream.kind", 78);
        // As version 0.1.0's SECURITY.md had it.
        run(
            "nft",
            &[
                "table inet tokens { chain out { type filter hook output priority 0; ip daddr 169.254.169.254 meta skuid != { 0, 1918280 } reject; }; }",
            ],
        );
        refused(OBSERVE, "closed already", 78);
        assert!(table().is_empty());
        loaded(ENFORCE);
        refused(OBSERVE, "inet tokens", 78);
        run("nft", &["delete", "table", "inet", "tokens"]);
        loaded(OBSERVE);
        // The older tables, as the unit leaves them.
        let legacy = Path::new("/run/msi-tokend-lock/iptables-legacy");
        write(
            legacy,
            "*filter\n-A OUTPUT -d 169.254.169.254/32 -m owner ! --uid-owner 0 -j REJECT\nCOMMIT\n",
        );
        refused(OBSERVE, "iptables-legacy closes", 78);
        loaded(ENFORCE);
        fs::remove_file(legacy).unwrap();
        loaded(OBSERVE);
        // A systemd-imdsd that locks.
        run("ip", &["route", "add", "prohibit", "169.254.169.254/32"]);
        refused(OBSERVE, "prohibit route", 78);
        refused(ENFORCE, "prohibit route", 78);
        run("ip", &["route", "delete", "prohibit", "169.254.169.254/32"]);
        loaded(OBSERVE);
        // Something below the firewall: the daemon misses rules that are there. Rules that are gone are loaded.
        fs::create_dir_all(Path::new(REQUEST).parent().unwrap()).unwrap();
        write(Path::new(REQUEST), "lost");
        refused(OBSERVE, "takes connections away before any firewall rule", 78);
        run("nft", &["flush", "ruleset"]);
        loaded(OBSERVE);
        loaded(OBSERVE);
        write(Path::new(REQUEST), "mode");
        loaded(OBSERVE);
        // The guest proxy agent.
        let directory = directory();
        let systemctl = directory.path().join("systemctl");
        write(
            &systemctl,
            "#!/bin/sh\n[ \"$*\" = 'is-active --quiet azure-proxy-agent.service' ]\n",
        );
        run("chmod", &["755", &systemctl.display().to_string()]);
        let config = directory.path().join("config.toml");
        write(&config, OBSERVE);
        let with_path = |path: &str| {
            Command::new(TOKEN)
                .args(["lock", "load", "--user", "0", "--config"])
                .arg(&config)
                .env("PATH", path)
                .output()
                .unwrap()
        };
        let agent = with_path(&format!("{}:/usr/sbin:/usr/bin", directory.path().display()));
        assert_eq!(agent.status.code(), Some(78), "{agent:?}");
        assert!(stderr(&agent).contains("azure-proxy-agent.service runs"));
        let without_nft = with_path("/nonexistent");
        assert_eq!(without_nft.status.code(), Some(70), "{without_nft:?}");
        assert!(stderr(&without_nft).contains("apt install nftables"));
        // An nft that fails says at what.
        write(&systemctl, "#!/bin/sh\nexit 3\n");
        let nft = directory.path().join("nft");
        write(&nft, "#!/bin/sh\necho why not >&2\nexit 1\n");
        run("chmod", &["755", &nft.display().to_string()]);
        for (mode, verb) in [(OBSERVE, "list"), (ENFORCE, "load")] {
            write(&config, mode);
            let failed = with_path(&format!("{}:/usr/bin:/bin", directory.path().display()));
            assert_eq!(failed.status.code(), Some(70), "{failed:?}");
            let says = format!("nft does not {verb} the firewall rules: why not");
            assert!(stderr(&failed).contains(&says), "{failed:?}");
        }
    });
}

#[test]
fn the_probe_comes_from_ports_that_no_other_request_of_the_daemon_has() {
    in_namespace("the probe's ports", || {
        let listener = TcpListener::bind(METADATA_SERVICE).unwrap();
        let state = Path::new(STATE);
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        write(state, "observe");
        let _locked = Locked::open(OBSERVE);
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let lowest: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let mut ports = Vec::new();
        while ports.len() < 4 {
            let (mut stream, from) = listener.accept().unwrap();
            assert!(head(&mut stream).starts_with(&format!("GET {PROBE} HTTP/1.1\r\n")));
            assert!((1024..lowest).contains(&from.port()), "{from}");
            write_all(&mut stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            ports.push(from.port());
        }
        ports.dedup();
        assert!(ports.len() > 1, "the same port cannot be in the way of the next look");
    });
}

fn lock_state(locked: &Locked) -> String {
    locked.daemon.get("/ready").json()["lock"]["state"]
        .as_str()
        .unwrap_or("off")
        .to_owned()
}

#[test]
#[ignore = "waits for several rounds of the probe, ten seconds each; tests/run --all runs it"]
fn a_lock_that_is_lost_is_told_everywhere_and_asked_for_and_one_that_is_stopped_stays_off() {
    in_namespace("probe", || {
        let _emulator = stand_in();
        let locked = Locked::open(OBSERVE);
        assert_eq!(lock_state(&locked), "off");
        assert!(!locked.daemon.get("/metrics").body.contains("msi_tokend_lock_loaded"));
        loaded(OBSERVE);
        eventually("it is seen", || lock_state(&locked) == "locked");
        let ready = locked.daemon.get("/ready");
        assert_eq!((ready.status, &ready.json()["lock"]["mode"]), (200, &"observe".into()));
        assert_eq!(locked.count("msi_tokend_lock_loaded"), 1);

        let lost = locked.daemon.directory().join("lock-lost");
        run("nft", &["flush", "ruleset"]);
        eventually("it is missed", || lock_state(&locked) == "lost");
        let ready = locked.daemon.get("/ready").json();
        assert_eq!(ready["state"], "degraded");
        assert!(
            ready["problems"]
                .to_string()
                .contains("systemctl reload msi-tokend-lock"),
            "{ready}"
        );
        assert_eq!(locked.count("msi_tokend_lock_loaded"), 0);
        locked.daemon.logs("outcome=lost");
        eventually("systemd is asked", || lost.exists());
        // What the repair does.
        loaded(OBSERVE);
        eventually("it is seen again", || lock_state(&locked) == "locked");
        locked.daemon.logs("the lock is there again");

        // The administrator stops it: the unit's directory goes with it.
        let asked = fs::metadata(&lost).unwrap().ino();
        run("nft", &["delete", "table", "ip", "msi_tokend"]);
        fs::remove_dir_all(Path::new(STATE).parent().unwrap()).unwrap();
        eventually("it is off", || lock_state(&locked) == "off");
        assert_eq!(locked.daemon.get("/ready").json()["state"], "ok");
        assert_eq!(fs::metadata(&lost).unwrap().ino(), asked, "nothing was asked for");
        assert_eq!(locked.daemon.log().matches("outcome=lost").count(), 1);
    });
}

#[test]
#[ignore = "waits for several rounds of the probe, ten seconds each; tests/run --all runs it"]
fn another_mode_of_the_daemon_asks_once_for_the_rules_of_that_mode() {
    in_namespace("mode", || {
        let _emulator = stand_in();
        let locked = Locked::open(OBSERVE);
        let lost = locked.daemon.directory().join("lock-lost");
        loaded(OBSERVE);
        eventually("it is seen", || lock_state(&locked) == "locked");
        assert!(!lost.exists());
        locked.reload(ENFORCE);
        eventually("systemd is asked", || lost.exists());
        loaded(ENFORCE);
        eventually("it is there", || {
            locked.daemon.get("/ready").json()["lock"]["mode"] == "enforce"
        });
        assert_eq!(lock_state(&locked), "locked");
    });
}

#[test]
#[ignore = "waits for several rounds of the probe, ten seconds each; tests/run --all runs it"]
fn no_answer_is_never_taken_for_a_lost_lock_whatever_users_do_to_the_listener() {
    in_namespace("flood", || {
        let _emulator = stand_in();
        let locked = Locked::open(&format!(
            "{OBSERVE}[limits]\nmax_connections = 40\nmax_connections_per_uid = 20\n"
        ));
        loaded(OBSERVE);
        eventually("it is seen", || lock_state(&locked) == "locked");
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            for uid in [ALICE, BOB] {
                let end = &end;
                scope.spawn(move || {
                    as_user(uid, uid, &[], || {
                        let mut held = Vec::new();
                        let address = METADATA_SERVICE.parse().unwrap();
                        while !end.load(Ordering::Relaxed) {
                            held.extend(TcpStream::connect_timeout(&address, Duration::from_millis(100)));
                            if held.len() > 200 {
                                held.clear();
                            }
                        }
                    });
                });
            }
            for _ in 0..5 {
                loaded(OBSERVE);
                thread::sleep(Duration::from_secs(2));
                let log = locked.daemon.log();
                assert!(!log.contains("outcome=lost"), "{log}");
            }
            end.store(true, Ordering::Relaxed);
        });
        eventually("it is seen again", || lock_state(&locked) == "locked");
        assert!(!locked.daemon.log().contains("outcome=lost"));
        let asked = fs::read_to_string(locked.daemon.directory().join("lock-lost"));
        assert!(asked.is_err() || asked.is_ok_and(|why| why == "unknown"));
    });
}

#[test]
#[ignore = "waits for several rounds of the probe, ten seconds each; tests/run --all runs it"]
fn a_user_who_holds_the_ports_of_the_probe_does_not_keep_a_lost_lock_from_being_seen() {
    in_namespace("ports", || {
        let _emulator = stand_in();
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let locked = Locked::open(ENFORCE);
        loaded(ENFORCE);
        eventually("it is seen", || lock_state(&locked) == "locked");
        let held: Vec<_> = as_user(BOB, BOB, &[], || {
            (16_384..24_576)
                .map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap())
                .collect()
        });
        run("nft", &["flush", "ruleset"]);
        eventually("it is missed", || lock_state(&locked) == "lost");
        drop(held);
    });
}

#[test]
fn a_connection_whose_source_a_firewall_rewrites_is_not_taken_for_whose_source_it_gets() {
    in_namespace("another source", || {
        let emulator = stand_in();
        run("ip", &["address", "add", "172.17.0.1/32", "dev", "lo"]);
        // What Docker's masquerading comes to.
        run(
            "nft",
            &[
                "table ip nat { chain post { type nat hook postrouting priority 100; policy accept;\n\
               ip saddr 172.17.0.0/16 snat to 10.0.0.4;\n}\n}",
            ],
        );
        let _locked = Locked::open(ENFORCE);
        loaded(ENFORCE);
        let roots = dial();
        let port = roots.local_addr().unwrap().port();
        let request = text("GET", &imds(STORAGE), &["Host: 169.254.169.254", "Metadata: true"], "");
        let answer = as_user(BOB, BOB, &[], || -> std::io::Result<u16> {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &SockaddrIn::new(172, 17, 0, 1, port))?;
            connect(socket.as_raw_fd(), &SockaddrIn::new(169, 254, 169, 254, 80))?;
            Ok(exchange(TcpStream::from(socket), &request).status)
        });
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(token(ALICE, STORAGE).status, 200);
        assert_eq!(token(BOB, STORAGE).status, 403);
        assert_eq!(emulator.count(), 1);
        drop(roots);
    });
}

#[test]
fn a_user_who_takes_the_listeners_port_answers_nobody() {
    in_namespace("port taken", || {
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").unwrap();
        let taken = as_user(BOB, BOB, &[], || TcpListener::bind(LISTENER).unwrap());
        let address = METADATA_SERVICE.parse().unwrap();
        let reaches = || {
            as_user(ALICE, ALICE, &[], || {
                TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
            })
        };
        for config in [OBSERVE, ENFORCE] {
            loaded(config);
            assert!(!reaches(), "{config}");
        }
        drop(taken);
        let _roots = TcpListener::bind(LISTENER).unwrap();
        assert!(reaches());
    });
}
