//! Promises, and how one is found broken.

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Broken {
    pub promise: &'static str,
    pub detail: String,
}

pub type Kept = Result<(), Broken>;

pub fn broken(promise: &'static str, detail: impl FnOnce() -> String) -> Broken {
    Broken {
        promise,
        detail: detail(),
    }
}

macro_rules! promise {
    ($holds:expr, $promise:literal, $($detail:tt)*) => {
        if !$holds {
            return Err($crate::promise::broken($promise, || format!($($detail)*)));
        }
    };
}

pub(crate) use promise;
