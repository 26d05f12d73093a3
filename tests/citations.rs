//! Where the code or a page leads a reader to a page, a section or a row of a table, that one is there.
//!
//! The form of a citation is `PAGE.md`, "SECTION", row "ROW", where section and row may be left out; pages link each
//! other as Markdown does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

const PLACES: [&str; 9] = [
    "src",
    "tests",
    "systemd",
    "packaging",
    "docs",
    "config",
    "benches",
    "fuzz",
    ".ci",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        let apart = ["target", "corpus", "artifacts", "citations.rs"].map(|name| directory.join(name));
        if !apart.contains(&path) && !path.is_symlink() {
            if path.is_dir() {
                files(&path, found);
            } else {
                found.push(path);
            }
        }
    }
}

/// The text of a file as one line, without what makes its comments comments, so that a citation may go over two lines.
fn flowing(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim();
        let rest = ["//!", "///", "//", "#", ">"]
            .iter()
            .find_map(|mark| line.strip_prefix(mark));
        rest.unwrap_or(line).trim()
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// A heading or a name without its marks.
fn plain(text: &str) -> String {
    text.replace(['`', '*'], "").trim().to_owned()
}

/// A page's sections and the names of their tables' rows.
fn sections(page: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        if fenced {
            continue;
        }
        if line.starts_with('#') {
            sections.push((plain(line.trim_start_matches('#')), Vec::new()));
        } else if let (Some(cells), Some((_, rows))) = (line.strip_prefix('|'), sections.last_mut()) {
            rows.extend(cells.split('|').next().map(plain));
        }
    }
    sections
}

/// The anchor that a section's heading has on a web page.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The page that `path` names to a reader of `from`.
fn page(from: &Path, path: &str) -> Option<String> {
    let beside = from.parent().unwrap().join(path);
    [repository().join(path), beside]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
}

/// `"NAME"` at the beginning of `text` behind `lead`, and the rest.
fn quoted<'a>(text: &'a str, lead: &str) -> Option<(&'a str, &'a str)> {
    text.strip_prefix(lead)?.strip_prefix('"')?.split_once('"')
}

/// What is cited in `text`, a file's, and is not there.
fn broken(from: &Path, text: &str) -> Vec<String> {
    let text = flowing(text);
    let mut broken = Vec::new();
    for (dot, suffix) in text.match_indices(".md") {
        let after = &text[dot + suffix.len()..];
        let of_path = |c: char| c.is_alphanumeric() || "_-./:~$*{}".contains(c);
        let start = text[..dot]
            .rfind(|c| !of_path(c))
            .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
        let path = &text[start..dot + suffix.len()];
        let elsewhere = path.contains("://") || path.starts_with('/') || path.contains(['*', '$', '{']);
        if elsewhere || path == ".md" || after.starts_with(char::is_alphanumeric) {
            continue;
        }
        let Some(page) = page(from, path) else {
            broken.push(format!("{path}: there is no such page"));
            continue;
        };
        let sections = sections(&page);
        if let Some(link) = after.strip_prefix('#') {
            let link: String = link
                .chars()
                .take_while(|c| c.is_alphanumeric() || "-_".contains(*c))
                .collect();
            if !sections.iter().any(|(heading, _)| anchor(heading) == link) {
                broken.push(format!("{path}#{link}: there is no such section"));
            }
        }
        let after = after.trim_start_matches(['`', ')']);
        let Some((heading, mut after)) = quoted(after, ", ") else {
            continue;
        };
        let Some((_, rows)) = sections.iter().find(|(name, _)| *name == plain(heading)) else {
            broken.push(format!("{path}, \"{heading}\": there is no such section"));
            continue;
        };
        while let Some((row, rest)) = quoted(after, ", row ").or(quoted(after, " and row ")) {
            if !rows.contains(&plain(row)) {
                broken.push(format!("{path}, \"{heading}\", row \"{row}\": there is no such row"));
            }
            after = rest;
        }
    }
    if from.extension().is_some_and(|suffix| suffix == "md") {
        broken.extend(
            text.split("](")
                .skip(1)
                .filter_map(|rest| broken_link(from, rest.split(')').next()?)),
        );
    }
    if text.contains("the specification") {
        broken.push("the specification: there is no page of that name".to_owned());
    }
    broken
}

/// A link of the page `from` that leads nowhere; what follows `#` in another page is looked at with its citation.
fn broken_link(from: &Path, link: &str) -> Option<String> {
    if link.contains("://") {
        return None;
    }
    let there = match link.strip_prefix('#') {
        Some(link) => sections(&fs::read_to_string(from).unwrap())
            .iter()
            .any(|(heading, _)| anchor(heading) == link),
        None => from.parent().unwrap().join(link.split('#').next().unwrap()).exists(),
    };
    (!there).then(|| format!("the link {link} leads nowhere"))
}

#[test]
fn what_is_cited_is_there() {
    let mut found = Vec::new();
    for place in PLACES {
        files(&repository().join(place), &mut found);
    }
    let top = fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap().path());
    found.extend(top.filter(|path| path.extension().is_some_and(|e| e == "md" || e == "toml")));
    let mut wrong = Vec::new();
    for path in &found {
        let Ok(text) = fs::read_to_string(path) else {
            continue; // no text
        };
        let place = path.strip_prefix(repository()).unwrap().display();
        wrong.extend(broken(path, &text).into_iter().map(|what| format!("{place}: {what}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_citation_that_leads_nowhere_is_found() {
    let code = repository().join("src/lib.rs");
    for good in [
        r#"(`docs/protocol.md`, "Limits", row "Rate")"#,
        "/// As `docs/protocol.md`, \"Limits\",\n    /// row \"Rate\" and row \"Proxies\" have it.",
        "`docs/protocol.md`, \"Azure Arc's challenge\"",
        "README.md, https://example.org/none.md and /usr/share/doc/none.md",
    ] {
        assert_eq!(broken(&code, good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "(`protocol.md` 1.1)",
        "docs/none.md",
        r#"(`docs/protocol.md`, "None")"#,
        r#"(`docs/protocol.md`, "Limits", row "None")"#,
        "/// `docs/protocol.md`, \"Limits\",\n/// row \"Rate\" and row \"None\"",
        "as the specification has it",
    ] {
        assert_eq!(broken(&code, bad).len(), 1, "{bad}");
    }
    let page = repository().join("docs/protocol.md");
    for good in [
        "[text](first-blob.md#what-changed-since-2017), [text](../SECURITY.md), [text](#errors)",
        "[text](../config/examples/)",
    ] {
        assert_eq!(broken(&page, good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "[text](first-blob.md#none)",
        "[text](#none)",
        "[text](config/config.toml)",
        "[text](README.md)",
    ] {
        assert_eq!(broken(&page, bad).len(), 1, "{bad}");
    }
}
