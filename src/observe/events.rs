//! The `MESSAGE_ID` of events that an operator may want to act on: 128 random bits each, made once, never used for
//! anything else (`systemd.journal-fields(7)`). Give one to a record as the field `message_id`; then
//! `journalctl MESSAGE_ID=…` finds it whatever the text says, and the message catalog explains it.

/// A token that can still be served could not be refreshed; said once for each class of failure, until
/// [`REFRESH_RECOVERED`].
pub const REFRESH_FAILING: &str = "d71fe2c880a04153a8db58d37d9d31b0";
/// The endpoint gave the token again after failures.
pub const REFRESH_RECOVERED: &str = "81a11e3ed5a34d8bbb12ead24c7bee25";
/// A token expired while its refresh failed: callers are refused from now on. Said once for each token.
pub const TOKEN_EXPIRED: &str = "5358a2e7fe7b4d74b2786b7430ef61b3";
/// The endpoint said that the VM asks too much (429); said once, until it answers again.
pub const UPSTREAM_THROTTLED: &str = "349e0cfd70dd4f3fac59c517696d7980";
/// The VM's default identity is another one than before.
pub const DEFAULT_IDENTITY_CHANGED: &str = "84a20b1bb329427797c1f212c38db38e";
/// A caller asked for a token that no rule allows it.
pub const ACCESS_DENIED: &str = "c97820b49b15429d90f38a2696fab94d";
/// The daemon's state as a whole is another one: ok, degraded, not ready, stuck.
pub const HEALTH_CHANGED: &str = "f5746fa6b56b8accfc0679e37e558605";
/// A reload took effect.
pub const CONFIGURATION_RELOADED: &str = "6ec7a91ee6504f039cc4b6aae6798ab5";
/// A configuration was refused; at a reload the one before stays in force.
pub const CONFIGURATION_REJECTED: &str = "ecc07d5a6ac640dca10939fd8c38b120";
/// The lock is lost.
pub const LOCK_LOST: &str = "7117bfa0b5b8f9dc494d1fea3d240559";
/// It is there again.
pub const LOCK_RESTORED: &str = "acbb3045c2e78419181dcacae166c1c5";
/// `msi-token keep` has no newer token for a file, or cannot write it; said once for each kind of trouble.
pub const FILE_FAILING: &str = "790bfcc8341ab2feefeadc9a50c83cdf";
/// The file is kept again after such trouble.
pub const FILE_RENEWED: &str = "e0de4183df173154221f5f8b6d3291e5";
/// The token in a file expired, and the file was removed.
pub const FILE_EXPIRED: &str = "d0c6a155fd95d05caca07ce62c4fb8e0";
