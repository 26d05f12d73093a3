//! What holds for any input, asserted: the targets of `fuzz/`, and a replay of the inputs that they were given.
//!
//! No part of the daemon: this is compiled for tests and by cargo-fuzz alone.

pub use crate::config::fuzz::config;
pub use crate::server::fuzz::{connection, query};
pub use crate::upstream::fuzz::reply;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_input_that_was_kept_holds() {
        type Target = fn(&[u8]) -> bool;
        for (name, holds) in [
            ("config", config as Target),
            ("connection", connection),
            ("query", query),
            ("reply", reply),
        ] {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let inputs: Vec<_> = fs::read_dir(&corpus)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            let good = inputs.iter().filter(|input| {
                // Shown if the test fails, and then the last one is the culprit.
                println!("{}", input.display());
                holds(&fs::read(input).unwrap())
            });
            let good = good.count();
            assert!(
                0 < good && good < inputs.len(),
                "{name}: {good} of {} are good",
                inputs.len()
            );
        }
    }
}
