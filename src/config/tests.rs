//! The loader as a whole, on files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// A directory with a main file and drop-ins, as a package would install them.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(main: &str) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        files.write("config.toml", main);
        files
    }

    fn drop_in(self, name: &str, text: &str) -> Self {
        self.write(&format!("conf.d/{name}"), text);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        let directory = path.parent().unwrap();
        fs::create_dir_all(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self) -> Result<Loaded, Violations> {
        load(&self.path("config.toml"))
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|violations| panic!("{violations}")).config
    }

    /// What is wrong, with paths relative to the directory.
    fn violations(&self) -> Vec<String> {
        let prefix = format!("{}/", self.directory.path().display());
        let violations = self.load().expect_err("the files are wrong");
        violations
            .to_string()
            .lines()
            .map(|line| line.replace(&prefix, ""))
            .collect()
    }
}

/// Asserts that the one problem of `text` contains all of `parts`.
fn assert_problem(text: &str, parts: &[&str]) {
    let violations = Files::new(text).violations();
    assert_eq!(violations.len(), 1, "{text}\n{violations:#?}");
    for part in parts {
        assert!(violations[0].contains(part), "{text}\n{violations:#?}\nlacks {part}");
    }
}

#[test]
fn nothing_set_means_the_documented_defaults() {
    assert_eq!(Files::new("").config(), Config::default());
    let documented = r#"
        [upstream]
        kind = "imds"
        endpoint = "http://169.254.169.254/metadata/identity/oauth2/token"
        max_concurrent = 4
        max_per_second = 10
        connect_timeout = "2s"
        request_timeout = "30s"
        [listen]
        socket = "/run/msi-tokend/msi-tokend.sock"
        socket_mode = "0666"
        sdk_env = "/run/msi-tokend/sdk.env"
        [cache]
        max_tokens = 1000
        max_bytes = "8MB"
        max_tokens_per_uid = 64
        idle_drop = "24h"
        [limits]
        max_connections = 1024
        max_connections_per_uid = 256
        header_timeout = "30s"
        caller_wait = "20s"
        [access]
        root = "any"
        [lock]
        mode = "observe"
        exempt_users = ["root"]
        pass = "all"
        [log]
        level = "info"
        audit = true
    "#;
    assert_eq!(Files::new(documented).config(), Config::default());
}

#[test]
fn every_setting_is_read() {
    let config = Files::new(
        r#"
[upstream]
kind = "arc"
endpoint = "http://127.0.0.1:9999/token"
max_concurrent = 1
max_per_second = 2
connect_timeout = "3s"
request_timeout = "1m 4s"
[listen]
socket = "/run/x/y.sock"
socket_mode = "0660"
sdk = "127.0.0.1:40343"
monitor = "[::1]:9464"
[cache]
max_tokens = 5
max_bytes = "2 MiB"
max_tokens_per_uid = 6
idle_drop = "7h"
[limits]
max_connections = 8
max_connections_per_uid = 9
header_timeout = "10s"
caller_wait = "250ms"
[access]
root = "rules"
[lock]
mode = "enforce"
exempt_users = ["syslog", 7]
pass = "none"
[log]
level = "debug"
audit = false
"#,
    )
    .config();
    assert_eq!(
        config.upstream,
        UpstreamSettings {
            kind: Kind::Arc,
            endpoint: Uri::from_static("http://127.0.0.1:9999/token"),
            max_concurrent: 1,
            max_per_second: 2,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(64),
        }
    );
    assert_eq!(
        config.listen,
        Listen {
            socket: "/run/x/y.sock".into(),
            socket_mode: 0o660,
            sdk: Some("127.0.0.1:40343".parse().unwrap()),
            sdk_env: "/run/x/sdk.env".into(),
            monitor: Some("[::1]:9464".parse().unwrap()),
        }
    );
    assert_eq!(
        config.cache,
        Cache {
            max_tokens: 5,
            max_bytes: 2 << 20,
            max_tokens_per_uid: 6,
            idle_drop: Duration::from_hours(7),
        }
    );
    assert_eq!(
        config.limits,
        Limits {
            max_connections: 8,
            max_connections_per_uid: 9,
            header_timeout: Duration::from_secs(10),
            caller_wait: Duration::from_millis(250),
        }
    );
    assert_eq!(config.access.root, RootAccess::Rules);
    assert_eq!(
        config.lock,
        Lock {
            mode: LockMode::Enforce,
            exempt_users: vec![Account::Name("syslog".to_owned()), Account::Id(7)],
            pass: Pass::None,
        }
    );
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    assert!(!config.log.audit);
}

#[test]
fn every_key_of_warm_tokens_and_rules_is_read() {
    let config = Files::new(
        r#"
[[warm]]
resource = "https://a"
[[warm]]
resource = "https://b"
resource_id = "/Subscriptions/X"
[[allow]]
users = ["www-data", "33", 4646]
groups = ["backup"]
units = ["app@2.service", "user@1000.service"]
resources = ["https://a", "https://A"]
client_ids = ["C"]
object_ids = ["o"]
resource_ids = ["r"]
default_identity = true
"#,
    )
    .config();
    assert_eq!(
        config.warm,
        [
            Key::new(Resource::new("https://a").unwrap(), Identity::Default),
            Key::new(
                Resource::new("https://b").unwrap(),
                Identity::resource_id("/subscriptions/x").unwrap()
            ),
        ]
    );
    let [rule] = config.allow.as_slice() else {
        panic!("{:?}", config.allow)
    };
    let name = |name: &str| Account::Name(name.to_owned());
    assert_eq!(
        rule.users.as_deref().unwrap(),
        [name("www-data"), Account::Id(33), Account::Id(4646)]
    );
    assert_eq!(rule.groups.as_deref().unwrap(), [name("backup")]);
    assert_eq!(rule.units.as_deref().unwrap(), ["app@2.service", "user@1000.service"]);
    assert_eq!(rule.resources.as_ref().unwrap()[1].as_str(), "https://A");
    assert_eq!(
        rule.identities.as_deref().unwrap(),
        [
            Identity::client_id("c").unwrap(),
            Identity::object_id("o").unwrap(),
            Identity::resource_id("r").unwrap(),
            Identity::Default,
        ]
    );
    assert_eq!(rule.origin.line, 7);
}

#[test]
fn each_kind_has_its_own_endpoint_and_the_environment_file_follows_the_socket() {
    for (kind, port, path) in [
        ("imds", None, "/metadata/identity/oauth2/token"),
        ("vm-extension", Some(50342), "/oauth2/token"),
        ("arc", Some(40342), "/metadata/identity/oauth2/token"),
    ] {
        let files = Files::new(&format!("upstream.kind = \"{kind}\"")).drop_in("a.toml", "listen.socket = \"/a/b\"");
        let config = files.config();
        assert_eq!(config.upstream.endpoint.port_u16(), port);
        assert_eq!(config.upstream.endpoint.path(), path);
        assert_eq!(config.listen.sdk_env, PathBuf::from("/a/sdk.env"));
    }
}

#[test]
fn a_later_file_wins_key_by_key_and_lists_append() {
    let files = Files::new("[cache]\nmax_tokens = 1\nmax_tokens_per_uid = 2\n[[allow]]\nusers = [\"a\"]\n")
        .drop_in(
            "20-last.toml",
            "[cache]\nmax_tokens = 4\n[[allow]]\nusers = [\"c\"]\n[[warm]]\nresource = \"r\"",
        )
        .drop_in(
            "10-first.toml",
            "[cache]\nmax_tokens = 3\n[[allow]]\nusers = [\"b\"]\n[[warm]]\nresource = \"r\"",
        )
        .drop_in("30-ignored.toml.dpkg-new", "nonsense")
        .drop_in(".30-ignored.toml", "nonsense");
    let config = files.config();
    assert_eq!(config.cache.max_tokens, 4);
    assert_eq!(config.cache.max_tokens_per_uid, 2);
    let users: Vec<_> = config
        .allow
        .iter()
        .flat_map(|rule| rule.users.clone().unwrap())
        .collect();
    assert_eq!(users, ["a", "b", "c"].map(|name| Account::Name(name.to_owned())));
    assert_eq!(config.warm.len(), 1, "listed twice, wanted once");
}

#[test]
fn all_that_is_wrong_is_told_at_once_by_file_and_type_errors_first() {
    let files = Files::new(
        "[cache]\nmax_token = 5\nidle_drop = \"0s\"\nmax_tokens = \"many\"\n[[allow]]\nresources = []\n[cashe]\n",
    )
    .drop_in("a.toml", "[log]\nlevel = \"loud\"\naudit = \n")
    .drop_in("b.toml", "[log]\nlevel = \"loud\"\n");
    assert_eq!(
        files.violations(),
        [
            "config.toml:4: cache.max_tokens must be an integer, not a string: write for example max_tokens = 100",
            "config.toml:2: cache.max_token is not known: did you mean max_tokens?",
            "config.toml:3: cache.idle_drop must be from 10ms to 8760h: write for example idle_drop = \"30s\"",
            "config.toml:5: allow has neither users nor groups nor units: add users, groups or units, or remove the rule",
            "config.toml:6: allow.resources is empty and would match nothing: leave the key out, or list what is meant",
            "config.toml:7: cashe is not known here: did you mean cache?",
            "conf.d/a.toml:3: string values must be quoted, expected literal string: correct the TOML here; nothing else in \
             this file was looked at",
            "conf.d/b.toml:2: log.level cannot be \"loud\": write one of \"error\", \"warn\", \"info\", \"debug\"",
        ]
    );
}

#[test]
fn an_overridden_value_is_judged_as_well() {
    let files = Files::new("cache.max_tokens = 0").drop_in("a.toml", "cache.max_tokens = 5");
    assert!(files.violations()[0].contains("must be from 1 to"));
}

#[test]
fn unknown_names_come_with_where_they_belong() {
    assert_problem("max_tokens = 5", &["move it below the line [cache]"]);
    assert_problem("[limits]\nmax_tokens = 5", &[":2:", "move it below the line [cache]"]);
    assert_problem("[listen]\nsokcet = \"/a/b\"", &["did you mean socket?"]);
    assert_problem("[listen]\nfoo = 1", &["there are socket, socket_mode, sdk,"]);
    assert_problem("[entirely_else]", &["there are upstream, listen,"]);
    assert_problem(
        "[[allow]]\nusers = [\"a\"]\nclient_id = \"x\"",
        &[":3:", "did you mean client_ids?"],
    );
    assert_problem(
        "[[warm]]\nresource = \"r\"\nclient_ids = [\"x\"]",
        &[":3:", "did you mean client_id?"],
    );
    assert_problem(
        "[[warm]]\nresource = \"r\"\nmax_tokens = 1",
        &[":3:", "move it below the line [cache]"],
    );
    assert_problem("users = [\"a\"]", &["move it below the line [[allow]]"]);
    assert_problem("\"\\u001b[2J\" = 1", &["\\u{1b}[2J is not known"]);
    assert_problem("[cache]\n\"a\\nb\" = 1", &["cache.a\\nb is not known"]);
}

#[test]
fn a_wrong_shape_is_told_with_the_right_one() {
    assert_problem("cache = 5", &["must be a table, not an integer", "write [cache]"]);
    assert_problem("[[cache]]\nmax_tokens = 5", &["not a list", "write [cache]"]);
    assert_problem("[allow]\nusers = [\"a\"]", &["list of tables", "write [[allow]]"]);
    assert_problem("warm = [\"r\"]", &["list of tables", "write [[warm]]"]);
    assert_problem("log.audit = \"true\"", &["without quotes"]);
    assert_problem(
        "access.root = \"none\"",
        &["access.root cannot be", "one of \"any\", \"rules\""],
    );
    assert_problem("log.level = 3", &["must be a string", "level = \"error\""]);
    assert_problem(
        "limits.caller_wait = 20",
        &["string with a unit", "caller_wait = \"30s\""],
    );
    assert_problem(
        "[[allow]]\nusers = \"a\"",
        &["list in brackets", "users = [\"backup\"]"],
    );
    assert_problem(
        "[[allow]]\nusers = [33.0]",
        &["must be a name or a numeric id, not a number with a fraction"],
    );
    assert_problem("a = 1\na = 2", &[":2:", "duplicate"]);
}

#[test]
fn numbers_and_durations_have_bounds() {
    for key in [
        "upstream.max_concurrent",
        "upstream.max_per_second",
        "cache.max_tokens",
        "cache.max_tokens_per_uid",
        "limits.max_connections",
        "limits.max_connections_per_uid",
    ] {
        for bad in ["0", "-1", "1000001", "99999999999999999999999999"] {
            assert_problem(&format!("{key} = {bad}"), &[key, "must be from 1 to 1000000"]);
        }
        for good in ["1", "1000000", "0x10", "1_000"] {
            Files::new(&format!("{key} = {good}")).config();
        }
        assert_problem(&format!("{key} = 1.5"), &["must be an integer"]);
    }
    for (key, max) in [
        ("upstream.connect_timeout", "1m"),
        ("upstream.request_timeout", "10m"),
        ("cache.idle_drop", "8760h"),
        ("limits.header_timeout", "1h"),
        ("limits.caller_wait", "10m"),
    ] {
        for bad in ["0s", "9ms", &format!("{max} 1ms")] {
            assert_problem(&format!("{key} = \"{bad}\""), &[key, "must be from 10ms to"]);
        }
        for bad in [
            "",
            "30",
            "x",
            "30 parsecs",
            "99999999999999999999y",
            "-1s",
            "+1s",
            "1_0s",
            "1 0s",
        ] {
            assert_problem(&format!("{key} = \"{bad}\""), &[key, "is not a duration"]);
        }
        for good in ["10ms", max] {
            Files::new(&format!("{key} = \"{good}\"")).config();
        }
    }
}

#[test]
fn a_size_has_a_unit_and_bounds_and_is_shown_exactly() {
    let key = "cache.max_bytes";
    for bad in ["0B", "999999B", "48000001B", "1GB", "99999999999999999999999999EB"] {
        assert_problem(&format!("{key} = \"{bad}\""), &[key, "must be from 1MB to 48MB"]);
    }
    for bad in ["", "x", "MB", "8 parsecs", "-8MB", "+8000000", "8,5MB", "1 0MB"] {
        assert_problem(&format!("{key} = \"{bad}\""), &[key, "is not a size"]);
    }
    assert_problem(
        &format!("{key} = 8000000"),
        &["string with a unit", "max_bytes = \"8MB\""],
    );
    for (given, bytes, shown) in [
        ("8MB", 8_000_000, "8MB"),
        ("8 mb", 8_000_000, "8MB"),
        ("8 MiB", 8 << 20, "8MiB"),
        ("1.5MB", 1_500_000, "1500kB"),
        ("1024KiB", 1 << 20, "1MiB"),
        ("1000001", 1_000_001, "1000001B"),
    ] {
        let loaded = Files::new(&format!("{key} = \"{given}\"")).load().unwrap();
        assert_eq!(loaded.config.cache.max_bytes, bytes, "{given}");
        let line = format!("max_bytes = \"{shown}\"");
        assert!(
            loaded.effective.to_string().contains(&line),
            "{given}: {}",
            loaded.effective
        );
    }
}

#[test]
fn an_endpoint_is_plain_http_with_host_and_path() {
    for (bad, why) in [
        ("https://h/t", "must begin with http://"),
        ("ftp://h/t", "must begin with http://"),
        ("h/t", "must begin with http://"),
        ("", "must begin with http://"),
        ("http://h/t?a=b", "neither query nor fragment"),
        ("http://h/t#f", "neither query nor fragment"),
        ("http://u:p@h/t", "user name"),
        ("http://@h/t", "user name"),
        ("http://h", "has no path"),
        ("http:///t", "address"),
        ("http://:80/t", ""),
        ("http://h:0/t", "port"),
        ("http://h:65536/t", "port"),
        ("http://h:/t", "port"),
        ("http://h:+80/t", "port"),
        ("http://127.1/t", "four decimal numbers"),
        ("http://0x7f000001:80/t", "four decimal numbers"),
        ("http://127.0.0.01/t", "four decimal numbers"),
        ("http://h h/t", "is not an address"),
        ("http://h/\\u0000", "is not an address"),
    ] {
        assert_problem(
            &format!("upstream.endpoint = \"{bad}\""),
            &["upstream.endpoint", why, "http://169"],
        );
    }
    for good in [
        "http://h/",
        "http://h:1/t",
        "http://[::1]:65535/t/",
        "http://10.0.0.1/a%20b",
    ] {
        Files::new(&format!("upstream.endpoint = \"{good}\"")).config();
    }
}

#[test]
fn the_daemon_cannot_be_its_own_upstream() {
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        for listener in ["sdk", "monitor"] {
            assert_problem(
                &format!("upstream.endpoint = \"http://{host}:7000/t\"\nlisten.{listener} = \"127.0.0.1:7000\""),
                &[":2:", listener, "would ask itself"],
            );
        }
    }
    assert_problem(
        "upstream.endpoint = \"http://localhost/t\"\nlisten.sdk = \"127.0.0.1:80\"",
        &["would ask itself"],
    );
    assert_problem(
        "upstream.kind = \"arc\"\nlisten.sdk = \"127.0.0.1:40342\"",
        &["would ask itself"],
    );
    Files::new("upstream.endpoint = \"http://127.0.0.1:7000/t\"\nlisten.sdk = \"127.0.0.1:7001\"").config();
}

#[test]
fn listeners_stay_on_this_machine_and_apart() {
    for bad in [
        "0.0.0.0:1",
        "10.0.0.1:1",
        "[::]:1",
        "169.254.169.254:80",
        "[::ffff:10.0.0.1]:1",
    ] {
        assert_problem(&format!("listen.sdk = \"{bad}\""), &["must be a loopback address"]);
        assert_problem(&format!("listen.monitor = \"{bad}\""), &["must be a loopback address"]);
    }
    for bad in [
        "127.0.0.1",
        "localhost:1",
        "127.0.0.1:65536",
        "127.0.0.1:+1",
        "127.0.0.1: 1",
        "127.0.0.1:0x1",
        "127.1:1",
        "",
    ] {
        assert_problem(
            &format!("listen.sdk = \"{bad}\""),
            &["is not an IP address with a port"],
        );
    }
    assert_problem(
        "listen.sdk = \"127.0.0.1:1\"\nlisten.monitor = \"127.0.0.1:1\"",
        &[":2:", "listen.monitor"],
    );
    Files::new("listen.sdk = \"127.0.0.1:0\"\nlisten.monitor = \"127.0.0.1:0\"").config();
}

#[test]
fn socket_paths_are_absolute_and_fit() {
    for bad in ["run/x", "", "/", "/run/", "/run/.."] {
        assert_problem(&format!("listen.socket = \"{bad}\""), &["absolute path of a file"]);
        assert_problem(&format!("listen.sdk_env = \"{bad}\""), &["absolute path of a file"]);
    }
    assert_problem("listen.socket = \"/a\\u0000b\"", &["control character"]);
    Files::new(&format!("listen.socket = \"/{}\"", "a".repeat(106))).config();
    assert_problem(
        &format!("listen.socket = \"/{}\"", "a".repeat(107)),
        &["longer than 107 bytes"],
    );
    assert_problem(
        "listen.socket = \"/a/b\"\nlisten.sdk_env = \"/a/b\"",
        &[":2:", "listen.socket as well"],
    );
    for bad in ["", "0888", "7777", "00666", "0o66", "-066", "+66"] {
        assert_problem(&format!("listen.socket_mode = \"{bad}\""), &["octal"]);
    }
    assert_problem("listen.socket_mode = 0o666", &["must be a string"]);
    assert_eq!(
        Files::new("listen.socket_mode = \"600\"").config().listen.socket_mode,
        0o600
    );
}

#[test]
fn warm_tokens_have_a_resource_at_most_one_identity_and_room() {
    assert_problem("[[warm]]\nclient_id = \"c\"", &[":1:", "names no resource"]);
    assert_problem(
        "[[warm]]\nresource = \"r\"\nclient_id = \"c\"\nobject_id = \"o\"",
        &[":1:", "more than one identity"],
    );
    assert_problem("[[warm]]\nresource = \"a b\"", &[":2:", "printable ASCII"]);
    assert_problem("[[warm]]\nresource = \"r\"\nclient_id = \"\"", &[":3:", "is empty"]);
    assert_problem(
        "cache.max_tokens = 1\n[[warm]]\nresource = \"a\"\n[[warm]]\nresource = \"b\"",
        &[":4:", "set cache.max_tokens to 2"],
    );
    Files::new("cache.max_tokens = 1\n[[warm]]\nresource = \"a\"\n[[warm]]\nresource = \"a\"").config();
}

#[test]
fn a_rule_names_somebody_and_something() {
    assert_problem("[[allow]]", &[":1:", "has neither users nor groups nor units"]);
    assert_problem("[[allow]]\nresources = [\"r\"]", &[":1:", "has neither users"]);
    for key in [
        "users",
        "groups",
        "units",
        "resources",
        "client_ids",
        "object_ids",
        "resource_ids",
    ] {
        let who = if ["users", "groups", "units"].contains(&key) {
            ""
        } else {
            "users = [\"a\"]"
        };
        assert_problem(&format!("[[allow]]\n{key} = []\n{who}"), &[":2:", key, "is empty"]);
    }
    assert_problem(
        "[[allow]]\nusers = [\"a\"]\ndefault_identity = false",
        &["allows no identity"],
    );
    for bad in [
        "",
        " a",
        "a:b",
        "../a",
        "a\\u0007",
        "*",
        "4294967295",
        "99999999999",
        &"a".repeat(257),
    ] {
        assert_problem(
            &format!("[[allow]]\nusers = [\"a\", \"{bad}\"]"),
            &[":2:", "allow.users"],
        );
        assert_problem(&format!("[[allow]]\ngroups = [\"{bad}\"]"), &[":2:", "allow.groups"]);
    }
    for (bad, why) in [
        ("app", "write app.service"),
        ("app@.service", "write an instance of it, app@INSTANCE.service"),
        ("app.timer", "such as app.service"),
        ("system.slice", "name the units in it"),
        ("app*.service", "no patterns"),
        (".service", "full name"),
        ("a b.service", "one unit's full name"),
    ] {
        assert_problem(
            &format!("[[allow]]\nunits = [\n\"ok.service\",\n\"{bad}\"]"),
            &[":4:", "allow.units", why],
        );
    }
    let config = Files::new("[[allow]]\nusers = [\"a\"]\nclient_ids = [\"c\"]\ndefault_identity = false").config();
    assert_eq!(
        config.allow[0].identities.as_deref().unwrap(),
        [Identity::client_id("c").unwrap()]
    );
    let config = Files::new("[[allow]]\nusers = [\"a\"]\ndefault_identity = true").config();
    assert_eq!(config.allow[0].identities.as_deref().unwrap(), [Identity::Default]);
    let config = Files::new("[[allow]]\nusers = [\"a\"]").config();
    assert_eq!(config.allow[0].identities, None, "any identity");
}

#[test]
fn a_user_or_group_is_an_id_only_in_digits_or_as_an_integer() {
    for (written, meant) in [
        ("4646", Account::Id(4646)),
        ("0x1226", Account::Id(4646)),
        ("\"4646\"", Account::Id(4646)),
        ("\"0033\"", Account::Id(33)),
        ("0", Account::Id(0)),
        ("4294967294", Account::Id(4_294_967_294)),
        ("\"+4646\"", Account::Name("+4646".to_owned())),
        ("\"-1\"", Account::Name("-1".to_owned())),
        ("\"4_646\"", Account::Name("4_646".to_owned())),
        ("\"0x1226\"", Account::Name("0x1226".to_owned())),
        ("\"46 46\"", Account::Name("46 46".to_owned())),
    ] {
        let loaded = Files::new(&format!("[[allow]]\nusers = [{written}]\ngroups = [{written}]"))
            .load()
            .unwrap();
        let printed = Files::new(&loaded.effective.to_string()).config();
        for rule in [&loaded.config.allow[0], &printed.allow[0]] {
            for list in [&rule.users, &rule.groups] {
                assert_eq!(list.as_deref().unwrap(), std::slice::from_ref(&meant), "{written}");
            }
        }
    }
    for bad in ["-1", "4294967295", "99999999999999999999", "\" 4646\"", "true"] {
        assert_problem(&format!("[[allow]]\nusers = [{bad}]"), &["allow.users"]);
        assert_problem(&format!("[[allow]]\ngroups = [{bad}]"), &["allow.groups"]);
    }
}

#[test]
fn a_rules_default_counts_as_listed_and_there_is_one() {
    let allow = |keys: &str| {
        Files::new(&format!("[[allow]]\nusers = [\"a\"]\n{keys}"))
            .config()
            .allow
            .remove(0)
    };
    for (key, identity) in [
        ("default_client_id", Identity::client_id("x").unwrap()),
        ("default_object_id", Identity::object_id("x").unwrap()),
        ("default_resource_id", Identity::resource_id("x").unwrap()),
    ] {
        let rule = allow(&format!("{key} = \"X\""));
        assert_eq!(rule.default.as_ref(), Some(&identity));
        assert_eq!(rule.identities, Some(vec![identity.clone()]), "the only one");
        let rule = allow(&format!("{key} = \"x\"\nclient_ids = [\"c\"]"));
        assert_eq!(rule.identities, Some(vec![Identity::client_id("c").unwrap(), identity]));
        assert_problem(
            &format!("[[allow]]\nusers = [\"a\"]\n{key} = \"\""),
            &[":3:", key, "is empty"],
        );
        for on in ["true", "false"] {
            let both = format!("[[allow]]\nusers = [\"a\"]\n{key} = \"x\"\ndefault_identity = {on}");
            assert_problem(
                &both,
                &[":1:", "allow.default_identity does not go with", key, "remove one"],
            );
        }
    }
    assert_eq!(allow("client_ids = [\"c\"]").default, None);
    assert_problem(
        "[[allow]]\nusers = [\"a\"]\ndefault_client_id = \"x\"\ndefault_object_id = \"x\"",
        &[":1:", "more than one identity", "keep one of default_client_id"],
    );
}

#[test]
fn the_effective_configuration_names_its_places_and_loads_again() {
    let files = Files::new("[cache]\nmax_tokens = 7\nmax_bytes = \"2.5MB\"\n[[allow]]\nusers = [\"a\"]\n").drop_in(
        "a.toml",
        "[upstream]\nkind = \"arc\"\n[log]\nlevel = \"warn\"\n[[warm]]\nresource = \"https://\\\"q\\\\\"\nclient_id = \"C\"\n",
    );
    let loaded = files.load().unwrap();
    let text = loaded.effective.to_string();
    let prefix = format!("{}/", files.directory.path().display());
    let shown = text.replace(&prefix, "");
    for line in [
        "kind = \"arc\"  # conf.d/a.toml:2",
        "endpoint = \"http://localhost:40342/metadata/identity/oauth2/token\"  # default",
        "max_tokens = 7  # config.toml:2",
        "max_bytes = \"2500kB\"  # config.toml:3",
        "max_tokens_per_uid = 64  # default",
        "idle_drop = \"24h\"  # default",
        "# sdk is not set",
        "root = \"any\"  # default",
        "[[warm]]  # conf.d/a.toml:5",
        "client_id = \"c\"",
        "[[allow]]  # config.toml:4",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{shown}\nlacks {line}");
    }
    let again = Files::new(&text);
    let config = again.config();
    assert_eq!(config.upstream, loaded.config.upstream);
    assert_eq!(config.cache, loaded.config.cache);
    assert_eq!(config.listen, loaded.config.listen);
    assert_eq!(config.warm, loaded.config.warm);
    assert_eq!(config.allow[0].users, loaded.config.allow[0].users);
}

#[test]
fn only_plain_files_that_nobody_else_can_write_are_read() {
    let files = Files::new("");
    for mode in [0o664, 0o646, 0o666] {
        files.chmod("config.toml", mode);
        let problem = files.violations().remove(0);
        assert!(
            problem.contains("written by others") && problem.contains("chmod go-w"),
            "{problem}"
        );
    }
    files.chmod("config.toml", 0o600);
    files.config();

    let files = Files::new("").drop_in("a.toml", "");
    files.chmod("conf.d/a.toml", 0o666);
    assert!(files.violations()[0].starts_with("conf.d/a.toml: can be written"));
    files.chmod("conf.d/a.toml", 0o644);
    files.chmod("conf.d", 0o777);
    assert!(files.violations()[0].contains("conf.d: can be written"));

    let files = Files::new("");
    fs::rename(files.path("config.toml"), files.path("real.toml")).unwrap();
    let problem = files.violations().remove(0);
    assert!(
        problem.contains("does not exist") && problem.contains("create it"),
        "{problem}"
    );
    symlink("real.toml", files.path("config.toml")).unwrap();
    assert!(files.violations()[0].contains("symbolic link"));

    let files = Files::new("").drop_in("real", "");
    symlink("real", files.path("conf.d/a.toml")).unwrap();
    assert!(files.violations()[0].contains("symbolic link"));

    let files = Files::new("");
    fs::create_dir(files.path("elsewhere")).unwrap();
    symlink("elsewhere", files.path("conf.d")).unwrap();
    assert!(files.violations()[0].contains("is a symbolic link"));

    let files = Files::new("").drop_in("a.toml", "");
    fs::remove_file(files.path("conf.d/a.toml")).unwrap();
    fs::create_dir(files.path("conf.d/a.toml")).unwrap();
    assert!(files.violations()[0].contains("not a regular file"));
}

#[test]
fn a_configuration_below_a_directory_that_others_can_write_to_is_not_read() {
    let files = Files::new("");
    fs::create_dir_all(files.path("a/b")).unwrap();
    fs::rename(files.path("config.toml"), files.path("a/b/config.toml")).unwrap();
    let load = || super::load(&files.path("a/b/config.toml")).map_err(|violations| violations.to_string());
    for name in ["a/b", "a"] {
        for mode in [0o775, 0o757, 0o777] {
            files.chmod(name, mode);
            let refused = load().unwrap_err();
            let remedy = format!("chmod go-w {}", files.path(name).display());
            assert!(refused.contains(&remedy), "{refused}");
        }
        // As /tmp is: nobody renames what is not his there.
        files.chmod(name, 0o1777);
        load().unwrap();
    }
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::fs::{chown, lchown};
        let owner = |name: &str, uid| chown(files.path(name), Some(uid), None).unwrap();
        owner("a", 12345);
        let refused = load().unwrap_err();
        assert!(
            refused.contains("a: belongs to uid 12345") && refused.contains("chown 0"),
            "{refused}"
        );
        owner("a", 0);
        symlink("b", files.path("a/link")).unwrap();
        let by_link = || super::load(&files.path("a/link/config.toml"));
        by_link().unwrap();
        lchown(files.path("a/link"), Some(12345), None).unwrap();
        let refused = by_link().unwrap_err().to_string();
        assert!(
            refused.contains("a/link: is a symbolic link that belongs to uid 12345"),
            "{refused}"
        );
    }
}

/// A FIFO would hold the daemon's start until somebody writes into it.
#[test]
fn a_fifo_is_refused_at_once() {
    let files = Files::new("");
    fs::remove_file(files.path("config.toml")).unwrap();
    nix::unistd::mkfifo(&files.path("config.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(files.violations()[0].contains("not a regular file"));
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return; // only root can give a file away
    }
    let files = Files::new("");
    std::os::unix::fs::chown(files.path("config.toml"), Some(12345), None).unwrap();
    assert!(files.violations()[0].contains("belongs to uid 12345"));
}

#[test]
fn size_and_encoding_are_judged() {
    let files = Files::new("");
    files.write("config.toml", "#".repeat(1024 * 1024));
    files.config();
    files.write("config.toml", "#".repeat(1024 * 1024 + 1));
    assert!(files.violations()[0].contains("larger than 1048576 bytes"));
    files.write("config.toml", b"# a\n# \xff\n");
    assert!(files.violations()[0].contains("not UTF-8 text in line 2"));
    files.write("config.toml", "[log]\nlevel = \"\0\"");
    assert_eq!(files.violations().len(), 1);
}

#[test]
fn unreadable_drop_ins_do_not_hide_what_else_is_wrong() {
    let files = Files::new("a = 1").drop_in("a.toml", "b = 1");
    files.chmod("conf.d/a.toml", 0o666);
    assert_eq!(files.violations().len(), 2);
}
