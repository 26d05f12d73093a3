//! What is said of a refusal: to the caller who he is, what he asked for and where the administrator looks; to the
//! administrator also the rule that would allow it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::process::Command;

use common::{Daemon, Emulator, TOKEN, eventually, write};
use nix::unistd::{Uid, User};
use users::{ALICE, are_to_be_had, as_user};

const GUID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";

/// The rules in the log, from the first to the last, each as it would be pasted.
fn rules(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let after = log.split("# This rule would allow it").skip(1);
    let lines = after.map(|text| text.lines().skip(1).take_while(|line| !line.contains("Z ")));
    lines.map(|lines| lines.collect::<Vec<_>>().join("\n")).collect()
}

/// Asks as this user; status and description.
fn ask(daemon: &Daemon, uid: u32, query: &str) -> (u16, String) {
    let target = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&{query}");
    let reply = as_user(uid, uid, &[], || daemon.get(&target));
    let text = reply.json()["error_description"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (reply.status, text)
}

/// As log and answers name the user.
fn named(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)).unwrap() {
        Some(user) => format!("{} ({uid})", user.name),
        None => format!("uid {uid}"),
    }
}

#[test]
fn the_rule_at_the_end_of_a_refusal_allows_it_once_it_is_pasted() {
    if !are_to_be_had("the_rule_at_the_end_of_a_refusal_allows_it_once_it_is_pasted") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let dropin = daemon.directory().join("conf.d/50-pasted.toml");
    write(&dropin, "");
    let by_id = format!("resource=https://a/&client_id={GUID}");
    for (uid, query, explained) in [
        (
            33,
            "resource=https://storage.azure.com",
            "--resource=https://storage.azure.com".to_owned(),
        ),
        (1, &*by_id, format!("--resource=https://a/ --client-id={GUID}")),
        (
            ALICE,
            "resource=a%22%5d%23%27%5c&object_id=%7b%22%7d",
            "--resource=a\"]#'\\ --object-id={\"}".to_owned(),
        ),
        (
            2,
            "resource=api://a&msi_res_id=/s/FORMACI%C3%93N",
            "--resource=api://a --resource-id=/s/FORMACI\u{d3}N".to_owned(),
        ),
    ] {
        let (status, text) = ask(&daemon, uid, query);
        assert_eq!(status, 403, "{text}");
        let told = format!("token refused to {}: no rule allows it", named(uid));
        eventually("the refusal", || {
            daemon.log().contains(&told) && !rules(&daemon).is_empty()
        });
        let rule = rules(&daemon).pop().unwrap();
        let explained = explained.split(' ');
        let run = Command::new(TOKEN)
            .args(["explain", "--uid", &uid.to_string(), "--config"])
            .arg(daemon.config_path())
            .args(explained)
            .output()
            .unwrap();
        let explanation = String::from_utf8(run.stdout).unwrap();
        assert!(
            run.status.code() == Some(77) && explanation.ends_with(&format!("\n{rule}\n")),
            "{explanation}\n{rule}"
        );

        write(&dropin, &rule);
        let reloaded = daemon.send("POST", "/reload", &[], "");
        assert_eq!(reloaded.status, 200, "{rule}\n{}", reloaded.body);
        let (status, text) = ask(&daemon, uid, query);
        assert_ne!(status, 403, "{rule}\n{text}");
        let (status, text) = ask(&daemon, uid, "resource=https://other/");
        assert_eq!(status, 403, "{text}");
    }
}

#[test]
fn the_caller_is_told_who_he_is_and_where_to_look_and_nothing_of_the_rules() {
    if !are_to_be_had("the_caller_is_told_who_he_is_and_where_to_look_and_nothing_of_the_rules") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        &format!("[[allow]]\nusers = [\"root\"]\nclient_ids = [\"{GUID}\"]\n"),
    );
    for (uid, query, what) in [
        (33, "resource=https://a", "https://a for the VM's default identity"),
        (1, "resource=https://a/&client_id=B", "https://a/ for client_id:b"),
        (ALICE, "resource=https://a", "https://a for the VM's default identity"),
    ] {
        let (status, text) = ask(&daemon, uid, query);
        assert_eq!(status, 403);
        let (who, where_to) = (
            named(uid),
            format!(
                "`journalctl -u msi-tokend OUTCOME=denied UID={uid}` and by `msi-token explain --uid {uid} --resource RESOURCE`."
            ),
        );
        assert!(text.starts_with(&format!("No rule allows {who}")), "{text}");
        assert!(
            text.contains(&format!(" a token for {what}. ")) && text.contains(&where_to),
            "{text}"
        );
        assert!(
            !text.contains("config.toml") && !text.contains(GUID) && !text.contains("[["),
            "{text}"
        );
    }
    // Who has no name in /etc/passwd, and whom the kernel cannot name.
    let (_, text) = ask(&daemon, 65534, "resource=https://a");
    assert!(text.contains(&named(65534)), "{text}");
    eventually("four refusals", || {
        daemon.log().matches("token refused to").count() == 4
    });
    assert_eq!(rules(&daemon).len(), 3, "a rule for 65534 would be one for many");
}
