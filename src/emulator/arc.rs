//! The Azure Arc agent's token endpoint (`docs/protocol.md`, "Azure Arc's challenge"). It gives a token only to a client
//! that has read the file named in a challenge. Its path differs from the real one's, so that one stand-in can have every
//! kind of endpoint.

use super::imds;
use super::issue::IssuedToken;
use super::reply::{Reply, error};
use super::request::{AskedToken, Query, header};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

pub(super) const PATH: &str = "/arc/metadata/identity/oauth2/token";

/// The challenges that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    directory: PathBuf,
    pending: HashMap<String, PathBuf>,
}

impl Challenges {
    /// Files are made in `directory`, which must exist when the first challenge is made.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            pending: HashMap::new(),
        }
    }

    /// The challenge for a request without an answer to one. Each challenge can be answered once. `realm` replaces the
    /// file's path in the header.
    pub fn challenge(&mut self, head: &Parts, realm: Option<&str>) -> Option<Reply> {
        let answered = header(&head.headers, AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Basic "));
        if let Some(path) = answered.and_then(|key| self.pending.remove(key)) {
            // An error means that the test has removed the file.
            _ = fs::remove_file(path);
            return None;
        }
        let (name, key) = (
            format!("{:016x}.key", fastrand::u64(..)),
            format!("{:032x}", fastrand::u128(..)),
        );
        let path = self.directory.join(name);
        if let Err(why) = fs::write(&path, &key) {
            let reason = format!("no challenge can be made in {}: {why}", self.directory.display());
            return Some(error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &reason));
        }
        let value = format!(
            "Basic realm={}",
            realm.map_or_else(|| path.display().to_string(), str::to_owned)
        );
        self.pending.insert(key, path);
        let reply = error(
            StatusCode::UNAUTHORIZED,
            "unauthorized_client",
            "Missing Basic Authorization header",
        );
        Some(reply.with(
            WWW_AUTHENTICATE,
            HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("Basic")),
        ))
    }
}

/// The agent's demands on a request are the metadata service's.
pub(super) fn read(head: &Parts, parameters: &Query) -> Result<AskedToken, Reply> {
    imds::read(head, parameters)
}

/// The token reply, which repeats the identity in the request.
pub(super) fn success(grant: &IssuedToken, request: &AskedToken) -> Map<String, Value> {
    imds::success(grant, request)
}
