//! The last request of a connection, understood and judged. A client that keeps its connection asks the same again, which
//! then costs neither a look at its parameters nor at the rules, however many there are. Worth 7 % of a hit with one rule.

use std::sync::Arc;

use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use parking_lot::Mutex;

use super::protocol::Protocol;
use super::request::TokenRequest;
use super::shared::Settings;
use crate::access::Grant;

/// Longer targets are not kept, which costs a look at the rules the next time. SDKs' have some 200 bytes.
pub const MAX_KEPT_TARGET: usize = 2048;

/// A request that its caller may make.
pub struct Allowed {
    /// What is asked.
    pub asked: TokenRequest,
    /// Why it may be; `None` while the lock observes what it would deny.
    pub grant: Option<Grant>,
    /// By whose rules.
    pub by: Arc<Settings>,
}

/// Belongs to one connection, and so to one caller. Refusals are not kept.
#[derive(Default)]
pub struct LastRequest(Mutex<Option<Last>>);

/// What the last request came to.
struct Last {
    protocol: Protocol,
    /// Path and query, copied: hyper's buffer is free for the next request.
    target: Box<str>,
    allowed: Arc<Allowed>,
}

impl LastRequest {
    /// What the same request came to the last time, if it was the last one and nothing was reconfigured since.
    pub fn find(&self, protocol: Protocol, target: &Uri, settings: &Arc<Settings>) -> Option<Arc<Allowed>> {
        let last = self.0.lock();
        let last = last.as_ref()?;
        let same = last.protocol == protocol
            && target
                .path_and_query()
                .is_some_and(|target| target.as_str() == &*last.target)
            && Arc::ptr_eq(&last.allowed.by, settings);
        same.then(|| Arc::clone(&last.allowed))
    }

    /// Keeps what this request came to.
    pub fn keep(&self, protocol: Protocol, target: &Uri, allowed: &Arc<Allowed>) {
        let target = target.path_and_query().map_or("", PathAndQuery::as_str);
        let last = (target.len() <= MAX_KEPT_TARGET).then(|| Last {
            protocol,
            target: target.into(),
            allowed: Arc::clone(allowed),
        });
        *self.0.lock() = last;
    }
}
