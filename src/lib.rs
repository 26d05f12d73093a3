//! `msi-tokend`

pub mod clock;
pub mod config;
pub mod emulator;
pub mod harden;
pub mod key;
pub mod observe;
