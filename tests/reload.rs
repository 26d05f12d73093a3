//! SIGHUP under running callers: all or nothing, and nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Daemon, Emulator, MANAGEMENT, STORAGE, eventually, upstream};

/// How many keys are warm.
fn warm(daemon: &Daemon) -> usize {
    let ready = daemon.get("/ready").json();
    ready["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|token| token["warm"] == true)
        .count()
}

#[test]
fn everybody_is_told_whether_the_files_are_those_that_were_loaded() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let running = || {
        let configuration = daemon.get("/status").json()["configuration"].clone();
        assert!(configuration["loaded_at"].as_u64().unwrap() > 1_700_000_000);
        configuration["hash"].as_str().unwrap().to_owned()
    };
    let on_disk = || msi_tokend::config::load(&daemon.config_path()).unwrap().hash;
    let first = running();
    assert_eq!(first, on_disk());
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    let changed = format!("{text}\n[log]\naudit = false\n");
    std::fs::write(daemon.config_path(), &changed).unwrap();
    assert_ne!(running(), on_disk());
    daemon.reload(&changed);
    assert_eq!(running(), on_disk());
    assert_ne!(running(), first);

    let drop_ins = daemon.config_path().with_file_name("conf.d");
    std::fs::create_dir_all(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("a.toml"), "").unwrap();
    assert_ne!(running(), on_disk(), "another file, although it says nothing");
}

#[test]
fn rules_warm_tokens_limits_and_log_level_change_and_no_request_is_refused() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let upstream = std::fs::read_to_string(daemon.config_path()).unwrap();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    daemon.token(STORAGE).access_token();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let served_on = || {
            let before = served.load(Ordering::Relaxed);
            eventually("callers are served", || served.load(Ordering::Relaxed) > before + 20);
        };
        served_on();
        daemon.reload(&format!(
            "{upstream}\n[[warm]]\nresource = \"{MANAGEMENT}\"\n[[allow]]\nusers = [\"4242\"]\n"
        ));
        served_on();
        assert_eq!(warm(&daemon), 1);
        eventually("the new warm token is there", || daemon.get("/ready").status == 200);
        assert!(daemon.get("/status").json()["caller"]["rules"].is_number());

        daemon.reload(&format!(
            "{upstream}\n[cache]\nmax_tokens = 1\n[limits]\nmax_connections_per_uid = 64\n"
        ));
        served_on();
        assert_eq!(warm(&daemon), 0);
        eventually("what no longer fits is dropped", || {
            daemon.get("/status").json()["tokens"].as_array().unwrap().len() == 1
        });

        assert!(!daemon.log().contains(" debug "), "{}", daemon.log());
        daemon.reload(&format!("{upstream}\n[log]\nlevel = \"debug\"\n"));
        served_on();
        let fetched = format!("{STORAGE}&bypass_cache=true");
        daemon.token(&fetched).access_token();
        eventually("the level is in force", || daemon.log().contains(" debug "));
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_bad_file_or_another_socket_changes_nothing_and_says_so() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("[[warm]]\nresource = \"{STORAGE}\"\n"));
    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let without_warm = good.split("[[warm]]").next().unwrap();
    for (bad, said) in [
        (
            format!("{without_warm}\n[cache]\nmax_tokens = 0\nmax_token = 1\n"),
            "max_token ",
        ),
        (
            format!("{without_warm}\n[listen]\nsocket_mode = \"0600\"\n"),
            "restart needed",
        ),
        (format!("{without_warm}\n[listen\n"), "reload refused"),
        (String::new() + without_warm + "\n[upstream]\n", "reload refused"),
    ] {
        daemon.reload(&bad);
        assert_eq!(warm(&daemon), 1, "{bad}");
        assert_eq!(daemon.token(STORAGE).status, 200);
        let log = daemon.log();
        let last = log.lines().rfind(|line| line.contains("reload")).unwrap();
        assert!(last.contains("reload refused"), "{last}");
        assert!(log.contains(said), "{said}: {log}");
    }
    daemon.reload(without_warm);
    assert_eq!(warm(&daemon), 0);
}

#[test]
fn what_failed_at_one_endpoint_is_not_waited_out_at_another() {
    let (throttled, good) = (Emulator::start(&[]), Emulator::start(&[]));
    throttled.script("[[fault]]\ntimes = 0\nstatus = 429\nretry_after = \"300\"\n");
    let daemon = Daemon::start(&throttled, "");
    assert_eq!(daemon.token(STORAGE).status, 429);
    daemon.token(MANAGEMENT);
    assert_eq!(throttled.count(), 1, "one 429 silences all keys");
    daemon.reload(&upstream(&throttled));
    assert_eq!(daemon.token(STORAGE).status, 429, "the same endpoint has still said so");
    daemon.reload(&upstream(&good));
    daemon.token(STORAGE).access_token();
    daemon.token(MANAGEMENT).access_token();
    assert_eq!(throttled.count(), 1);
}

#[test]
fn what_the_former_endpoint_says_after_a_reload_counts_for_nobody() {
    let (former, good) = (Emulator::start(&[]), Emulator::start(&[]));
    former.script("[[fault]]\ntimes = 0\nstatus = 429\nretry_after = \"300\"\ndelay = \"1s\"\n");
    let daemon = Daemon::start(&former, "");
    thread::scope(|scope| {
        let early = scope.spawn(|| daemon.token(STORAGE));
        eventually("the former endpoint is asked", || former.count() == 1);
        daemon.reload(&upstream(&good));
        early.join().unwrap().access_token();
    });
    daemon.token(MANAGEMENT).access_token();
    assert_eq!((former.count(), good.count()), (1, 2));
}
