//! `msi-tokend --check`: judges the configuration as the daemon would, also where root asks, and says besides what is rarely
//! meant.

use std::path::Path;

use crate::access::Rules;
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
    if strict && !warnings.is_empty() {
        return Err(DaemonError::Doubtful);
    }
    println!("{}", loaded.effective);
    Ok(())
}
