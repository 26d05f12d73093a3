//! Who pays when something is full: one policy for all that callers share (`docs/architecture.md`, "When something is
//! full").

use std::cmp::Reverse;

/// Those who have more than so much, the heaviest first, and of two who have as much always the same one.
pub fn heavier_than(most: usize, weights: impl Iterator<Item = (u32, usize)>) -> Vec<u32> {
    let mut heavy: Vec<(Reverse<usize>, u32)> = weights
        .filter(|(_, weight)| *weight > most)
        .map(|(uid, weight)| (Reverse(weight), uid))
        .collect();
    heavy.sort_unstable();
    heavy.into_iter().map(|(_, uid)| uid).collect()
}

/// Of all seats, callers for whom none is kept take at most so many: an eighth is for root, the daemon's user and callers
/// that a rule is for.
pub fn seats_for_all(all: usize) -> usize {
    all - all / 8
}

/// Of all fetch slots, users whose misses have some already take at most so many together: the last is for who has none.
pub fn slots_for_more(all: usize) -> usize {
    all.saturating_sub(1)
}

/// Of all requests that may be started within a second, one uid's misses start at most so many: four fifths.
pub fn starts_of_one(all: usize) -> usize {
    (all.saturating_mul(4) / 5).max(1)
}
