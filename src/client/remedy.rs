//! What an endpoint's failure means in plain words, and what to do about it.

/// A part of a failure's text, in lower case, and what its reader can do; the first that fits counts.
const REMEDIES: &[(&str, &str)] = &[
    (
        "identity not found",
        "The VM has no such identity (any more). Assign it (`az vm identity assign --resource-group GROUP --name VM \
         --identities ID`; without --identities: the system's own), or correct the id that is asked for.",
    ),
    (
        "multiple user assigned identities",
        "The VM has several identities and none is its default: name one, by its client id.",
    ),
    (
        "invalid_resource",
        "Microsoft Entra knows no such resource in this tenant: correct its name, which is compared byte for byte, \
         or have its application added to the tenant.",
    ),
    (
        "clock is ahead",
        "The token that the endpoint gives is over already by this machine's clock: set the clock (`timedatectl`, \
         `chronyc tracking`); tokens come by themselves afterwards.",
    ),
    (
        "clock is behind",
        "The token that the endpoint gives lives longer than any by this machine's clock: set the clock \
         (`timedatectl`, `chronyc tracking`); tokens come by themselves afterwards.",
    ),
    (
        "redirects",
        "Something else answers in place of the endpoint: correct upstream.endpoint in the configuration.",
    ),
    (
        "cache.max_bytes",
        "The tokens take all the room that they may: raise cache.max_bytes, or list fewer [[warm]] ones.",
    ),
    (
        "http 429",
        "The VM asks its endpoint too much: find the programs that ask it by themselves and have them ask msi-tokend.",
    ),
    (
        "not a token",
        "What answers is no identity endpoint of this kind: check upstream.kind and upstream.endpoint in the \
         configuration.",
    ),
    (
        "the agent's challenge",
        "The daemon cannot read the file by which the Azure Arc agent knows it: its user must be in the group himds.",
    ),
    (
        "connection refused",
        "The endpoint restarts or is updated, which takes a minute or so; if it lasts, check upstream.endpoint and \
         whether a firewall on this machine rejects the connection.",
    ),
    (
        "within",
        "The endpoint does not answer: check upstream.endpoint, this machine's routes and its firewall.",
    ),
    (
        "no connection",
        "The endpoint cannot be reached: check upstream.endpoint, this machine's routes and its firewall.",
    ),
    (
        "http 4",
        "The endpoint refuses this request in the words above; the daemon tries again by itself.",
    ),
];

/// For a cause as the daemon tells it.
pub fn for_cause(cause: &str) -> &'static str {
    let cause = cause.to_ascii_lowercase();
    let fitting = REMEDIES.iter().find(|(part, _)| cause.contains(part));
    fitting.map_or(
        "The endpoint is ill; the daemon tries again by itself, and callers get the cached token as long as it lives.",
        |(_, remedy)| remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_remedy_is_found_by_a_cause_that_the_daemon_tells() {
        for (cause, remedy) in [
            (
                "HTTP 400 Bad Request: invalid_request: Identity not found",
                "az vm identity assign",
            ),
            (
                "HTTP 400 Bad Request: invalid_request: Multiple user assigned identities exist",
                "name one",
            ),
            ("HTTP 400 Bad Request: invalid_resource: AADSTS500011", "byte for byte"),
            (
                "HTTP 200 that is not a token: expires_on is in the past (or this machine's clock is ahead)",
                "timedatectl",
            ),
            (
                "HTTP 200 that is not a token: expires_on is over 28 h ahead (or this machine's clock is behind)",
                "timedatectl",
            ),
            ("HTTP 200 that is not a token: access_token is missing", "upstream.kind"),
            ("HTTP 302 Found: redirects are not followed", "in place of the endpoint"),
            ("HTTP 429 Too Many Requests", "by themselves"),
            (
                "the cache has no room for the token: cache.max_bytes is reached",
                "raise cache.max_bytes",
            ),
            ("connection refused", "a minute or so"),
            ("no answer within 30s", "firewall"),
            ("HTTP 404 Not Found", "refuses"),
            ("HTTP 500 Internal Server Error", "is ill"),
        ] {
            assert!(for_cause(cause).contains(remedy), "{cause}: {}", for_cause(cause));
        }
    }
}
