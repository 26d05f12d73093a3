//! What belongs to one connection.

use std::sync::Arc;

use super::admission::ListenerKind;
use super::last_request::LastRequest;
use crate::access::Caller;

/// One caller's connection.
pub struct Session {
    /// As the kernel had it when the connection was accepted.
    pub caller: Caller,
    /// Where it came in.
    pub listener: Arc<ListenerKind>,
    /// What it asked before.
    pub last_request: LastRequest,
}
