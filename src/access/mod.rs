//! Who is calling, and which tokens they may have. The kernel names the caller. The rules judge each request before the
//! cache is looked at.

mod accounts;
mod caller;
mod cgroups;
mod closer;
mod differing_defaults;
mod index;
pub mod loopback;
mod machine;
mod peer_groups;
mod proposed_rule;
mod rule;
mod rules;
mod socket;
mod subuids;
mod unit_files;
mod units;
mod units_unknown;

pub use self::accounts::groups_of_account;
pub use self::caller::{Caller, NamedUser, unit_of_process};
pub use self::closer::Closer;
pub use self::differing_defaults::DifferingDefaults;
pub use self::machine::Machine;
pub use self::proposed_rule::{Who, proposed_rule, rule};
pub use self::rule::{NOBODY, Part, Rule, gid_of, uid_of};
pub use self::rules::{Grant, Rules};
pub use self::socket::{SEND_BUFFER, Socket, bound_unread};
pub use self::units::UnitNames;
pub use self::units_unknown::UnitsUnknown;
