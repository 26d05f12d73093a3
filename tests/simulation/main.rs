//! Years of faults, clock steps, suspends and callers, in seconds: the broker is told what happens and keeps its promises.
//!
//! Each run is made from its seed and 2,000 ops long; a failure names the seed and prints the shortest list of ops found
//! that breaks the same promise. `MSI_SIM_SEED=N` starts with that run, a new one unless said; `MSI_SIM_RUNS=N` ends after so
//! many runs, else `MSI_SIM_SECONDS=N` after so long, three seconds unless said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod generate;
mod op;
mod promise;
mod properties;
mod upstream;
mod world;

use std::fmt::Write;
use std::time::Duration;

use generate::Run;
use op::Op;
use promise::Broken;
use world::{Tally, World};

const LENGTH: usize = 2000;
const YEAR: f64 = 365.25 * 86_400.0;

/// The promise that the run breaks, and after how many ops.
fn first_broken(run: &Run, tally: &mut Tally) -> Option<(usize, Broken)> {
    let mut world = World::new(run.seed, run.variant);
    let played = run
        .ops
        .iter()
        .enumerate()
        .try_for_each(|(n, op)| world.play(*op).map_err(|broken| (n + 1, broken)));
    let kept = played.and_then(|()| world.finish().map_err(|broken| (run.ops.len(), broken)));
    let Tally {
        steps,
        asks,
        served,
        told,
        fetches,
        time,
    } = world.tally;
    tally.steps += steps;
    tally.asks += asks;
    tally.served += served;
    tally.told += told;
    tally.fetches += fetches;
    tally.time += time;
    kept.err()
}

/// The same failure with fewer ops: leaves out whatever may be left out, in pieces that get smaller.
fn shrink(run: &Run, length: usize, promise: &str) -> Run {
    let fails = |ops: Vec<Op>| {
        let run = Run { ops, ..run.clone() };
        first_broken(&run, &mut Tally::default())
            .filter(|(_, broken)| broken.promise == promise)
            .map(|(length, _)| run.ops[..length].to_vec())
    };
    let mut ops = run.ops[..length].to_vec();
    let mut piece = ops.len().div_ceil(2);
    while piece > 0 {
        let before = ops.len();
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + piece).min(ops.len()));
            match fails(fewer) {
                Some(shorter) => ops = shorter,
                None => at += piece,
            }
        }
        if ops.len() == before {
            piece /= 2;
        }
    }
    Run { ops, ..run.clone() }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a whole number"))
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "how long to go on is a matter of the real clock"
)]
fn every_promise_is_kept() {
    let first = number("MSI_SIM_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48));
    let most = Duration::from_secs(number("MSI_SIM_SECONDS").unwrap_or(3));
    let runs = number("MSI_SIM_RUNS");
    println!("simulation: first seed {first}");
    let began = std::time::Instant::now();
    let (mut tally, mut done) = (Tally::default(), 0);
    while runs.map_or(done == 0 || began.elapsed() < most, |runs| done < runs) {
        let seed = first.wrapping_add(done);
        let run = Run::new(seed, LENGTH);
        if let Some((length, broken)) = first_broken(&run, &mut tally) {
            let short = shrink(&run, length, broken.promise);
            let detail = first_broken(&short, &mut Tally::default()).map_or(broken.detail, |(_, b)| b.detail);
            let mut list = String::new();
            for op in &short.ops {
                writeln!(list, "    Op::{op:?},").unwrap();
            }
            panic!(
                "promise broken: {}: {detail}\nafter {} steps in all; replay: MSI_SIM_SEED={seed}; {} ops do:\n\
                 configuration {}\n{list}",
                broken.promise,
                tally.steps,
                short.ops.len(),
                short.variant
            );
        }
        done += 1;
    }
    println!(
        "simulation: {done} runs, seeds {first} to {}, {} steps, {:.1} years; {} asked, {} served, {} told why not, \
         {} requests upstream; {:.1} s",
        first.wrapping_add(done - 1),
        tally.steps,
        tally.time.as_secs_f64() / YEAR,
        tally.asks,
        tally.served,
        tally.told,
        tally.fetches,
        began.elapsed().as_secs_f64()
    );
    assert!(tally.served > 0 && tally.told > 0 && tally.fetches > 0);
}
