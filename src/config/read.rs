//! Takes keys out of parsed TOML and remembers the place of each. A key that is left over is unknown.

use std::collections::HashMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Origin;
use super::doubts::Doubt;
use super::files::SourceFile;
use super::violation::{FaultKind, Violation};

/// A value with its place in the text.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// A kind of value: how it is read and written.
pub(super) trait Form<T> {
    /// Reads `node`, or says all that is wrong with it.
    fn read(&self, node: &Node<'_>) -> Result<T, Vec<ReadFault>>;
    /// What is rarely meant about a value that can be read; `key` is where it stands.
    fn doubts(&self, _key: &str, _node: &Node<'_>, _value: &T) -> Vec<ReadFault> {
        Vec::new()
    }
    /// As TOML; `None` where the value means "not set".
    fn show(&self, value: &T) -> Option<String>;
    /// A good value as TOML, for remedies.
    fn example(&self) -> String;
}

/// What is wrong with one value.
#[derive(Debug)]
pub(super) struct ReadFault {
    class: FaultKind,
    /// Byte offset in the text.
    at: usize,
    what: String,
    /// `None` if the form's example is the remedy.
    remedy: Option<String>,
}

impl ReadFault {
    /// A value of another TOML type than `wanted`.
    pub(super) fn wrong_type(node: &Node<'_>, wanted: &str) -> Vec<Self> {
        vec![Self {
            class: FaultKind::Type,
            at: node.span().start,
            what: format!("must be {wanted}, not {}", name_of_type(node.get_ref())),
            remedy: None,
        }]
    }

    /// A bad value of the right type; the remedy is the form's example.
    pub(super) fn bad(node: &Node<'_>, what: impl Into<String>) -> Vec<Self> {
        vec![Self {
            class: FaultKind::Value,
            at: node.span().start,
            what: what.into(),
            remedy: None,
        }]
    }

    /// A value that will do and is rarely meant.
    pub(super) fn doubt(node: &Node<'_>, (what, remedy): Doubt) -> Self {
        Self {
            class: FaultKind::Doubt,
            at: node.span().start,
            what,
            remedy: Some(remedy),
        }
    }

    /// As [`ReadFault::bad`], with something better to say than an example.
    pub(super) fn with_remedy(node: &Node<'_>, what: impl Into<String>, remedy: impl Into<String>) -> Vec<Self> {
        vec![Self {
            class: FaultKind::Value,
            at: node.span().start,
            what: what.into(),
            remedy: Some(remedy.into()),
        }]
    }
}

fn name_of_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Visits every key, in the order of the documentation: see [`super::schema`].
pub(super) trait Visit {
    /// Visits one key of the current table.
    fn value<T>(&mut self, key: &'static str, place: &mut T, form: &impl Form<T>);
}

/// Collects the names of all keys by their section, for suggestions.
#[derive(Default)]
pub(super) struct Names {
    /// Section and key.
    pub(super) all: Vec<(&'static str, &'static str)>,
    section: &'static str,
}

impl Names {
    /// The next keys belong to `section`.
    pub(super) fn enter(&mut self, section: &'static str) -> &mut Self {
        self.section = section;
        self
    }
}

impl Visit for Names {
    fn value<T>(&mut self, key: &'static str, _: &mut T, _: &impl Form<T>) {
        self.all.push((self.section, key));
    }
}

/// Sections that may be repeated.
const REPEATED: [&str; 3] = ["warm", "allow", "file"];

/// The line that begins a section.
fn header(section: &str) -> String {
    if REPEATED.contains(&section) {
        format!("[[{section}]]")
    } else {
        format!("[{section}]")
    }
}

/// Where each key of each section was last set.
pub(super) type Origins = HashMap<(&'static str, &'static str), Origin>;

/// One file that is being read.
pub(super) struct Reader<'a> {
    source: &'a SourceFile,
    names: &'a Names,
    /// Offsets of the text's line ends.
    line_ends: Vec<usize>,
    violations: &'a mut Vec<Violation>,
}

/// One table that is being read.
pub(super) struct Table<'r, 'a, 'i> {
    reader: &'r mut Reader<'a>,
    section: &'static str,
    left: DeTable<'i>,
    given: Vec<&'static str>,
    /// The places of the keys; not used for tables in an array.
    origins: Option<&'r mut Origins>,
}

impl<'a> Reader<'a> {
    /// Parses a source. After a syntax error nothing of the file is read.
    pub(super) fn parse(
        source: &'a SourceFile,
        names: &'a Names,
        violations: &'a mut Vec<Violation>,
    ) -> (Self, Option<DeTable<'a>>) {
        let line_ends = source.text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let mut reader = Self {
            source,
            names,
            line_ends: line_ends.map(|(at, _)| at).collect(),
            violations,
        };
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        let sound = errors.is_empty();
        for error in errors {
            reader.report(
                FaultKind::Syntax,
                error.span().map(|span| span.start),
                None,
                error.message().escape_debug().to_string(),
                "correct the TOML here; nothing else in this file was looked at".into(),
            );
        }
        (reader, sound.then(|| table.into_inner()))
    }

    /// Takes `[section]` and visits its keys.
    pub(super) fn section<'i>(
        &mut self,
        root: &mut DeTable<'i>,
        section: &'static str,
        origins: &mut Origins,
        visit: impl FnOnce(&mut Table<'_, 'a, 'i>),
    ) {
        if let Some(left) = self.inner(root, section, section) {
            self.table(section, left, Some(origins), visit);
        }
    }

    /// Takes the table at `key` out of `outer`; `path` is its full name.
    pub(super) fn inner<'i>(&mut self, outer: &mut DeTable<'i>, key: &str, path: &str) -> Option<DeTable<'i>> {
        let (name, node) = outer.remove_entry(key)?;
        match node.into_inner() {
            DeValue::Table(inner) => Some(inner),
            other => {
                self.report(
                    FaultKind::Type,
                    Some(name.span().start),
                    Some(path.into()),
                    format!("must be a table, not {}", name_of_type(&other)),
                    format!("write [{path}] and its keys below"),
                );
                None
            }
        }
    }

    /// Takes the tables of `[[section]]`, each with its place.
    pub(super) fn tables<'i>(&mut self, root: &mut DeTable<'i>, section: &'static str) -> Vec<(Origin, DeTable<'i>)> {
        let Some((key, node)) = root.remove_entry(section) else {
            return Vec::new();
        };
        let wrong = |reader: &mut Self, at, value: &DeValue<'_>| {
            reader.report(
                FaultKind::Type,
                Some(at),
                Some(section.into()),
                format!("must be a list of tables, not {}", name_of_type(value)),
                format!("write [[{section}]] and its keys below, once for each"),
            );
        };
        match node.into_inner() {
            DeValue::Array(items) => {
                let mut tables = Vec::new();
                for item in items {
                    let at = item.span().start;
                    match item.into_inner() {
                        DeValue::Table(table) => tables.push((self.origin(at), table)),
                        other => wrong(self, at, &other),
                    }
                }
                tables
            }
            other => {
                wrong(self, key.span().start, &other);
                Vec::new()
            }
        }
    }

    /// Visits the keys of one table and reports the rest as unknown. Returns the keys that were given, good or bad.
    pub(super) fn table<'r, 'i>(
        &'r mut self,
        section: &'static str,
        left: DeTable<'i>,
        origins: Option<&'r mut Origins>,
        visit: impl FnOnce(&mut Table<'_, 'a, 'i>),
    ) -> Vec<&'static str> {
        let mut table = Table {
            reader: self,
            section,
            left,
            given: Vec::new(),
            origins,
        };
        visit(&mut table);
        let Table {
            reader, left, given, ..
        } = table;
        for key in left.keys() {
            reader.unknown_key(section, key.get_ref(), key.span().start);
        }
        given
    }

    /// Adds a violation that the caller has found.
    pub(super) fn note(&mut self, problem: Option<Violation>) {
        self.violations.extend(problem);
    }

    /// Reports unknown keys at the top of the file.
    pub(super) fn unknown_sections(&mut self, root: &DeTable<'_>) {
        for (name, node) in root {
            let text = name.get_ref();
            let sections = || self.names.all.iter().map(|&(section, _)| section);
            let home = self.names.all.iter().find(|&&(_, key)| key == text.as_ref());
            let remedy = match (nearest(text, sections()), home) {
                (_, Some((section, _))) if !node.get_ref().is_table() => {
                    format!("move it below the line {}", header(section))
                }
                (Some(section), _) => format!("did you mean {section}?"),
                (None, _) => {
                    let mut known: Vec<_> = sections().collect();
                    known.dedup();
                    format!("remove it; there are {}", known.join(", "))
                }
            };
            let (at, what) = (name.span().start, "is not known here");
            let key = Some(text.escape_debug().to_string());
            self.report(FaultKind::Value, Some(at), key, what.into(), remedy);
        }
    }

    fn unknown_key(&mut self, section: &'static str, key: &str, at: usize) {
        let of_section = || {
            self.names
                .all
                .iter()
                .filter(|(of, _)| *of == section)
                .map(|&(_, key)| key)
        };
        let home = self.names.all.iter().find(|&&(_, known)| known == key);
        let remedy = match (home, nearest(key, of_section())) {
            (Some((home, _)), _) if !REPEATED.contains(home) => format!("move it below the line {}", header(home)),
            (_, Some(near)) => format!("did you mean {near}?"),
            (_, None) => {
                let known: Vec<_> = of_section().collect();
                format!("remove it; there are {}", known.join(", "))
            }
        };
        let path = format!("{section}.{}", key.escape_debug());
        self.report(FaultKind::Value, Some(at), Some(path), "is not known".into(), remedy);
    }

    /// The place of the byte at `at`.
    pub(super) fn origin(&self, at: usize) -> Origin {
        Origin {
            file: Arc::clone(&self.source.path),
            line: 1 + self.line_ends.partition_point(|&end| end < at),
        }
    }

    fn report(&mut self, class: FaultKind, at: Option<usize>, key: Option<String>, what: String, remedy: String) {
        self.violations.push(Violation {
            file: Arc::clone(&self.source.path),
            line: at.map(|at| self.origin(at).line),
            key,
            what,
            remedy,
            class,
        });
    }
}

impl Visit for Table<'_, '_, '_> {
    /// Leaves `place` unchanged if the key is missing or its value is bad.
    fn value<T>(&mut self, key: &'static str, place: &mut T, form: &impl Form<T>) {
        let Some((name, node)) = self.left.remove_entry(key) else {
            return;
        };
        self.given.push(key);
        let faults = match form.read(&node) {
            Ok(value) => {
                let doubts = form.doubts(key, &node, &value);
                *place = value;
                if let Some(origins) = &mut self.origins {
                    origins.insert((self.section, key), self.reader.origin(name.span().start));
                }
                doubts
            }
            Err(faults) => faults,
        };
        for fault in faults {
            let remedy = fault
                .remedy
                .unwrap_or_else(|| format!("write for example {key} = {}", form.example()));
            let path = Some(format!("{}.{key}", self.section));
            self.reader
                .report(fault.class, Some(fault.at), path, fault.what, remedy);
        }
    }
}

/// The known name that looks most like this one.
fn nearest(wrong: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    /// Below this similarity two names differ by more than a typing error.
    const ALIKE: f64 = 0.8;
    names
        .map(|name| (strsim::jaro_winkler(&wrong.to_lowercase(), name), name))
        .filter(|&(score, _)| score >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
