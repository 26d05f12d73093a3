//! Every configuration that we show to people is one that the daemon takes, and the programs that we name were tried.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use msi_tokend::config::{Account, Config, Loaded, keep, load};
use serde::Deserialize;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Loads `text` from a file of its own, since those of a working copy may be writable by a group.
fn load_text(name: &str, text: &str) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    load(&path).unwrap_or_else(|problems| panic!("{name}:\n{problems}"))
}

#[test]
fn the_packaged_file_changes_no_default_and_has_one_rule() {
    let loaded = load_text(
        "config.toml",
        &fs::read_to_string(repository("config/config.toml")).unwrap(),
    );
    assert_eq!(loaded.doubts.to_string(), "");
    let [rule] = loaded.config.allow.as_slice() else {
        panic!("{:?}", loaded.config.allow)
    };
    assert_eq!(
        rule.groups.as_deref().unwrap(),
        [Account::Name("msi-tokend".to_owned())]
    );
    assert!(rule.users.is_none() && rule.units.is_none() && rule.resources.is_none() && rule.identities.is_none());
    assert_eq!(
        Config {
            allow: Vec::new(),
            ..loaded.config
        },
        Config::default()
    );
}

/// `#key` is a setting, `# text` is prose: with the settings taken in, each key there is, at its default.
#[test]
fn the_packaged_file_shows_every_key_with_its_default() {
    let text = fs::read_to_string(repository("config/config.toml")).unwrap();
    let taken_in: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            _ => line,
        })
        .collect();
    let loaded = load_text("config.toml", &taken_in.join("\n"));
    let effective = loaded.effective.to_string();
    let not_shown: Vec<_> = effective
        .lines()
        .filter(|line| line.ends_with("# default") || line.ends_with("is not set"))
        .collect();
    assert!(not_shown.is_empty(), "{not_shown:#?}");
    assert!(
        loaded
            .doubts
            .iter()
            .all(|doubt| doubt.what.contains("/subscriptions/SUB/")),
        "{}",
        loaded.doubts
    );
    let (config, default) = (loaded.config, Config::default());
    assert_eq!(config.upstream, default.upstream);
    assert_eq!(config.cache, default.cache);
    assert_eq!(config.limits, default.limits);
    assert_eq!(config.log, default.log);
    assert_eq!(
        msi_tokend::config::Listen {
            sdk: None,
            monitor: None,
            ..config.listen
        },
        default.listen
    );
    let [.., rule, with_default] = config.allow.as_slice() else {
        panic!("{:?}", config.allow)
    };
    assert!(with_default.default.is_some());
    assert!(rule.users.is_some() && rule.groups.is_some() && rule.units.is_some() && rule.resources.is_some());
    assert_eq!(rule.identities.as_ref().unwrap().len(), 4, "each kind of selector");
    assert_eq!(config.warm.len(), 1);
}

#[test]
fn the_examples_load() {
    let mut count = 0;
    for entry in fs::read_dir(repository("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let loaded = load_text(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        assert_eq!(loaded.doubts.to_string(), "");
        count += 1;
    }
    assert!(count >= 4, "{count} examples found");
}

/// Settings of `msi-token keep`, for a user who is in every group.
fn load_kept(name: &str, text: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.toml");
    fs::write(&path, text.replace("\"prometheus\"", "\"root\"")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    keep::load(&path, |_| true).unwrap_or_else(|problems| panic!("{name}:\n{problems}"));
}

#[test]
fn the_examples_of_files_load() {
    let mut count = 0;
    for entry in fs::read_dir(repository("config/examples/keep")).unwrap() {
        let path = entry.unwrap().path();
        load_kept(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        count += 1;
    }
    assert!(count >= 3, "{count} examples found");
}

#[test]
fn what_the_documents_show_loads() {
    let docs = fs::read_dir(repository("docs")).unwrap();
    let pages: Vec<_> = docs
        .map(|entry| entry.unwrap().path())
        .chain([repository("README.md")])
        .collect();
    let mut count = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for (index, block) in text.split("```toml\n").skip(1).enumerate() {
            let block = block.split_once("```").expect("a block that ends").0;
            let name = format!("TOML block {index} of {}", page.display());
            if block.contains("[[file]]") {
                load_kept(&name, block);
            } else {
                let doubts = load_text(&name, block).doubts.to_string();
                // That page asks by URL, as Azure's own tutorial does, and says that it warns.
                assert!(
                    doubts.is_empty() || page.ends_with("docs/first-blob.md"),
                    "{name}: {doubts}"
                );
            }
            count += 1;
        }
    }
    assert!(count >= 5, "{count} blocks found");
}

/// What `tests/programs/run` tries, what other suites try, and what could not be had.
#[derive(Deserialize)]
struct Programs {
    program: Vec<Program>,
    not_tried: Vec<NotTried>,
}

#[derive(Deserialize)]
struct Program {
    name: String,
    packages: Vec<String>,
    #[serde(default)]
    locked: bool,
    by: Option<String>,
    suite: Option<Suite>,
    write: String,
    #[serde(default)]
    does_not_work: String,
}

/// The suite that tries a program, and the file by which that suite installs it.
#[derive(Deserialize)]
struct Suite {
    name: String,
    pins: String,
}

#[derive(Deserialize)]
struct NotTried {
    name: String,
    because: String,
}

/// What `tests/programs/run` noted of a program that it tried.
#[derive(Deserialize)]
struct Proven {
    packages: Vec<String>,
    date: String,
}

fn text_of(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|problem| panic!("{path}: {problem}"))
}

/// A package's name and version.
fn split_package(package: &str) -> (&str, &str) {
    let (name, version) = package.rsplit_once(['=', '@']).expect("a version");
    (name.trim_end_matches('='), version)
}

/// The suite is one of `--all`, and installs these packages: whatever the file's form, the version stands soon after the name.
fn is_tried_by(suite: &Suite, packages: &[String]) {
    let line = format!("\n    suite {}\n", suite.name);
    let all = text_of("tests/run");
    assert!(
        all.contains(&line) && all.find(&line) < all.find("if [ -n \"$release\" ]"),
        "{line}"
    );
    let pins = text_of(&suite.pins);
    for package in packages {
        let (name, version) = split_package(package);
        let is_pinned = pins
            .split(name)
            .skip(1)
            .any(|after| after.chars().take(50).collect::<String>().contains(version));
        assert!(is_pinned, "{} has no {package}", suite.pins);
    }
}

#[test]
fn the_table_of_programs_says_what_was_tried_and_when() {
    let programs: Programs = toml::from_str(&text_of("tests/programs/programs.toml")).unwrap();
    let mut proven: BTreeMap<String, Proven> = toml::from_str(&text_of("tests/programs/proven.toml")).unwrap();
    let mut table =
        "| program | version | led by (each alone suffices) | what to write; for a client id | what does not work | tried |\n".to_owned();
    table.push_str("|---|---|---|---|---|---|\n");
    for program in programs.program {
        let name = program.name;
        let tried = if let Some(suite) = program.suite {
            is_tried_by(&suite, &program.packages);
            format!("by each `tests/{}/run`", suite.name)
        } else {
            let again = format!("`tests/programs/run --record {name}` tries this version");
            let Proven { packages, date } = proven.remove(&name).expect(&again);
            assert_eq!(packages, program.packages, "{again}");
            date
        };
        let led_by = if program.locked { "the lock" } else { "`sdk.env`" };
        let by = program.by.as_deref().unwrap_or(led_by);
        let (_, version) = split_package(&program.packages[0]);
        let (write, fails) = (program.write, program.does_not_work);
        writeln!(table, "| {name} | {version} | {by} | {write} | {fails} | {tried} |").unwrap();
    }
    for NotTried { name, because } in programs.not_tried {
        writeln!(table, "| {name} | | | | {because} | not |").unwrap();
    }
    assert!(
        proven.is_empty(),
        "tried, and not in programs.toml: {:?}",
        proven.keys()
    );
    assert!(
        text_of("docs/sdks.md").contains(&format!("\n{table}\n")),
        "docs/sdks.md wants this table:\n{table}"
    );
}
