//! The pages begin with what their readers want, their table of keys is the schema's, each block of them is run by
//! something, and the commands in their sentences are ones that the programs take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::ErrorKind;
use msi_tokend::config::{Violations, load};
use msi_tokend::{client, daemon};

/// What nothing runs, and why.
enum RunBy {
    Suite(&'static str),
    Nothing(&'static str),
}
use RunBy::{Nothing, Suite};

/// Who runs the blocks of a page, by their fence; "" stands for each page.
const BLOCKS: &[(&str, &str, RunBy)] = &[
    ("sh", "", Suite("tests/readme/run")),
    ("toml", "", Suite("tests/examples.rs")),
    ("console", "", Suite("tests/systemd/test_documents.py")),
    ("python", "README.md", Suite("tests/sdk/suite.py")),
    ("text", "README.md", Nothing("a picture")),
    ("text", "docs/architecture.md", Nothing("a picture, and the map")),
    ("ini", "docs/containers.md", Suite("tests/containers/test_podman.py")),
    ("bash", "docs/files.md", Suite("tests/files/run")),
    ("ini", "docs/files.md", Suite("tests/systemd/test_keep.py")),
    ("json", "docs/files.md", Suite("tests/files/run")),
    ("yaml", "docs/files.md", Suite("tests/files/run")),
    ("text", "docs/fleet.md", Suite("tests/fleet/test_upgrades.py")),
    (
        "text",
        "docs/installation.md",
        Suite("tests/repository/test_install.py"),
    ),
    ("bash workstation", "docs/first-blob.md", Suite("tests/tutorial/page")),
    ("bash by-hand", "docs/first-blob.md", Suite("tests/tutorial/page")),
    ("bash vm", "docs/first-blob.md", Suite("tests/tutorial/page")),
    ("bash vm-sdk", "docs/first-blob.md", Suite("tests/tutorial/page")),
    ("ini", "docs/first-blob.md", Suite("tests/systemd/test_documents.py")),
    ("json", "docs/monitoring.md", Suite("tests/readme/run")),
    ("yaml", "docs/monitoring.md", Suite("tests/prometheus-alerts/run")),
    (
        "text",
        "docs/monitoring.md",
        Nothing("a query for a workspace of Azure Monitor"),
    ),
    ("ini", "docs/sdks.md", Suite("tests/systemd/test_documents.py")),
    ("go", "docs/sdks.md", Suite("tests/sdk/suite.py")),
    ("js", "docs/sdks.md", Suite("tests/sdk/suite.py")),
    ("json", "docs/sdks.md", Suite("tests/readme/run")),
    ("rust", "docs/sdks.md", Suite("tests/sdk/suite.py")),
    (
        "text",
        "docs/sdks.md",
        Nothing("lines for cron; what they call is run elsewhere"),
    ),
];
/// Of one fence two suites run some each.
const SECTIONS: [(&str, &str, &str, RunBy); 2] = [
    ("python", "docs/sdks.md", "Python", Suite("tests/tutorial/shown.py")),
    (
        "python",
        "docs/sdks.md",
        "Azure SDKs over the Unix socket",
        Suite("tests/sdk/suite.py"),
    ),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(repository().join("docs")).unwrap();
    let mut pages: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|suffix| suffix == "md"));
    pages.push(repository().join("README.md"));
    pages
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap()
}

fn name(page: &Path) -> String {
    page.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn each_page_begins_with_what_its_reader_wants_and_the_readme_leads_there() {
    let readme = read(&repository().join("README.md"));
    for page in pages().iter().filter(|page| name(page) != "README.md") {
        let text = read(page);
        let (title, rest) = text.split_once("\n\n").unwrap();
        assert!(title.starts_with("# ") && !title.contains('\n'), "{}", page.display());
        assert!(rest.starts_with("You want "), "{}: {}", page.display(), &rest[..60]);
        let link = format!("]({})", name(page));
        let table = readme.split_once("\n## Read on\n").unwrap().1;
        assert!(table.contains(&link), "README.md, \"Read on\", has no {link}");
    }
}

/// A row with a cell too many loses it on a web page.
#[test]
fn each_row_of_a_table_has_the_cells_of_its_head() {
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        let mut head = None;
        for line in text.lines() {
            if line.starts_with('|') {
                let wanted = *head.get_or_insert(cells(line));
                assert_eq!(cells(line), wanted, "{}: {line}", page.display());
                count += 1;
            } else {
                head = None;
            }
        }
    }
    assert!(count > 300, "{count} rows found");
}

/// In a terminal and on a web page alike: letters of one width, each box closed, no line that is too long.
#[test]
fn the_picture_of_the_readme_is_straight() {
    let readme = read(&repository().join("README.md"));
    let picture = readme.split_once("```text\n").unwrap().1.split_once("```").unwrap().0;
    let lines: Vec<Vec<char>> = picture.lines().map(|line| line.chars().collect()).collect();
    let drawn = |c: char| c.is_ascii_graphic() || c == ' ' || "┌┐└┘─│├┤►◄".contains(c);
    let mut corners = 0;
    for (row, line) in lines.iter().enumerate() {
        assert!(line.len() <= 100 && line.iter().all(|c| drawn(*c)), "{line:?}");
        for column in (0..line.len()).filter(|column| "┌┐".contains(line[*column])) {
            corners += 1;
            let mut below = lines[row + 1..]
                .iter()
                .map(|line| line.get(column).copied().unwrap_or(' '));
            let end = below.find(|c| !"│├┤".contains(*c));
            assert!(matches!(end, Some('└' | '┘')), "column {column}: {end:?}");
        }
    }
    assert_eq!(corners, 6);
}

/// The fence and the section of each block.
fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut blocks, mut section, mut inside) = (Vec::new(), String::new(), false);
    for line in page.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            if !inside {
                blocks.push((fence.to_owned(), section.clone()));
            }
            inside = !inside;
        } else if let Some(heading) = line.strip_prefix("## ").filter(|_| !inside) {
            heading.clone_into(&mut section);
        }
    }
    blocks
}

#[test]
fn each_block_is_run_by_a_suite_or_has_a_reason() {
    let mut claimed = BTreeSet::new();
    for page in pages() {
        for (fence, section) in blocks(&read(&page)) {
            let of_section = SECTIONS
                .iter()
                .position(|(of, at, part, _)| (*of, *at, *part) == (&fence, &name(&page), &section));
            let of_page = BLOCKS
                .iter()
                .position(|(of, at, _)| *of == fence && (at.is_empty() || *at == name(&page)));
            match (of_section, of_page) {
                (Some(at), _) => claimed.insert((true, at)),
                (None, Some(at)) => claimed.insert((false, at)),
                (None, None) => panic!(
                    "{}: nothing runs a block ```{fence} below \"{section}\"",
                    page.display()
                ),
            };
        }
    }
    assert_eq!(
        claimed.len(),
        BLOCKS.len() + SECTIONS.len(),
        "blocks that are not there: {claimed:?}"
    );
    let all = BLOCKS.iter().map(|(fence, page, by)| (fence, page, by));
    for (fence, page, by) in all.chain(SECTIONS.iter().map(|(fence, page, _, by)| (fence, page, by))) {
        match by {
            Suite(suite) => {
                let suite = repository().join(suite);
                let (text, mode) = (read(&suite), fs::metadata(&suite).unwrap().permissions().mode());
                let is_run = mode & 0o111 != 0 || suite.extension().is_some();
                let names_it = page.is_empty() || text.contains(page) || text.contains("*.md");
                assert!(
                    is_run && names_it,
                    "{} does not read {page} for {fence}",
                    suite.display()
                );
            }
            Nothing(why) => assert!(!why.is_empty()),
        }
    }
}

/// The commands of our programs that a page has in its sentences.
fn commands(page: &str) -> Vec<String> {
    let mut outside = String::new();
    for (number, part) in page.split("```").enumerate() {
        if number % 2 == 0 {
            outside.push_str(part);
        }
    }
    let flowing = outside.replace('\n', " ");
    let spans = flowing.split('`').skip(1).step_by(2);
    let ours = |span: &&str| span.starts_with("msi-token ") || span.starts_with("msi-tokend --");
    spans.filter(ours).map(str::to_owned).collect()
}

#[test]
fn the_commands_in_sentences_are_such_that_the_programs_take_them() {
    let mut count = 0;
    for page in pages() {
        for command in commands(&read(&page)) {
            let words = command
                .split_whitespace()
                .take_while(|word| !matches!(*word, ">" | "|" | "&&"));
            // A user and a process of whatever machine runs this.
            let here = |word| match word {
                "USER" | "www-data" => "root",
                "PID" => "1",
                word => word,
            };
            let words: Vec<_> = words.filter(|word| *word != "…").map(here).collect();
            let parsed = match words[0] {
                "msi-token" => client::command_line().try_get_matches_from(&words),
                _ => daemon::Arguments::command().try_get_matches_from(&words),
            };
            let is_name_of_one = |kind| {
                matches!(
                    kind,
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                )
            };
            if let Err(error) = parsed {
                assert!(is_name_of_one(error.kind()), "{}: {command}\n{error}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count} commands found");
}

#[test]
fn the_units_that_are_named_are_there() {
    let units: BTreeSet<String> = fs::read_dir(repository().join("systemd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // What `lock try` makes.
    let known = |unit: &str| units.contains(unit) || unit == "msi-tokend-lock-try.timer";
    for page in pages() {
        let text = read(&page);
        let of_unit = |c: char| c.is_ascii_alphanumeric() || "-@.".contains(c);
        for word in text.split(|c: char| !of_unit(c)).map(|word| word.trim_end_matches('.')) {
            let is_unit = word.starts_with("msi-token")
                && [".service", ".socket", ".timer", ".path"]
                    .iter()
                    .any(|kind| word.ends_with(kind));
            let template = match word.split_once('@') {
                Some((name, rest)) => format!("{name}@.{}", rest.rsplit('.').next().unwrap()),
                None => word.to_owned(),
            };
            assert!(
                !is_unit || known(&template),
                "{}: there is no unit {word}",
                page.display()
            );
        }
    }
}

/// A row of the table of keys.
struct Row {
    default: String,
    may_be: String,
}

fn table_of_keys() -> BTreeMap<String, Row> {
    let page = read(&repository().join("docs/configuration.md"));
    let table = page.split_once("\n| key | default | may be | meaning |\n").unwrap().1;
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{row}");
        let row = Row {
            default: cells[1].to_owned(),
            may_be: cells[2].to_owned(),
        };
        (cells[0].trim_matches('`').to_owned(), row)
    })
    .collect()
}

/// What the daemon says to a configuration.
fn loaded(text: &str) -> Result<String, Violations> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    load(&path).map(|loaded| loaded.effective.to_string())
}

/// Each key of a plain section with its default, `None` where it is not set.
fn defaults() -> BTreeMap<String, Option<String>> {
    let (mut section, mut keys) = (String::new(), BTreeMap::new());
    for line in loaded("").unwrap().lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
        } else if let Some(key) = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"))
        {
            keys.insert(format!("{section}.{key}"), None);
        } else if let Some((key, value)) = line.split_once(" = ") {
            let value = value.strip_suffix("  # default").unwrap();
            keys.insert(format!("{section}.{key}"), Some(value.to_owned()));
        }
    }
    keys
}

/// The keys of a repeated section, as the daemon lists them where there is one that it does not know.
fn keys_of(section: &str) -> Vec<String> {
    let text = loaded(&format!("[[{section}]]\nqqqqq = 1\n")).unwrap_err().to_string();
    let known = text
        .lines()
        .find_map(|line| line.split_once("remove it; there are "))
        .unwrap()
        .1;
    known.split(", ").map(|key| format!("{section}.{key}")).collect()
}

fn code_spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_table_has_each_key_with_its_default() {
    let (table, defaults) = (table_of_keys(), defaults());
    let mut known: BTreeSet<_> = defaults.keys().cloned().collect();
    known.extend(keys_of("warm"));
    known.extend(keys_of("allow"));
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), known);
    for (key, default) in defaults {
        let shown = &table[&key].default;
        let expected = default.map_or_else(|| "off".to_owned(), |value| format!("`{value}`"));
        assert!(shown.starts_with(&expected), "{key}: {shown}, not {expected}");
    }
}

/// What a key may be is in the daemon's answers to bad values.
#[test]
fn the_table_has_the_bounds_of_each_key() {
    let long = format!("\"/{}\"", "a".repeat(5000));
    for (key, Row { may_be, .. }) in table_of_keys() {
        let (section, name) = key.split_once('.').unwrap();
        let header = match section {
            "warm" | "allow" => format!("[[{section}]]"),
            _ => format!("[{section}]"),
        };
        let mut said = String::new();
        for bad in [
            "0",
            "-1",
            "\"0s\"",
            "\"0B\"",
            "\"?\"",
            "\"x y\"",
            "[\"x y\"]",
            "[-1]",
            "[]",
            &long,
        ] {
            if let Err(violations) = loaded(&format!("{header}\n{name} = {bad}\n")) {
                let lines = violations.to_string();
                let of_key = lines.lines().filter(|line| line.contains(&format!(": {key} ")));
                of_key.for_each(|line| said = format!("{said}{}\n", line.replace('"', "")));
            }
        }
        for span in code_spans(&may_be) {
            let span = span.replace('"', "");
            assert!(said.contains(&span), "{key} may be {span}? The daemon says:\n{said}");
        }
        for (lead, ends) in [("must be from ", [":", "\n"]), ("write one of ", ["\n", "\n"])] {
            for bound in said.split(lead).skip(1) {
                let bound = ends.iter().fold(bound, |bound, end| bound.split(end).next().unwrap());
                let parts = bound.split([',', ' ']).filter(|part| !matches!(*part, "" | "to"));
                for part in parts {
                    assert!(
                        code_spans(&may_be).iter().any(|span| span == part),
                        "{key}: {may_be}, without {part}"
                    );
                }
            }
        }
    }
}
