//! The effective configuration as TOML, each value with the place it came from.

use std::fmt;

use super::read::{Form, Origins, Visit};

/// Prints one configuration file with the same meaning as all files together. After each value comes `file:line`, or
/// `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective(String);

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes each key that it visits.
pub(super) struct Printer<'a> {
    origins: &'a Origins,
    out: String,
    /// `None` if the whole table has one place.
    section: Option<&'static str>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(origins: &'a Origins) -> Self {
        Self {
            origins,
            out: String::new(),
            section: None,
        }
    }

    /// Begins `[section]`.
    pub(super) fn section(&mut self, section: &'static str) -> &mut Self {
        self.line(&format!("[{section}]"));
        self.section = Some(section);
        self
    }

    /// Begins one `[[section]]`.
    pub(super) fn item(&mut self, section: &'static str, origin: &super::Origin) -> &mut Self {
        self.line(&format!("[[{section}]]  # {origin}"));
        self.section = None;
        self
    }

    fn line(&mut self, header: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(header);
        self.out.push('\n');
    }

    pub(super) fn finish(self) -> Effective {
        Effective(self.out)
    }
}

impl Visit for Printer<'_> {
    fn value<T>(&mut self, key: &'static str, place: &mut T, form: &impl Form<T>) {
        let line = match (form.show(place), self.section) {
            (Some(value), None) => format!("{key} = {value}\n"),
            (Some(value), Some(section)) => match self.origins.get(&(section, key)) {
                Some(origin) => format!("{key} = {value}  # {origin}\n"),
                None => format!("{key} = {value}  # default\n"),
            },
            (None, Some(_)) => format!("# {key} is not set\n"),
            (None, None) => return,
        };
        self.out.push_str(&line);
    }
}
