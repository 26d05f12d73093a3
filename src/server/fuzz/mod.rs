//! What holds whatever a caller sends.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an assertion here is a finding"
)]

mod answers;
mod connection;
mod query;
mod reference;

pub use self::connection::connection;
pub use self::query::query;
