//! `/metrics` on real sockets: every series, what counts as what, and labels that come and go with the cache.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "what is compared are small whole numbers"
)]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use common::{Daemon, Emulator, MANAGEMENT, STORAGE, directory, eventually, programs, request, write};
use nix::unistd::geteuid;

/// A user of no rule; also what services without a user of their own often run as.
const STRANGER: u32 = 65534;

/// Samples by name and labels as they are written.
fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let reply = daemon.get("/metrics");
    assert_eq!(reply.status, 200);
    samples(&reply.body)
}

/// The samples of a family that are not zero, by what is between the braces.
fn counted(daemon: &Daemon, family: &str) -> Vec<(String, u64)> {
    scrape(daemon)
        .into_iter()
        .filter(|(_, value)| *value != 0.0)
        .filter_map(|(series, value)| {
            let labels = series.strip_prefix(family)?.strip_prefix('{')?.strip_suffix('}')?;
            #[expect(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                reason = "counts are whole"
            )]
            Some((labels.to_owned(), value as u64))
        })
        .collect()
}

/// What requests for tokens of the metadata service came to.
fn outcomes(daemon: &Daemon) -> Vec<(String, u64)> {
    let prefix = "route=\"/metadata/identity/oauth2/token\",outcome=";
    counted(daemon, "msi_tokend_requests_total")
        .into_iter()
        .filter_map(|(labels, count)| Some((labels.strip_prefix(prefix)?.trim_matches('"').to_owned(), count)))
        .collect()
}

fn pairs(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    let mut pairs: Vec<_> = expected.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    pairs.sort();
    pairs
}

#[test]
fn every_series_is_there_from_the_start_with_a_text_and_a_type() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    assert_eq!(daemon.token(STORAGE).status, 200);
    let reply = daemon.get("/metrics");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for (family, kind) in [
        ("msi_tokend_requests_total", "counter"),
        ("msi_tokend_request_duration_seconds", "histogram"),
        ("msi_tokend_cache_hits_total", "counter"),
        ("msi_tokend_cache_misses_total", "counter"),
        ("msi_tokend_cached_tokens", "gauge"),
        ("msi_tokend_upstream_requests_total", "counter"),
        ("msi_tokend_upstream_request_duration_seconds", "histogram"),
        ("msi_tokend_upstream_throttled_total", "counter"),
        ("msi_tokend_refresh_failures_total", "counter"),
        ("msi_tokend_token_expiry_timestamp_seconds", "gauge"),
        ("msi_tokend_token_refresh_timestamp_seconds", "gauge"),
        ("msi_tokend_denied_total", "counter"),
        ("msi_tokend_lock_would_deny_total", "counter"),
        ("msi_tokend_passed_through_total", "counter"),
        ("msi_tokend_connections", "gauge"),
        ("msi_tokend_connections_rejected_total", "counter"),
        ("msi_tokend_log_dropped_total", "counter"),
        ("msi_tokend_build_info", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
    ] {
        assert!(
            reply.body.contains(&format!("# TYPE {family} {kind}\n")),
            "{family} {kind}"
        );
        assert!(reply.body.contains(&format!("# HELP {family} ")), "{family}");
        let has_sample = reply.body.lines().any(|line| line.starts_with(family));
        assert!(has_sample, "{family} has no sample");
    }
    let now = daemon.get("/status").json()["now"].as_f64().unwrap();
    let samples = samples(&reply.body);
    let labels = format!("{{resource=\"{STORAGE}\",identity=\"default\"}}");
    let expiry = samples[&format!("msi_tokend_token_expiry_timestamp_seconds{labels}")] - now;
    let refresh = samples[&format!("msi_tokend_token_refresh_timestamp_seconds{labels}")] - now;
    assert!((86_000.0..=86_401.0).contains(&expiry), "{expiry}");
    assert!((38_000.0..=43_201.0).contains(&refresh), "{refresh}");
    let age = now - samples["process_start_time_seconds"];
    assert!((-1.0..100.0).contains(&age), "{age}");
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    assert!(samples["process_virtual_memory_bytes"] > samples["process_resident_memory_bytes"]);
    assert!(samples["process_max_fds"] >= samples["process_open_fds"]);
}

#[test]
fn each_request_counts_as_what_it_came_to() {
    let emulator = Emulator::start(&[]);
    let config = "[cache]\nmax_tokens = 1\n[limits]\ncaller_wait = \"1s\"\n";
    let daemon = Daemon::start(&emulator, config);
    daemon.token(STORAGE);
    daemon.token(STORAGE);
    daemon.token("");
    assert_eq!(outcomes(&daemon), pairs(&[("bad_request", 1), ("hit", 1), ("miss", 1)]));

    // Each of these takes the place of the one before it: there is room for one.
    emulator.script(
        "[[fault]]\nmatch = { resource = \"refused\" }\nstatus = 400\n\
         [[fault]]\nmatch = { resource = \"faulty\" }\nstatus = 500\n\
         [[fault]]\nmatch = { resource = \"slow\" }\ntimes = 0\ndelay = \"10m\"\n\
         [[fault]]\nstatus = 429\nretry_after = \"1\"\n",
    );
    daemon.token("https://refused");
    daemon.token("https://faulty");
    daemon.token("https://throttled");
    eventually("the endpoint lets us ask again", || daemon.token(STORAGE).status == 200);
    let throttled = outcomes(&daemon)
        .iter()
        .find(|(name, _)| name == "throttled")
        .unwrap()
        .1;
    assert!(throttled >= 1);
    daemon.token("https://slow");
    daemon.token("https://no-room-beside-the-slow-one");
    let others: Vec<_> = outcomes(&daemon)
        .into_iter()
        .filter(|(name, _)| !["throttled", "hit", "miss", "bad_request"].contains(&name.as_str()))
        .collect();
    assert_eq!(
        others,
        pairs(&[("refused", 1), ("unavailable", 1), ("timeout", 1), ("full", 1)])
    );

    let mut impatient = daemon.connect();
    let target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://slow";
    impatient
        .write_all(request("GET", target, &["Metadata: true"], "").as_bytes())
        .unwrap();
    drop(impatient);
    eventually("a caller that hung up is counted", || {
        outcomes(&daemon).contains(&("abandoned".to_owned(), 1))
    });

    let all = scrape(&daemon);
    let hits: u64 = outcomes(&daemon)
        .iter()
        .filter(|(name, _)| name == "hit")
        .map(|(_, n)| n)
        .sum();
    assert_eq!(all["msi_tokend_cache_hits_total"], hits as f64);
    let upstream = counted(&daemon, "msi_tokend_upstream_requests_total");
    assert_eq!(
        upstream,
        pairs(&[
            ("outcome=\"ok\"", 2),
            ("outcome=\"refused\"", 1),
            ("outcome=\"faulty\"", 1),
            ("outcome=\"throttled\"", 1)
        ])
    );
    assert_eq!(
        counted(&daemon, "msi_tokend_refresh_failures_total"),
        pairs(&[
            ("reason=\"refused\"", 1),
            ("reason=\"faulty\"", 1),
            ("reason=\"throttled\"", 1)
        ])
    );
    assert_eq!(all["msi_tokend_upstream_throttled_total"], 1.0);
    let answered = outcomes(&daemon).into_iter().filter(|(name, _)| name != "abandoned");
    let requests: u64 = answered.map(|(_, n)| n).sum();
    assert_eq!(all["msi_tokend_request_duration_seconds_count"], requests as f64);
    assert_eq!(all["msi_tokend_upstream_request_duration_seconds_count"], 5.0);
}

#[test]
fn other_routes_are_counted_under_their_own_names_and_what_does_not_exist_under_none() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("[[warm]]\nresource = \"{STORAGE}\"\n"));
    eventually("the warm token is there", || daemon.get("/ready").status == 200);
    daemon.get("/live");
    daemon.get("/LIVE/");
    daemon.get("/no/such/route");
    daemon.get("/some/other/one");
    daemon.send("POST", "/status", &[], "");
    let requests = counted(&daemon, "msi_tokend_requests_total");
    let count = |labels: &str| {
        requests
            .iter()
            .find(|(found, _)| found == labels)
            .map_or(0, |(_, n)| *n)
    };
    assert_eq!(count("route=\"/live\",outcome=\"ok\""), 2);
    assert_eq!(count("route=\"unknown\",outcome=\"bad_request\""), 2);
    assert_eq!(count("route=\"/status\",outcome=\"bad_request\""), 1);
    assert!(count("route=\"/ready\",outcome=\"ok\"") >= 1);
    assert!(
        !requests.iter().any(|(labels, _)| labels.contains("such")),
        "{requests:?}"
    );
}

#[test]
fn a_refusal_counts_with_its_reason_and_the_process_is_seen_by_an_unprivileged_daemon() {
    if !geteuid().is_root() {
        return;
    }
    let (emulator, programs, directory) = (Emulator::start(&[]), programs(), directory());
    std::os::unix::fs::chown(directory.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    let socket = directory.path().join("s");
    write(
        &directory.path().join("config.toml"),
        &format!(
            "[upstream]\nendpoint = \"http://{}/metadata/identity/oauth2/token\"\n[listen]\nsocket = \"{}\"\n",
            emulator.address,
            socket.display()
        ),
    );
    let mut daemon = Started(
        Command::new(programs.path().join("msi-tokend"))
            .arg("--config")
            .arg(directory.path().join("config.toml"))
            .uid(STRANGER)
            .gid(STRANGER)
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    eventually("the daemon listens", || {
        assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended");
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let curl = |uid: u32, target: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--header", "Metadata: true", "--unix-socket"])
            .arg(&socket)
            .arg(format!("http://localhost{target}"))
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let target = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={STORAGE}");
    let refused = curl(STRANGER - 1, &target);
    assert!(refused.contains("access_denied"), "{refused}");
    // Held open, so that the descriptors in use are known to be more by these.
    let before = samples(&curl(STRANGER - 1, "/metrics"));
    let held: Vec<_> = (0..5)
        .map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap())
        .collect();
    eventually("the descriptors are counted", || {
        let now = samples(&curl(STRANGER - 1, "/metrics"));
        now["process_open_fds"] >= before["process_open_fds"] + 5.0
            && now["msi_tokend_connections"] >= before["msi_tokend_connections"] + 5.0
    });
    drop(held);
    assert_eq!(before["msi_tokend_denied_total{reason=\"no_rule\"}"], 1.0);
    assert!(before["process_resident_memory_bytes"] > 1e6);
    assert!(before["process_max_fds"] > 10.0);
}

struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn labels_are_escaped_and_go_with_the_token_and_no_scrape_holds_one_series_twice() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[cache]\nmax_tokens = 3\n");
    daemon.token("https://a%22b%5Cc/&client_id=73444643-8088-4D70-9532-C3A0FDC190FA");
    let expiry = |name: &str| format!("msi_tokend_token_expiry_timestamp_seconds{{{name}}}");
    let escaped = expiry(r#"resource="https://a\"b\\c/",identity="client_id:73444643-8088-4d70-9532-c3a0fdc190fa""#);
    assert!(scrape(&daemon).contains_key(&escaped), "{:?}", scrape(&daemon));

    daemon.token(MANAGEMENT);
    daemon.token(&format!("{MANAGEMENT}&xms_cc=cp1"));
    let text = daemon.get("/metrics").body;
    let series = expiry(&format!("resource=\"{MANAGEMENT}\",identity=\"default\""));
    assert_eq!(text.matches(&series).count(), 1, "{text}");
    assert_eq!(samples(&text)["msi_tokend_cached_tokens"], 3.0);

    daemon.token(STORAGE);
    let now = scrape(&daemon);
    assert!(!now.contains_key(&escaped), "evicted and still there");
    assert_eq!(now["msi_tokend_cached_tokens"], 3.0);
}

#[test]
fn a_warm_token_that_is_not_there_ends_at_zero_and_another_has_no_end() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 0\nstatus = 500\n");
    let daemon = Daemon::start(&emulator, &format!("[[warm]]\nresource = \"{STORAGE}\"\n"));
    assert_eq!(daemon.token(MANAGEMENT).status, 503);
    let series = |family: &str, resource: &str| {
        let name =
            format!("msi_tokend_token_{family}_timestamp_seconds{{resource=\"{resource}\",identity=\"default\"}}");
        scrape(&daemon).get(&name).copied()
    };
    assert_eq!(series("expiry", STORAGE), Some(0.0));
    assert_eq!(series("expiry", MANAGEMENT), None);
    assert!(series("refresh", MANAGEMENT).unwrap() > 1e9);
}
