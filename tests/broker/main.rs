//! The broker's rules, one after the other, on a clock that the tests move: what is computed as a wait is what is waited.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod bounds;
mod clockwork;
mod crowds;
mod failed_fetches;
mod times;
