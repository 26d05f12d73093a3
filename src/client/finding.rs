//! What `doctor` has found: a line that says how something is, and what to do where it is not as it should be.

use super::error::{ClientError, Exit, printable};

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
    /// As they are printed.
    pub fn lines(&self) -> Vec<String> {
        let indented = |cure: &str| format!("       {}", printable(cure));
        match self {
            Self::Well(what) => vec![format!("ok     {}", printable(what))],
            Self::Note(what, why) => vec![format!("note   {}", printable(what)), indented(why)],
            Self::Wrong(_, what, cure) => vec![format!("WRONG  {}", printable(what)), indented(cure)],
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
