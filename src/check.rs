//! `msi-tokend --check`: judges the configuration as the daemon would, also where root asks, and says besides what is rarely
//! meant.

use std::path::Path;
use std::sync::Arc;

use crate::access::{Machine, Rules, UnitsUnknown};
use crate::clock::SystemClock;
use crate::config;
use crate::daemon::DaemonError;
use crate::memory::Budget;

/// Prints what is in effect, and before it the warnings.
///
/// # Errors
/// Every violation; with `strict` also a warning.
pub fn run(config_path: &Path, strict: bool) -> Result<(), DaemonError> {
    let loaded = config::load_as_service(config_path)?;
    let config = &loaded.config;
    let (rules, unknown) = Rules::resolve(&config.allow, config.access.root, nix::unistd::geteuid().as_raw());
    let mut warnings: Vec<_> = loaded.doubts.iter().chain(&unknown).map(ToString::to_string).collect();
    warnings.extend(rules.differing_defaults().iter().map(ToString::to_string));
    warnings.extend(Budget::of(config).warning());
    for warning in &warnings {
        eprintln!("msi-tokend: warning: {warning}");
    }
    // No warning: on the loopback listener, which no file says to be on, the same rules are good.
    if rules.need_units()
        && let Some(unknown) = UnitsUnknown::on_socket(&Machine::new(Arc::new(SystemClock)))
    {
        eprintln!("msi-tokend: note: {unknown}. {}.", unknown.remedy(config.listen.sdk));
    }
    if strict && !warnings.is_empty() {
        return Err(DaemonError::Doubtful);
    }
    println!("{}", loaded.effective);
    Ok(())
}
