//! What `doctor` has found: a line that says how something is, and what to do where it is not as it should be.

use super::error::{ClientError, Exit, printable};
use super::terminal::wrapped;

/// The columns of the mark that a line begins with.
const MARK: usize = 7;

/// One line of the diagnosis.
#[derive(Clone, Debug)]
pub enum Finding {
    /// As it should be.
    Well(String),
    /// Worth knowing, and maybe meant so.
    Note(String, String),
    /// What is wrong, what to do, and what the program exits with if this is the first one.
    Wrong(Exit, String, String),
}

impl Finding {
    /// As they are printed on a terminal of so many columns.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let line = |mark: &str, text: &str| wrapped(&format!("{mark:MARK$}{}", printable(text)), width, MARK);
        match self {
            Self::Well(what) => vec![line("ok", what)],
            Self::Note(what, why) => vec![line("note", what), line("", why)],
            Self::Wrong(_, what, cure) => vec![line("WRONG", what), line("", cure)],
        }
    }

    /// What the program exits with because of it.
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::Wrong(exit, ..) => Some(*exit),
            Self::Well(_) | Self::Note(..) => None,
        }
    }
}

impl From<&ClientError> for Finding {
    fn from(failure: &ClientError) -> Self {
        Self::Wrong(failure.exit, failure.cause.clone(), failure.advice.clone().into_owned())
    }
}
