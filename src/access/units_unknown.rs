//! Where the kernel does not tell the unit of who calls over the Unix socket, so that rules with units match nobody there.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::caller::units_unknown_because;
use super::machine::Machine;

/// Why that is so, and whether units are known over TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsUnknown {
    because: Cow<'static, str>,
    /// Whether these rules match on the loopback listener and on the lock.
    pub known_over_tcp: bool,
}

impl UnitsUnknown {
    /// `None` where the units of callers over the Unix socket are known.
    pub fn on_socket(machine: &Machine) -> Option<Self> {
        Some(Self {
            because: units_unknown_because()?.into(),
            known_over_tcp: machine.units_unknown_because().is_none(),
        })
    }

    /// What to do, in a sentence without its full stop, where the loopback listener is at `sdk`, or off.
    pub fn remedy(&self, sdk: Option<SocketAddr>) -> String {
        match (self.known_over_tcp, sdk) {
            (true, Some(address)) => format!(
                "They match on the loopback listener, {address}, which `msi-token get`, `exec` and `keep` ask by themselves"
            ),
            (true, None) => "They match on the loopback listener, which root can switch on: `systemctl enable --now \
                             msi-tokend-sdk.socket`"
                .to_owned(),
            (false, _) => {
                "Name users or groups in these rules: units are not known on the loopback listener either".to_owned()
            }
        }
    }
}

impl fmt::Display for UnitsUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rules with units match nobody on the Unix socket: {}", self.because)
    }
}
