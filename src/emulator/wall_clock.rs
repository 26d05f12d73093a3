//! The stand-in's own clock.

/// The wall clock, in Unix seconds.
#[expect(
    clippy::disallowed_methods,
    reason = "the stand-in is no part of the daemon and has its own clock"
)]
pub(super) fn unix_now() -> i64 {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
