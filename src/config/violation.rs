//! What is wrong with a configuration: every violation at once, each with its place and what to do.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::Origin;

/// One violation, or one doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The file, or the directory `conf.d`.
    pub file: Arc<Path>,
    /// From 1; none if the whole file is meant.
    pub line: Option<usize>,
    /// `section.key`, or a section's name; none if no key is meant.
    pub key: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What the administrator can do.
    pub remedy: String,
    pub(super) class: FaultKind,
}

/// How far reading has come. In each file, what stopped it earliest is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FaultKind {
    /// The file cannot be opened or may not be trusted.
    File,
    /// Not TOML.
    Syntax,
    /// TOML, but a string where a number belongs.
    Type,
    /// An unknown key, a value out of range, a contradiction.
    Value,
    /// No fault: what is allowed and rarely meant.
    Doubt,
}

/// All violations or doubts, one line each: by file in the order of reading, then by class, then by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violation {
    /// Whether the file itself is at fault, not what is in it: whoever runs as another user than the daemon may see this
    /// otherwise.
    pub fn is_of_the_file(&self) -> bool {
        self.class == FaultKind::File
    }

    /// Something in a table as a whole, or in how values go together.
    pub(super) fn at(
        origin: &Origin,
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            file: Arc::clone(&origin.file),
            line: Some(origin.line),
            key: Some(key.into()),
            what: what.into(),
            remedy: remedy.into(),
            class: FaultKind::Value,
        }
    }

    /// Something in a table that is allowed and rarely meant.
    pub fn doubt(origin: &Origin, key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            class: FaultKind::Doubt,
            ..Self::at(origin, key, what, remedy)
        }
    }
}

impl Violations {
    /// Sorts within each file; the files keep the order in which they first appear.
    pub(super) fn new(mut violations: Vec<Violation>) -> Self {
        let mut files: Vec<Arc<Path>> = Vec::new();
        for problem in &violations {
            if !files.contains(&problem.file) {
                files.push(Arc::clone(&problem.file));
            }
        }
        violations.sort_by_key(|p| (files.iter().position(|file| *file == p.file), p.class, p.line));
        Self(violations)
    }

    /// In the order in which they are printed.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }
}

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// `file:line: key what: remedy`
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.file))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if let Some(key) = &self.key {
            write!(f, "{key} ")?;
        }
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// A path as one line of text, so that a file's name cannot add lines to the output.
pub(super) fn printable(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}
