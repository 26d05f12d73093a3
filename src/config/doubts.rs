//! What is allowed in the files and rarely meant: an entry that can never match, or not what its author thinks. Each doubt
//! says what was found and, as far as that can be told, what was meant.

use super::Origin;
use super::violation::Violation;
use crate::key::{Identity, Key};

/// What was found, and what to write in its place.
pub(super) type Doubt = (String, String);

/// A resource that no program asks for.
pub(super) fn of_resource(text: &str) -> Option<Doubt> {
    if text.contains('*') {
        let found = format!("names \"{text}\", and there are no patterns");
        let remedy = "list each resource by its full name; a rule without resources allows every one";
        return Some((found, remedy.to_owned()));
    }
    if let Some(resource) = text.strip_suffix("/.default") {
        let found = format!("names the scope \"{text}\", and what is asked for is a resource");
        return Some((found, write(resource)));
    }
    if let Some(id) = guid(text) {
        return other_form(text, &id);
    }
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    let Some((scheme, rest)) = scheme(text) else {
        let found = format!("names \"{text}\", which has no scheme and is no application's id");
        let remedy = if decoded != text {
            write(&decoded)
        } else if text.contains('.') {
            write(&format!("https://{}", text.trim_start_matches('/')))
        } else {
            "write the whole address, such as \"https://storage.azure.com\"".to_owned()
        };
        return Some((found, remedy));
    };
    let host = rest.strip_prefix("//")?.split('/').next()?;
    let is_web = scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http");
    let in_capitals = [scheme, host].iter().any(|part| part.contains(char::is_uppercase));
    (is_web && in_capitals).then(|| {
        let (before, path) = text.split_at(scheme.len() + "://".len() + host.len());
        let found = format!("names \"{text}\", and programs write the host in lower case");
        (found, write(&(before.to_ascii_lowercase() + path)))
    })
}

/// An identity that the endpoint cannot know by this id; `key` is where it stands, such as `client_ids`.
pub(super) fn of_identity(key: &str, text: &str, identity: &Identity) -> Option<Doubt> {
    match identity {
        Identity::Default => None,
        Identity::ResourceId(_) => of_resource_id(key, text),
        Identity::ClientId(_) | Identity::ObjectId(_) => of_guid(key, text),
    }
}

fn of_guid(key: &str, text: &str) -> Option<Doubt> {
    if let Some(id) = guid(text) {
        return other_form(text, &id);
    }
    if text.starts_with('/') {
        let right = key.replace("client", "resource").replace("object", "resource");
        let found = format!("names \"{text}\", which is a resource id");
        return Some((found, format!("move it to {right}")));
    }
    let field = if key.contains("object") {
        "principalId"
    } else {
        "clientId"
    };
    let found = format!("names \"{text}\", which is no GUID");
    let remedy = format!(
        "write the identity's {field}, which `az identity list --query \"[].{{name:name, id:{field}}}\"` prints"
    );
    Some((found, remedy))
}

fn of_resource_id(key: &str, text: &str) -> Option<Doubt> {
    const FORM: &str = "/subscriptions/SUBSCRIPTION/resourcegroups/GROUP/providers/Microsoft.ManagedIdentity/\
                        userAssignedIdentities/NAME";
    if let Some(id) = guid(text) {
        let (client, object) = (key.replace("resource", "client"), key.replace("resource", "object"));
        let found = format!("names \"{text}\", which is no resource id");
        let remedy = format!("move it to {client} as \"{id}\", or to {object} if it is an object id");
        return Some((found, remedy));
    }
    let of_form = FORM.split('/').zip(text.split('/')).all(|(wanted, part)| match wanted {
        "SUBSCRIPTION" | "GROUP" | "NAME" => !part.is_empty(),
        _ => wanted.eq_ignore_ascii_case(part),
    });
    if of_form && FORM.split('/').count() == text.split('/').count() {
        return None;
    }
    let found = format!("names \"{text}\", which is not the resource id of a user-assigned identity");
    Some((found, format!("write {FORM}")))
}

/// Warm tokens that Azure's SDKs do not ask for: they take `/.default` off a scope, and what is left has no slash at its
/// end (`docs/protocol.md`, "Requests", row "Resource").
pub(super) fn of_warm(warm: &[(&Origin, Key)]) -> Vec<Violation> {
    let doubt = |(origin, key): &(&Origin, Key)| {
        let asked = key.resource.as_str().strip_suffix('/')?;
        let is_warm_too = |other: &Key| other.identity == key.identity && other.resource.as_str() == asked;
        if asked.ends_with('/') || warm.iter().any(|(_, other)| is_warm_too(other)) {
            return None;
        }
        let found = format!(
            "is \"{}\", and Azure SDKs ask for \"{asked}\", which is another token",
            key.resource
        );
        let remedy = "leave the slash at the end out; where other programs ask for it with the slash, keep one [[warm]] for \
                      each of the two";
        Some(Violation::doubt(origin, "warm.resource", found, remedy))
    };
    warm.iter().filter_map(doubt).collect()
}

/// A file beside the drop-ins that is not read. One that is hidden, or has something behind `.toml`, was put aside by
/// somebody: `50-app.toml.dpkg-dist`, `50-app.toml~`.
pub(super) fn of_file_name(name: &str) -> Option<Doubt> {
    let lower = name.to_ascii_lowercase();
    let put_aside = lower.rsplit_once(".toml").is_some_and(|(_, rest)| !rest.is_empty());
    if name.starts_with('.') || lower == "readme" || put_aside {
        return None;
    }
    let (stem, _) = name.rsplit_once('.').unwrap_or((name, ""));
    let found = "is not read, because its name does not end in .toml";
    Some((found.to_owned(), format!("call it {stem}.toml, or move it elsewhere")))
}

/// The scheme of an address and what follows its colon. Before the port of `host:443` there is no scheme.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let is_port = !rest.starts_with('/') && rest.starts_with(|first: char| first.is_ascii_digit());
    (is_scheme && !is_port && !rest.is_empty()).then_some((scheme, rest))
}

/// A GUID as everybody writes it, whether or not `text` has its dashes, and braces around it.
fn guid(text: &str) -> Option<String> {
    let bare = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or(text);
    let digits = bare.replace('-', "").to_ascii_lowercase();
    let is_guid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut rest = digits.as_str();
    let groups = [8, 4, 4, 4, 12].map(|length| {
        let (group, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(group)
    });
    let groups: Option<Vec<_>> = groups.into_iter().collect();
    is_guid.then_some(groups?.join("-"))
}

fn other_form(text: &str, id: &str) -> Option<Doubt> {
    let found = format!("names \"{text}\", and a GUID is asked for in another form");
    (!text.eq_ignore_ascii_case(id)).then(|| (found, write(id)))
}

fn write(text: &str) -> String {
    format!("write \"{text}\"")
}
