//! `msi-tokend`
