//! The stand-in's own clock.

/// The wall clock, in Unix seconds.
#[expect(
    clippy::disallowed_methods,
    reason = "the stand-in is the other side: it has its own clock, the real one"
)]
pub(super) fn unix_now() -> i64 {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
