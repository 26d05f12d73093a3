//! What to do about a failure. Chosen by its codes alone, never by its text.

use crate::failure::{Cause, Codes, ErrorClass};

const NO_SUCH_IDENTITY: &str = "The VM has no such identity, or it has several and none was named. Assign the identity with `az vm identity assign \
     --resource-group GROUP --name VM --identities ID` (without --identities: the system's own), or correct the id that is \
     asked for.";
const NO_SUCH_RESOURCE: &str = "Microsoft Entra knows no such resource in this tenant: correct its name, which is compared byte for byte, or have \
     its application added to the tenant.";
const REFUSED: &str =
    "The endpoint refuses this request; the text above is its reason. The daemon tries again by itself.";
const THROTTLED: &str =
    "The VM asks its endpoint too often: find the programs that ask it by themselves and have them ask msi-tokend.";
const RESTARTING: &str = "The endpoint restarts or is updated, which takes a minute or so; if it lasts, check upstream.endpoint and whether a \
     firewall on this machine rejects the connection.";
const NO_CONNECTION: &str =
    "The endpoint cannot be reached: check upstream.endpoint, this machine's routes and its firewall.";
const NO_ANSWER: &str =
    "The endpoint does not answer in time: check upstream.endpoint, this machine's routes and its firewall.";
const REDIRECT: &str =
    "Something else answers in place of the endpoint: correct upstream.endpoint in the configuration.";
const NOT_A_TOKEN: &str = "What answers is no identity endpoint of this kind, or this machine's clock is behind: check upstream.kind and \
     upstream.endpoint in the configuration, and the clock (`timedatectl`).";
const FOREIGN_TOKEN: &str = "The endpoint gave a token for something else, which is not served: ask for an identity that the VM has, and check \
     upstream.kind in the configuration.";
const EXPIRED: &str = "The token that the endpoint gives has expired by this machine's clock: set the clock (`timedatectl`, `chronyc \
     tracking`); tokens come by themselves afterwards.";
const CHALLENGE: &str = "The endpoint wants a proof that the daemon cannot give. For Azure Arc, the daemon's user must be in the group himds.";
const FAULTY: &str =
    "The endpoint fails; the daemon tries again by itself, and callers get the cached token until it expires.";
const FULL: &str = "A bound of the daemon is reached: the text above names its setting.";
const BAD_REQUEST: &str = "The request is wrong: correct what the text above names.";
const STOPPING: &str = "The daemon is being restarted: try again.";

/// A sentence or two for the reader.
pub fn for_codes(codes: &Codes) -> &'static str {
    let Some(class) = codes.class else {
        return FAULTY;
    };
    match class {
        ErrorClass::Restarting => RESTARTING,
        ErrorClass::Throttled => THROTTLED,
        ErrorClass::Refused => match codes.upstream_error.as_deref() {
            Some("invalid_resource") => NO_SUCH_RESOURCE,
            // The code for an unknown identity, and for several of which none is named: `docs/protocol.md`, "Errors".
            Some("invalid_request") => NO_SUCH_IDENTITY,
            _ => REFUSED,
        },
        ErrorClass::Faulty => match (codes.cause, codes.upstream_status) {
            (Some(Cause::Connect), _) => NO_CONNECTION,
            (Some(Cause::Timeout), _) => NO_ANSWER,
            (Some(Cause::Redirect), _) => REDIRECT,
            (Some(Cause::NotAToken | Cause::TooLarge), _) => NOT_A_TOKEN,
            (Some(Cause::WrongResource | Cause::WrongIdentity), _) => FOREIGN_TOKEN,
            (Some(Cause::Expired), _) => EXPIRED,
            (Some(Cause::Status), Some(401)) => CHALLENGE,
            (Some(Cause::Status | Cause::Reset | Cause::UnitUnknown | Cause::Other) | None, _) => FAULTY,
        },
        ErrorClass::Timeout => NO_ANSWER,
        ErrorClass::Full => FULL,
        ErrorClass::BadRequest | ErrorClass::Denied => BAD_REQUEST,
        ErrorClass::Stopping => STOPPING,
        ErrorClass::Other => FAULTY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(class: ErrorClass, cause: Cause, status: Option<u16>, error: Option<&str>) -> Codes {
        Codes {
            class: Some(class),
            cause: Some(cause),
            upstream_status: status,
            upstream_error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_remedy_follows_from_the_codes() {
        use Cause::{Connect, Expired, NotAToken, Redirect, Reset, Status, Timeout, WrongIdentity};
        use ErrorClass::{Faulty, Refused, Restarting, Throttled};
        for (codes, remedy) in [
            (
                codes(Refused, Status, Some(400), Some("invalid_request")),
                "az vm identity assign",
            ),
            (
                codes(Refused, Status, Some(400), Some("invalid_resource")),
                "byte for byte",
            ),
            (
                codes(Refused, Status, Some(403), Some("unauthorized_client")),
                "is its reason",
            ),
            (codes(Restarting, Connect, None, None), "a minute or so"),
            (codes(Restarting, Status, Some(404), None), "a minute or so"),
            (codes(Restarting, Status, Some(410), None), "a minute or so"),
            (codes(Throttled, Status, Some(429), None), "by themselves"),
            (codes(Faulty, Expired, Some(200), None), "timedatectl"),
            (codes(Faulty, NotAToken, Some(200), None), "upstream.kind"),
            (codes(Faulty, WrongIdentity, Some(200), None), "something else"),
            (codes(Faulty, Redirect, Some(302), None), "in place of the endpoint"),
            (codes(Faulty, Timeout, None, None), "firewall"),
            (codes(Faulty, Connect, None, None), "routes"),
            (codes(Faulty, Reset, None, None), "tries again by itself"),
            (codes(Faulty, Status, Some(500), None), "tries again by itself"),
            (codes(Faulty, Status, Some(401), None), "himds"),
        ] {
            assert!(for_codes(&codes).contains(remedy), "{codes:?}: {}", for_codes(&codes));
        }
    }

    #[test]
    fn codes_of_another_version_have_a_remedy_too() {
        let newer = r#"{"class":"melancholy","cause":"weather","upstream_status":418}"#;
        let codes: Codes = serde_json::from_str(newer).unwrap();
        assert_eq!(for_codes(&codes), FAULTY);
        assert_eq!(for_codes(&Codes::default()), FAULTY);
    }
}
