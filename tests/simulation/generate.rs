//! From a seed to a run.

use std::time::Duration;

use super::op::{KEYS, Op, UIDS, Want};
use super::upstream::{KINDS, Kind, Mood};

/// What a run is made from.
#[derive(Clone, Debug)]
pub struct Run {
    pub seed: u64,
    /// The configuration that it starts with.
    pub variant: usize,
    pub ops: Vec<Op>,
}

impl Run {
    pub fn new(seed: u64, length: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let variant = rng.usize(..15);
        // Some runs live by the second and some by the hour.
        let pace = rng.u32(8..25);
        let mut ops = Vec::with_capacity(length);
        while ops.len() < length {
            step(&mut rng, pace, &mut ops);
        }
        Self { seed, variant, ops }
    }
}

fn step(rng: &mut fastrand::Rng, pace: u32, ops: &mut Vec<Op>) {
    match rng.u8(..100) {
        0..40 => ops.push(ask(rng)),
        // One uid wants much at once, and another a little.
        40..44 => {
            let first = rng.usize(..KEYS);
            for i in 0..rng.usize(2..20) {
                ops.push(Op::Ask {
                    uid: 1,
                    key: first + i,
                    want: Want::Any,
                });
            }
            ops.push(ask(rng));
        }
        // Many want one.
        44..47 => {
            let key = rng.usize(..KEYS);
            for _ in 0..rng.usize(2..20) {
                ops.push(Op::Ask {
                    uid: rng.u32(1..=UIDS),
                    key,
                    want: Want::Any,
                });
            }
        }
        47..82 => ops.push(Op::Pass(duration(rng, pace))),
        82..87 => ops.push(Op::HangUp(rng.usize(..100))),
        87..90 => ops.push(Op::Tick),
        90..94 => ops.push(Op::Mood(mood(rng))),
        94 => ops.push(Op::Move),
        95 => ops.push(Op::Restart { elsewhere: rng.bool() }),
        96 => ops.push(Op::Reload(rng.usize(..15))),
        97 => ops.push(Op::Sleep(duration(rng, pace + 8))),
        _ => {
            let most = [500, 5000, 600_000, 100_000_000][rng.usize(..4)];
            ops.push(Op::Step(rng.i64(-most..=most)));
        }
    }
}

fn ask(rng: &mut fastrand::Rng) -> Op {
    let often = rng.usize(..KEYS);
    Op::Ask {
        uid: rng.u32(1..=UIDS),
        // A few keys are asked for often.
        key: rng.usize(..=often),
        want: match rng.u8(..20) {
            0 => Want::Bypass,
            1 => Want::ReplaceThis,
            2 => Want::ReplaceOther,
            _ => Want::Any,
        },
    }
}

/// From a millisecond to 2 to the power of `pace` milliseconds, each magnitude as often as the other.
fn duration(rng: &mut fastrand::Rng, pace: u32) -> Duration {
    let magnitude = rng.u32(1..=pace);
    Duration::from_millis(rng.u64(..1 << magnitude))
}

fn mood(rng: &mut fastrand::Rng) -> Mood {
    let kind = if rng.bool() {
        Kind::Healthy
    } else {
        KINDS[rng.usize(..KINDS.len())]
    };
    Mood {
        kind,
        seed: rng.u64(..),
    }
}
