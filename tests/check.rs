//! What `msi-tokend --check` warns of, what `--strict` makes of it, and that the daemon says the same at its start and at a
//! reload.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use common::{Daemon, Emulator, How, TOKEND, directory, eventually, write};
use msi_tokend::config;
use nix::unistd::geteuid;
use users::{ALICE, are_to_be_had};

const GUID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";
const FORM: &str = "/subscriptions/S/resourcegroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/N";

/// The warnings of a file that have to do with the file alone, without the directory's name.
fn doubts(text: &str) -> Vec<String> {
    let directory = directory();
    let path = directory.path().join("config.toml");
    write(&path, text);
    let loaded = config::load(&path).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
    let prefix = format!("{}/", directory.path().display());
    loaded
        .doubts
        .iter()
        .map(|doubt| doubt.to_string().replace(&prefix, ""))
        .collect()
}

/// Exit code, standard output and standard error of `--check`.
fn check(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let done = Command::new(TOKEND)
        .args(["--check", "--config"])
        .arg(config)
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// `key = value` in a rule, in the third line of the file: the one warning is about it and ends in `remedy`.
fn assert_doubt(key: &str, value: &str, remedy: &str) {
    let found = doubts(&format!("[[allow]]\nusers = [0]\n{key} = {value}\n"));
    let [doubt] = found.as_slice() else {
        panic!("{key} = {value}: {found:?}")
    };
    assert!(
        doubt.starts_with(&format!("config.toml:3: allow.{key} names ")) && doubt.ends_with(remedy),
        "{doubt}\ndoes not end in {remedy}"
    );
}

#[test]
fn a_resource_that_no_program_asks_for_is_told_with_what_is_meant() {
    for (resource, remedy) in [
        ("*", "a rule without resources allows every one"),
        ("https://*.vault.azure.net", "a rule without resources allows every one"),
        ("storage.azure.com", "write \"https://storage.azure.com\""),
        ("vault.azure.net:443", "write \"https://vault.azure.net:443\""),
        ("storage", "such as \"https://storage.azure.com\""),
        ("//storage.azure.com/", "write \"https://storage.azure.com/\""),
        (
            "https%3A%2F%2Fgraph.microsoft.com%2F",
            "write \"https://graph.microsoft.com/\"",
        ),
        ("https://vault.azure.net/.default", "write \"https://vault.azure.net\""),
        ("api://app//.default", "write \"api://app/\""),
        ("https://Vault.Azure.Net/A", "write \"https://vault.azure.net/A\""),
        ("HTTPS://a.example", "write \"https://a.example\""),
        (
            "{73444643-8088-4D70-9532-C3A0FDC190FA}",
            "write \"73444643-8088-4d70-9532-c3a0fdc190fa\"",
        ),
        (
            "7344464380884d709532c3a0fdc190fa",
            "write \"73444643-8088-4d70-9532-c3a0fdc190fa\"",
        ),
    ] {
        assert_doubt("resources", &format!("[\"{resource}\"]"), remedy);
    }
    for resource in [
        "https://storage.azure.com/",
        "https://storage.azure.com",
        "https://a.example/Path/X",
        "http://a.example",
        "api://MyApp/X",
        "urn:ms:X",
        GUID,
        "73444643-8088-4D70-9532-C3A0FDC190FA",
    ] {
        let found = doubts(&format!("[[allow]]\nusers = [0]\nresources = [\"{resource}\"]\n"));
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn an_id_of_a_form_that_no_identity_has_is_told_with_what_is_meant() {
    let braces = format!("{{{GUID}}}");
    let right = format!("write \"{GUID}\"");
    for (key, id, remedy) in [
        ("client_ids", "my-identity", "id:clientId}\"` prints"),
        (
            "client_ids",
            "73444643-8088-4d70-9532-c3a0fdc190f",
            "id:clientId}\"` prints",
        ),
        ("object_ids", "my-identity", "id:principalId}\"` prints"),
        ("client_ids", &*braces, &*right),
        ("object_ids", "7344464380884D709532C3A0FDC190FA", &*right),
        ("client_ids", FORM, "move it to resource_ids"),
        ("object_ids", FORM, "move it to resource_ids"),
        ("resource_ids", GUID, "or to object_ids if it is an object id"),
        ("resource_ids", "my-identity", "userAssignedIdentities/NAME"),
        ("resource_ids", &FORM[1..], "userAssignedIdentities/NAME"),
        ("resource_ids", &format!("{FORM}/"), "userAssignedIdentities/NAME"),
        (
            "resource_ids",
            "/subscriptions/S/resourcegroups/G/providers/Microsoft.Compute/virtualMachines/N",
            "userAssignedIdentities/NAME",
        ),
    ] {
        assert_doubt(key, &format!("[\"{id}\"]"), remedy);
    }
    assert_doubt(
        "default_client_id",
        &format!("\"{FORM}\""),
        "move it to default_resource_id",
    );
    let right = format!(
        "[[allow]]\nusers = [0]\nclient_ids = [\"{GUID}\"]\nobject_ids = [\"{}\"]\nresource_ids = [\"{}\", \
         \"/subscriptions/S/resourceGroups/FORMACI\u{d3}N/providers/Microsoft.ManagedIdentity/userAssignedIdentities/N\"]\n",
        GUID.to_uppercase(),
        FORM.to_uppercase()
    );
    assert_eq!(doubts(&right), [""; 0]);
}

#[test]
fn a_warm_token_that_sdks_do_not_ask_for_is_told_unless_the_other_one_is_warm_too() {
    let warm = |resource: &str, more: &str| format!("[[warm]]\nresource = \"{resource}\"\n{more}");
    let of_identity = format!("client_id = \"{GUID}\"\n");
    for text in [
        warm("https://storage.azure.com/", ""),
        warm("api://app/", ""),
        warm("https://storage.azure.com/", "") + &warm("https://storage.azure.com", &of_identity),
    ] {
        let found = doubts(&text);
        assert!(
            found.len() == 1 && found[0].starts_with("config.toml:1: warm.resource is \""),
            "{found:?}"
        );
    }
    for text in [
        warm("https://storage.azure.com", ""),
        warm("https://storage.azure.com/", "") + &warm("https://storage.azure.com", ""),
        // A scope with two slashes gives one.
        warm("https://database.windows.net//", ""),
    ] {
        assert_eq!(doubts(&text), [""; 0], "{text}");
    }
    let found = doubts("[[warm]]\nresource = \"https://A.example\"\nclient_id = \"x\"\n");
    assert!(
        found.len() == 2 && found[0].contains(":2: warm.resource ") && found[1].contains(":3: warm.client_id "),
        "{found:?}"
    );
}

#[test]
fn a_file_beside_the_drop_ins_that_is_not_read_is_told() {
    let directory = directory();
    let config = directory.path().join("config.toml");
    write(&config, "");
    let drop_ins = directory.path().join("conf.d");
    fs::create_dir(&drop_ins).unwrap();
    for name in [
        "README",
        ".10-app.toml.swp",
        "10-app.toml~",
        "10-app.toml.dpkg-dist",
        "10-app.toml.bak",
        "20.toml",
    ] {
        write(&drop_ins.join(name), "");
    }
    assert_eq!(config::load(&config).unwrap().doubts.to_string(), "");
    for (name, right) in [
        ("99-foo.conf", "99-foo.toml"),
        ("B.TOML", "B.toml"),
        ("app", "app.toml"),
        ("x.yml", "x.toml"),
    ] {
        write(&drop_ins.join(name), "");
        let found = config::load(&config).unwrap().doubts.to_string();
        let told = format!(
            "{}: is not read, because its name does not end in .toml: call it {right},",
            drop_ins.join(name).display()
        );
        assert!(found.starts_with(&told) && found.lines().count() == 1, "{found}");
        fs::remove_file(drop_ins.join(name)).unwrap();
    }
}

#[test]
fn a_warning_is_a_failure_only_where_that_is_asked_for() {
    let directory = directory();
    let config = directory.path().join("config.toml");
    let rule = |line: &str| format!("# first\n[[allow]]\n{line}\n");
    for (line, key) in [
        ("users = [\"no-such-user\"]", "2: allow.users names \"no-such-user\""),
        (
            "groups = [\"root\", \"no-such-group\"]",
            "2: allow.groups names \"no-such-group\"",
        ),
        ("users = [0, \"+0\"]", "2: allow.users names \"+0\""),
        ("users = [0]\nresources = [\"*\"]", "4: allow.resources names \"*\""),
    ] {
        write(&config, &rule(line));
        let (code, out, err) = check(&config, &[]);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("[[allow]]"), "{out}");
        let told = format!("msi-tokend: warning: {}:{key}", config.display());
        assert!(
            err.starts_with(&told) && err.lines().count() == 1,
            "{err}\nis not {told}"
        );
        let (code, out, strict) = check(&config, &["--strict"]);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{strict}");
        assert!(strict.starts_with(&err) && strict.contains("--strict"), "{strict}");
    }
    write(&config, &rule("users = [\"root\", 4646]\ngroups = [\"0\"]"));
    let (code, _, err) = check(&config, &["--strict"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let alone = Command::new(TOKEND).arg("--strict").output().unwrap();
    assert_eq!(alone.status.code(), Some(64), "--strict without --check means nothing");
}

#[test]
fn the_daemon_warns_at_its_start_and_at_a_reload() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        "[[allow]]\nusers = [\"no-such-user\"]\nresources = [\"*\"]\n",
    );
    let warned = |key: &str| {
        let log = daemon.log();
        log.lines()
            .filter(|line| line.contains(" warn ") && line.contains(key))
            .count()
    };
    eventually("both warnings", || {
        warned(": allow.users names") == 1 && warned(": allow.resources names \"*\"") == 1
    });
    daemon.reload("[[allow]]\nusers = [0]\nclient_ids = [\"my-identity\"]\n");
    eventually("the warning", || {
        warned(": allow.client_ids names \"my-identity\"") == 1
    });
    assert_eq!(
        (warned("allow.users"), warned("allow.resources")),
        (1, 1),
        "what is gone is not told again"
    );
}

const SERVICE: u32 = 54_777;
const ITS_GROUP: u32 = 54_778;

/// `--check` as root on a machine where the package is installed: with the service's user, who is in a second group.
fn check_where_installed(config: &Path, accounts: &Path) -> (Option<i32>, String) {
    write(
        &accounts.join("passwd"),
        &format!("root:x:0:0::/root:/bin/sh\nmsi-tokend:x:{SERVICE}:{SERVICE}::/:/bin/false\n"),
    );
    write(
        &accounts.join("group"),
        &format!("root:x:0:\nmsi-tokend:x:{SERVICE}:\nreaders:x:{ITS_GROUP}:msi-tokend\n"),
    );
    let script = "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/group\" /etc/group && exec \"$0\" --check --config \"$2\"";
    let done = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, TOKEND])
        .args([accounts, config])
        .output()
        .unwrap();
    (done.status.code(), String::from_utf8(done.stderr).unwrap())
}

#[test]
fn root_is_told_what_the_services_user_cannot_read() {
    let mount = Command::new("unshare").args(["--mount", "true"]).status();
    if !geteuid().is_root() || !mount.is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED root_is_told_what_the_services_user_cannot_read: no mount namespace");
    }
    let (directory, accounts) = (directory(), directory());
    let root = directory.path().join("etc");
    let (config, drop_ins) = (root.join("config.toml"), root.join("conf.d"));
    fs::create_dir_all(&drop_ins).unwrap();
    let drop_in = drop_ins.join("50-app.toml");
    let give = |path: &Path, mode: u32, owner: u32, group: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(owner), Some(group)).unwrap();
    };
    let reset = || {
        write(&config, "");
        write(&drop_in, "");
        for (path, mode) in [(&root, 0o755), (&drop_ins, 0o755), (&config, 0o644), (&drop_in, 0o644)] {
            give(path, mode, 0, 0);
        }
    };
    for (path, mode, owner, group, remedy) in [
        (&config, 0o640, 0, 0, Some("o+r")),
        (&config, 0o600, 0, ITS_GROUP, Some("g+r")),
        (&config, 0o040, SERVICE, SERVICE, Some("u+r")),
        (&drop_in, 0o640, 0, 0, Some("o+r")),
        (&drop_ins, 0o750, 0, 0, Some("o+rx")),
        (&drop_ins, 0o744, 0, 0, Some("o+x")),
        (&root, 0o750, 0, 0, Some("o+x")),
        (&config, 0o640, 0, ITS_GROUP, None),
        (&config, 0o400, SERVICE, 0, None),
        (&drop_ins, 0o750, 0, SERVICE, None),
        (&root, 0o711, 0, 0, None),
    ] {
        reset();
        give(path, mode, owner, group);
        let (code, text) = check_where_installed(&config, accounts.path());
        let case = format!("{} {mode:o} {owner}:{group}: {text}", path.display());
        match remedy {
            None => assert_eq!((code, text.as_str()), (Some(0), ""), "{case}"),
            Some(bits) => {
                let mended = format!(
                    "cannot be read by msi-tokend ({SERVICE}): chmod {bits} {}\n",
                    path.display()
                );
                assert!(code == Some(78) && text.ends_with(&mended), "{case}\nlacks {mended}");
            }
        }
        reset();
        give(path, mode, owner, group);
        assert_eq!(
            check(&config, &[]).0 == Some(0),
            owner == 0,
            "root without the package: {case}"
        );
    }
}

#[test]
fn a_reload_that_cannot_read_a_file_says_how_to_mend_it() {
    if !are_to_be_had("a_reload_that_cannot_read_a_file_says_how_to_mend_it") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let how = How {
        uid: Some(ALICE),
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "", how);
    let drop_in = daemon.directory().join("conf.d/50-app.toml");
    write(&drop_in, "");
    chown(&drop_in, Some(0), Some(0)).unwrap();
    for (mode, status) in [(0o640, 409), (0o600, 409), (0o644, 200)] {
        fs::set_permissions(&drop_in, fs::Permissions::from_mode(mode)).unwrap();
        let reply = daemon.send("POST", "/reload", &[], "");
        assert_eq!(reply.status, status, "{}", reply.body);
        let remedy = format!("cannot be read by uid {ALICE}: chmod o+r {}", drop_in.display());
        assert_eq!(reply.body.contains(&remedy), status == 409, "{}", reply.body);
    }
}
