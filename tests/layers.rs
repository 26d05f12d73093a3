//! The picture in `lib.rs` is true: it names every module, and each imports only from those below it. Within a folder no
//! files import each other in a circle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The stand-in and what fuzzing asserts, which are no part of the daemon.
const APART: [&str; 2] = ["emulator", "fuzz"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules in the table of `lib.rs`, from top to bottom.
fn layers() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.flat_map(|row| {
        let names = row.split_once("] |").unwrap().0;
        names
            .split("[`")
            .map(|name| name.split_once('`').unwrap().0.to_owned())
            .collect::<Vec<_>>()
    })
    .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let inner = directories.iter().flat_map(|directory| rust_files(directory));
    files
        .into_iter()
        .chain(inner)
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The top-level modules that a file names by `root::…`, comments apart.
fn imports(text: &str, root: &str) -> BTreeSet<String> {
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    code.flat_map(|line| line.split(root).skip(1).map(first_name)).collect()
}

fn first_name(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn imports_run_downwards_only() {
    let layers = layers();
    let height = |module: &str| layers.iter().position(|layer| layer == module);
    let mut wrong = Vec::new();
    for path in rust_files(&source()) {
        let inside = path.strip_prefix(source()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let module = first_name(&inside.to_string_lossy());
        if ["bin", "main", "lib"].contains(&module.as_str()) {
            let apart = imports(&text, "msi_tokend::")
                .into_iter()
                .find(|name| APART.contains(&&**name));
            if let Some(apart) = apart.filter(|_| !inside.ends_with("msi-emulator.rs")) {
                wrong.push(format!("{} imports {apart}", inside.display()));
            }
            continue;
        }
        if !APART.contains(&&*module) && height(&module).is_none() {
            wrong.push(format!("{module} is not in the table of lib.rs"));
        }
        for import in imports(&text, "crate::") {
            assert!(
                !import.is_empty(),
                "{}: write a `use` for each module",
                inside.display()
            );
            let downwards = match (height(&module), height(&import)) {
                (Some(ours), Some(theirs)) => theirs > ours,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if import != module && !downwards {
                wrong.push(format!("{} imports {import}", inside.display()));
            }
        }
    }
    assert!(layers.len() > 10, "the table was not found: {layers:?}");
    assert!(wrong.is_empty(), "{wrong:#?}\nfrom top to bottom: {layers:?}");
}

/// The files of a folder that `file` imports: siblings by `super::`, and for `mod.rs` its own by `self::` or their bare
/// name. What a file takes from its parent counts as an import of `mod.rs`.
fn siblings(file: &str, text: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    let text = &text[..tests];
    if file == "mod" {
        let uses = imports(text, "self::").into_iter();
        let calls = names
            .iter()
            .filter(|name| text.contains(&format!(" {name}::")) || text.contains(&format!("({name}::")));
        return uses.chain(calls.cloned()).filter(|name| names.contains(name)).collect();
    }
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
        .collect();
    let code = lines.join(" ");
    code.split("super::")
        .skip(1)
        .flat_map(|path| match path.strip_prefix('{') {
            Some(list) => top_level_names(list),
            None => vec![first_name(path)],
        })
        .map(|name| if names.contains(&name) { name } else { "mod".to_owned() })
        .collect()
}

/// `a, b::{c, d}}…` names `a` and `b`.
fn top_level_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(first_name(&list[start..]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(first_name(&list[start..]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The files that can be reached from `from`, if that comes back to `from`: the circle.
fn circle(from: &str, arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(at: &str, goal: &str, arrows: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>) -> bool {
        for next in arrows.get(at).into_iter().flatten() {
            if next == goal {
                return true;
            }
            if !way.contains(next) {
                way.push(next.clone());
                if walk(next, goal, arrows, way) {
                    return true;
                }
                way.pop();
            }
        }
        false
    }
    let mut way = vec![from.to_owned()];
    walk(from, from, arrows, &mut way).then_some(way)
}

#[test]
fn no_files_of_a_folder_import_each_other_in_a_circle() {
    let mut circles = BTreeSet::new();
    let mut arrows_seen = 0;
    for folder in folders(&source()) {
        // A folder in it is one of its modules as a file is.
        let inner = |path: &PathBuf| path.ends_with("mod.rs") && path.ancestors().nth(2) == Some(&folder);
        let inside: Vec<PathBuf> = rust_files(&folder)
            .into_iter()
            .filter(|path| path.parent() == Some(&folder) || inner(path))
            .collect();
        let stem = |path: &PathBuf| {
            let named = if inner(path) { path.parent().unwrap() } else { path };
            named.file_stem().unwrap().to_string_lossy().into_owned()
        };
        let names: BTreeSet<String> = inside.iter().map(stem).collect();
        let arrows: BTreeMap<String, BTreeSet<String>> = inside
            .iter()
            .map(|path| {
                (
                    stem(path),
                    siblings(&stem(path), &fs::read_to_string(path).unwrap(), &names),
                )
            })
            .collect();
        arrows_seen += arrows.values().map(BTreeSet::len).sum::<usize>();
        for name in &names {
            if let Some(mut way) = circle(name, &arrows) {
                way.sort_unstable();
                circles.insert(format!("{}: {}", folder.display(), way.join(", ")));
            }
        }
    }
    assert!(arrows_seen > 100, "the imports were not found: {arrows_seen}");
    assert!(circles.is_empty(), "{circles:#?}");
}

fn folders(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let inner: Vec<PathBuf> = entries
        .filter(|path| path.is_dir())
        .flat_map(|path| folders(&path))
        .collect();
    inner
        .into_iter()
        .chain([directory.to_path_buf()])
        .filter(|path| path.join("mod.rs").exists())
        .collect()
}
