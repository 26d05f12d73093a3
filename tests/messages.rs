//! What the programs say is wrong is found in `docs/troubleshooting.md` by its words, and what that page quotes is said by
//! a program.
//!
//! A message is a string in the sources with three words in a row. Apart from tests, it is one unless only `debug!` writes
//! it, or `Finding::Well`. What is advice stands beside a message: in the client a whole sentence, elsewhere
//! what begins with a verb that tells what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Where messages are made.
const SOURCES: [&str; 13] = [
    "src/access",
    "src/broker",
    "src/check.rs",
    "src/client",
    "src/config",
    "src/daemon",
    "src/daemon.rs",
    "src/directory.rs",
    "src/key.rs",
    "src/listen",
    "src/observe",
    "src/server",
    "src/systemd",
];
/// Of these, what has texts of another kind: the metrics' help, tables, firewall rules, tests.
const APART: [&str; 6] = [
    "scrape.rs",
    "listing.rs",
    "client/lock/rules.rs",
    "tests.rs",
    "fuzz.rs",
    "fuzz",
];
/// What the remedy of a fault begins with.
const VERBS: [&str; 19] = [
    "`systemctl",
    "add",
    "call",
    "choose",
    "chown",
    "correct",
    "create",
    "give",
    "keep",
    "leave",
    "list",
    "make",
    "move",
    "name",
    "put",
    "remove",
    "save",
    "set",
    "write",
];
/// What advises nothing: how things are, or what stands in a longer message.
const NO_ADVICE: &[&str] = &[
    "# Everything that asked is here also what should not have take out what you do not want",
    "# Written by msi-token lock enforce [lock] mode = enforce",
    "#…is not set",
    "1 file kept",
    "By the lock came since the daemon's start",
    "GET HEAD POST",
    "Is it msi-tokend that serves on this socket?",
    "The lock leads this request of msi-tokend's own back to it",
    "a descriptor named…",
    "a name or a numeric id",
    "a request of…that the lock would refuse if it enforced the rules",
    "a rule of iptables-legacy",
    "a second signal stopping at once",
    "all callers together",
    "allowed…may have any token rules or not",
    "and the rule that would allow it",
    "and…more with a problem",
    "app or * for any",
    "cache restored from the previous process",
    "can be served for…",
    "can be served for…the last refresh failed…",
    "cannot be written…",
    "does not match…",
    "has no host",
    "is no user id",
    "is not an identity",
    "it cannot be read…",
    "it does not read its messages",
    "it is larger than…bytes",
    "it wants to change the protocol",
    "it was off lost or enforcing",
    "its answer was not taken",
    "listening TCP socket on a loopback address or one too many",
    "listening Unix stream socket or one too many",
    "lock observing nothing is denied",
    "log.audit was off",
    "more happened than is recorded or records were lost",
    "no answer in time",
    "no connection in time",
    "no new token for…",
    "no request was sent",
    "no token for…",
    "not asked yet",
    "observing nothing is denied",
    "of those that rules name by its account",
    "read standard input",
    "redirect to 169",
    "root or to uid…whom this process runs as",
    "root whom this process runs as",
    "serving Azure SDKs",
    "serving monitoring agents",
    "serving requests that the lock redirects",
    "serving…of 1 token",
    "sock_diag(7 gives uid…for the daemon itself",
    "something else was amiss",
    "start the log",
    "stopping running requests get up to…s",
    "the body did not end in time",
    "the caller has none",
    "the client's socket is closed already",
    "the daemon started",
    "the file has a new token",
    "the file is renewed again",
    "the firewall table…",
    "the lock did not redirect it it went to…",
    "the lock is loaded…",
    "the peer does not read",
    "the token had already expired when it came",
    "this resource and identity",
    "token given to…",
    "token…for…which…gives where none is named",
    "wait for signals",
    "…log records dropped",
    "…tokens the shortest",
];
/// What the page quotes of other programs and of the endpoint.
const OF_OTHERS: &[&str] = &[
    "App Service managed identity configuration not found in environment. Token request error: …",
    "ManagedIdentityCredential authentication failed",
    "RESPONSE 403: 403 Forbidden",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if APART.iter().any(|apart| path.ends_with(apart)) {
        return;
    }
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.for_each(|entry| rust_files(&entry, found));
    } else {
        found.push(path.to_owned());
    }
}

/// The strings that may be shown: not those of tests, of attributes but `#[error("…")]`, and of what tells that all is well.
fn strings(tokens: TokenStream, found: &mut Vec<String>) {
    let mut before = [String::new(), String::new()];
    let mut of_tests = false;
    for token in tokens {
        match &token {
            TokenTree::Literal(literal) => found.extend(text(&literal.to_string())),
            TokenTree::Group(group) => {
                let [last_but_one, last] = [before[0].as_str(), before[1].as_str()];
                let is_attribute = last == "#" || (last_but_one, last) == ("#", "!");
                let is_well = matches!((last_but_one, last), ("debug", "!") | (":", "Well"));
                if is_attribute {
                    of_tests |= group.to_string().replace(' ', "") == "[cfg(test)]";
                    if first_word(group) == "error" {
                        strings(group.stream(), found);
                    }
                } else if of_tests && group.delimiter() == Delimiter::Brace {
                    of_tests = false;
                } else if !is_well {
                    strings(group.stream(), found);
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
        before.rotate_left(1);
        before[1] = if let TokenTree::Group(_) = token {
            String::new()
        } else {
            token.to_string()
        };
    }
}

fn first_word(group: &Group) -> String {
    group
        .stream()
        .into_iter()
        .next()
        .map(|token| token.to_string())
        .unwrap_or_default()
}

/// What a literal stands for, if it is a string.
fn text(literal: &str) -> Option<String> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut lines = inner.split("\\\n");
    let first = lines.next()?.to_owned();
    let whole = lines.fold(first, |whole, line| whole + line.trim_start());
    Some(whole.replace("\\\"", "\"").replace("\\n", " ").replace("\\\\", "\\"))
}

/// The words of each part of a text between what differs.
type Parts = Vec<Vec<String>>;

fn parts(text: &str) -> Parts {
    let mut fixed = String::new();
    let mut rest = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
    while let Some((before, after)) = rest.split_once('{') {
        let after = after.split_once('}').map_or("", |(_, after)| after);
        fixed = fixed + before + "…";
        rest = after.to_owned();
    }
    let fixed = fixed + &rest;
    let trimmed = |word: &str| word.trim_matches(|c| ".,:;()\"`|".contains(c)).to_owned();
    let words = |part: &str| {
        part.split_whitespace()
            .map(trimmed)
            .filter(|word| !word.is_empty())
            .collect()
    };
    fixed.split('…').map(words).collect()
}

/// Whether the two have three or four words in a row in common.
fn share(message: &Parts, quoted: &Parts) -> bool {
    message.iter().any(|part| has(part, quoted))
}

fn has(part: &[String], quoted: &Parts) -> bool {
    let length = part.len().min(4);
    let is_quoted = |run: &[String]| {
        quoted
            .iter()
            .any(|quoted| quoted.windows(length).any(|words| words == run))
    };
    length >= 3 && part.windows(length).any(is_quoted)
}

fn is_message(parts: &Parts) -> bool {
    parts.iter().any(|part| part.len() >= 3)
}

/// What stands beside a message: in the client a sentence beside a cause without a full stop; of a fault the remedy.
fn is_advice(path: &Path, text: &str) -> bool {
    let is_of_client = path.to_string_lossy().contains("src/client/") && !path.ends_with("remedy.rs");
    let is_sentence = text.ends_with('.') && text.starts_with(|first: char| first.is_uppercase() || first == '`');
    let first = text.split([' ', ',']).next().unwrap_or_default();
    is_of_client && is_sentence || !is_of_client && VERBS.contains(&first)
}

/// As [`NO_ADVICE`] has it.
fn plain(parts: &Parts) -> String {
    parts.iter().map(|part| part.join(" ")).collect::<Vec<_>>().join("…")
}

fn strings_of(file: &Path) -> Vec<String> {
    let mut found = Vec::new();
    strings(fs::read_to_string(file).unwrap().parse().unwrap(), &mut found);
    found
}

/// Each message, and the file that has it.
fn messages() -> Vec<(Parts, PathBuf)> {
    let mut files = Vec::new();
    for path in SOURCES {
        rust_files(&repository().join(path), &mut files);
    }
    let mut messages = Vec::new();
    for path in files {
        let found = strings_of(&path).into_iter().filter(|text| !is_advice(&path, text));
        let found = found.map(|text| (parts(&text), path.clone()));
        messages.extend(found.filter(|(parts, _)| is_message(parts)));
    }
    messages
}

/// What the page quotes in the first column of its tables, the first of which has commands.
fn quotes() -> Vec<(String, Parts)> {
    let page = fs::read_to_string(repository().join("docs/troubleshooting.md")).unwrap();
    let messages = page.split_once("\n## ").unwrap().1;
    let cells = messages
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quotes = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    quotes.map(|quote| (quote.to_owned(), parts(quote))).collect()
}

#[test]
fn what_the_programs_say_is_in_the_page_by_its_words() {
    let (messages, quotes) = (messages(), quotes());
    assert!(messages.len() > 200, "{} messages found", messages.len());
    let is_told = |message| quotes.iter().any(|(_, quote)| share(message, quote));
    let missing: Vec<_> = messages
        .iter()
        .filter(|(message, _)| !NO_ADVICE.contains(&&*plain(message)) && !is_told(message))
        .map(|(message, path)| {
            format!(
                "{}: {}",
                path.strip_prefix(repository()).unwrap().display(),
                plain(message)
            )
        })
        .collect();
    assert!(
        missing.is_empty(),
        "give each of these a row in docs/troubleshooting.md; what advises nothing is named in NO_ADVICE:\n{}",
        missing.join("\n")
    );
    let is_said = |text: &&&str| messages.iter().any(|(message, _)| plain(message) == **text);
    let gone: Vec<_> = NO_ADVICE.iter().filter(|text| !is_said(text)).collect();
    assert!(gone.is_empty(), "nobody says these of NO_ADVICE: {gone:#?}");
}

/// The subjects, where `@FIELD@` stands for what differs.
fn subjects() -> Vec<Parts> {
    let catalog = fs::read_to_string(repository().join("systemd/msi-tokend.catalog")).unwrap();
    let subjects = catalog.lines().filter_map(|line| line.strip_prefix("Subject: "));
    let fixed = |subject: &str| subject.split('@').step_by(2).collect::<Vec<_>>().join("…");
    subjects.map(|subject| parts(&fixed(subject))).collect()
}

#[test]
fn what_the_catalog_explains_is_in_the_page_by_its_words() {
    let (subjects, quotes) = (subjects(), quotes());
    assert!(subjects.len() > 10, "{subjects:?}");
    for subject in subjects {
        // Two subjects may begin alike.
        let mut told = quotes.iter().filter(|(_, quote)| share(&subject, quote));
        let is_told = told.any(|(_, quote)| subject.iter().all(|part| part.len() < 3 || has(part, quote)));
        assert!(is_told, "docs/troubleshooting.md: {}", plain(&subject));
    }
}

#[test]
fn what_the_page_quotes_is_said() {
    let mut files = Vec::new();
    rust_files(&repository().join("src"), &mut files);
    let mut said = subjects();
    said.extend(files.iter().flat_map(|file| strings_of(file)).map(|text| parts(&text)));
    let is_said = |quote: &Parts| said.iter().any(|message| share(message, quote));
    let nobodys: Vec<_> = quotes()
        .into_iter()
        .filter(|(text, quote)| is_message(quote) && !OF_OTHERS.contains(&&**text) && !is_said(quote))
        .map(|(text, _)| text)
        .collect();
    assert!(
        nobodys.is_empty(),
        "docs/troubleshooting.md quotes what nobody says: {nobodys:#?}"
    );
}

#[test]
fn a_message_is_found_by_four_of_its_words_and_not_by_fewer() {
    let source = r#"
        /// A doc comment is no message of any kind.
        #[error("{0}: the first one is there")]
        fn f() {
            let a = format!("the second one, {what}, goes \
                             on over a line");
            debug!("nobody sees this one here");
            Finding::Well("all is as it should be");
        }
        #[cfg(test)]
        mod tests { const A: &str = "of a test it is"; }
        const B: &str = "and a third one";
    "#;
    let mut found = Vec::new();
    strings(source.parse().unwrap(), &mut found);
    let second = "the second one, {what}, goes on over a line";
    assert_eq!(found, ["{0}: the first one is there", second, "and a third one"]);
    for (message, quote, shared) in [
        (second, "goes on over a", true),
        (second, "the second one, …", true),
        (second, "goes on over", false),
        (second, "the second goes on over", false),
        ("{0}: no such thing", "no such thing: …", true),
        ("{0}: too short", "too short", false),
    ] {
        assert_eq!(share(&parts(message), &parts(quote)), shared, "{message} {quote}");
    }
}
