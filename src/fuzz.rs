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

    use serde::Deserialize;

    use super::*;

    /// A line of `fuzz/corpus/TARGET.jsonl`; `fuzz/inputs` writes them. Each character of `input` is one byte.
    #[derive(Deserialize)]
    struct Kept {
        name: String,
        input: String,
    }

    fn kept(target: &str) -> Vec<Kept> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target)
            .with_extension("jsonl");
        let lines = fs::read_to_string(file).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_input_that_was_kept_holds() {
        type Target = fn(&[u8]) -> bool;
        for (name, holds) in [
            ("config", config as Target),
            ("connection", connection),
            ("query", query),
            ("reply", reply),
        ] {
            let inputs = kept(name);
            assert!(
                inputs.is_sorted_by(|one, next| one.name < next.name),
                "{name}: not as fuzz/inputs packs"
            );
            let good = inputs.iter().filter(|kept| {
                // Shown if the test fails, and then the last one is the culprit.
                println!("{name}/{}", kept.name);
                let bytes: Vec<u8> = kept.input.chars().map(|byte| u8::try_from(byte).unwrap()).collect();
                holds(&bytes)
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
