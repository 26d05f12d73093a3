//! Who pays when something is full: one policy for all that callers share (`docs/architecture.md`, "When something is
//! full").

/// Of all fetch slots, one uid's misses take at most so many: all but the last.
pub fn slots_of_one(all: usize) -> usize {
    all.saturating_sub(1).max(1)
}

/// Of all requests that may be started within a second, one uid's misses start at most so many: four fifths.
pub fn starts_of_one(all: usize) -> usize {
    (all.saturating_mul(4) / 5).max(1)
}
