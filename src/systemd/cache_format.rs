//! The wire format of the cache that outlives a restart: JSON, with each token as a reply that it could have come in.
//!
//! [`FORMAT`] rises with whatever enters a key or an owner. An older format is read; a newer one is not, since what it
//! says of a key would be lost.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::broker::{Failing, KeySnapshot, Streak};
use crate::clock::Now;
use crate::failure::{Cause, Class, Failure, Refusal};
use crate::key::{Identity, Key, Resource};
use crate::open_array::OpenArray;
use crate::upstream;

/// The format that is written.
///
/// | format | since | what is new |
/// |---|---|---|
/// | 1 | 0.1.0 | |
/// | 2 | before 0.2.0 | another uid that asked; the code of a failure's cause |
/// | 3 | 0.2.0 | the authority |
const FORMAT: u32 = 3;

/// A few dozen tokens at a time.
const PIECE: usize = 64 * 1024;

/// Where a snapshot is good: its times are those of one boot, and its tokens belong to one daemon's user.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The id of this boot.
    pub boot_id: &'a str,
    /// The daemon's user.
    pub uid: u32,
    /// The upstream that failures tell of.
    pub upstream: &'a str,
}

/// Why a snapshot is not taken over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It is no snapshot, or one of a newer version of this program.
    #[error("its format is not one of 1 to {FORMAT}")]
    Format,
    /// Its times mean nothing here.
    #[error("it is from another boot of this machine")]
    OtherBoot,
    /// A daemon of another user wrote it.
    #[error("it is another user's")]
    OtherUser,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct CacheDocument<'a> {
    format: u32,
    boot_id: String,
    uid: u32,
    /// The upstream that failures tell of.
    upstream: Option<String>,
    /// The last, so that they can be written one by one.
    #[serde(borrow)]
    keys: Vec<KeyEntry<'a>>,
}

/// One key. All times are the boot-time clock's.
#[derive(Serialize, Deserialize)]
struct KeyEntry<'a> {
    resource: Resource,
    identity: Identity,
    capabilities: Option<String>,
    authority: Option<String>,
    owner: u32,
    other: Option<u32>,
    last_asked: Duration,
    next_try: Duration,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    expires_boot: Duration,
    trouble: Option<FailingEntry>,
}

#[derive(Serialize, Deserialize)]
struct FailingEntry {
    failure: FailureEntry,
    streak: StreakEntry,
    failures: u32,
    hold_callers: bool,
    #[serde(default)]
    told: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct FailureEntry {
    class: ClassEntry,
    /// The text for people. Format 1 named it so.
    cause: String,
    code: Option<Cause>,
    status: Option<u16>,
}

#[derive(Serialize, Deserialize)]
enum ClassEntry {
    Restarting,
    Faulty,
    Throttled(Option<Duration>),
    Refused {
        error: Option<String>,
        error_description: String,
    },
}

#[derive(Serialize, Deserialize)]
struct StreakEntry {
    restarting_since: Option<Duration>,
    restarts: u32,
    faults: u32,
    refusals: u32,
}

/// A buffer that tokens go through, which is wiped however that ends.
struct Wiped<W: Write>(Option<BufWriter<W>>);

impl<W: Write> Drop for Wiped<W> {
    fn drop(&mut self) {
        drop(self.0.take().map(|buffer| buffer.into_parts().1.map(Zeroizing::new)));
    }
}

/// Writes a snapshot, a piece at a time: all of it at once would take as much memory again as the tokens do. Others have their
/// turn after each slice of the keys, since a cache of ten thousand tokens takes a tenth of a second.
///
/// # Errors
/// Those of `to`.
pub async fn write(
    slices: impl IntoIterator<Item = impl AsRef<[KeySnapshot]>>,
    place: Place<'_>,
    to: impl Write,
) -> io::Result<()> {
    let mut buffer = Wiped(Some(BufWriter::with_capacity(PIECE, to)));
    let Some(to) = &mut buffer.0 else { return Ok(()) };
    let document = CacheDocument {
        format: FORMAT,
        boot_id: place.boot_id.to_owned(),
        uid: place.uid,
        upstream: Some(place.upstream.to_owned()),
        keys: Vec::new(),
    };
    let mut keys = OpenArray::begin(to, &document)?;
    for slice in slices {
        for key in slice.as_ref() {
            keys.push(&KeyEntry::new(key)?)?;
        }
        tokio::task::yield_now().await;
    }
    keys.end()?.flush()
}

/// The keys of a snapshot. A key whose parts are out of bounds is left out, as is a token that no upstream could have given
/// now. Failures of another upstream are forgotten.
///
/// # Errors
/// The snapshot is not good at this place.
pub fn read(bytes: &[u8], place: Place<'_>, now: Now) -> Result<Vec<KeySnapshot>, SnapshotError> {
    let Format { format } = serde_json::from_slice(bytes).map_err(|_| SnapshotError::Format)?;
    if !(1..=FORMAT).contains(&format) {
        return Err(SnapshotError::Format);
    }
    let document: CacheDocument<'_> = serde_json::from_slice(bytes).map_err(|_| SnapshotError::Format)?;
    if document.boot_id != place.boot_id || place.boot_id.is_empty() {
        return Err(SnapshotError::OtherBoot);
    }
    if document.uid != place.uid {
        return Err(SnapshotError::OtherUser);
    }
    let mut keys: Vec<KeySnapshot> = document
        .keys
        .into_iter()
        .filter_map(|entry| entry.into_snapshot(now))
        .collect();
    if document.upstream.is_some_and(|name| name != place.upstream) {
        for key in &mut keys {
            key.forget_failure(now);
        }
    }
    Ok(keys)
}

impl<'a> KeyEntry<'a> {
    fn new(key: &'a KeySnapshot) -> serde_json::Result<Self> {
        let (token, expires_boot) = match &key.token {
            Some((token, expires_boot)) => (Some(serde_json::from_slice(token.object())?), *expires_boot),
            None => (None, Duration::ZERO),
        };
        Ok(Self {
            resource: key.key.resource.clone(),
            identity: key.key.identity.clone(),
            capabilities: key.key.capabilities.as_deref().map(str::to_owned),
            authority: key.key.authority.as_deref().map(str::to_owned),
            owner: key.owner,
            other: key.other,
            last_asked: key.last_asked,
            next_try: key.next_try,
            token,
            expires_boot,
            trouble: key.trouble.as_ref().map(FailingEntry::from),
        })
    }

    fn into_snapshot(self, now: Now) -> Option<KeySnapshot> {
        let key = Key::new(self.resource, self.identity);
        let key = match self.capabilities {
            Some(text) => key.with_capabilities(&text).ok()?,
            None => key,
        };
        let key = match self.authority {
            Some(text) => key.with_authority(&text).ok()?,
            None => key,
        };
        let token = self
            .token
            .and_then(|body| upstream::check_reply(body.get().as_bytes(), &key, false, now).ok());
        Some(KeySnapshot {
            owner: self.owner,
            other: self.other,
            last_asked: self.last_asked,
            next_try: self.next_try,
            token: token.map(|token| (token.kept(), self.expires_boot)),
            trouble: self.trouble.map(Failing::from),
            key,
        })
    }
}

impl From<&Failing> for FailingEntry {
    fn from(failing: &Failing) -> Self {
        let Failure {
            class,
            cause,
            status,
            text,
        } = &*failing.failure;
        let Streak {
            restarting_since,
            restarts,
            faults,
            refusals,
        } = failing.streak;
        Self {
            failure: FailureEntry {
                class: match class {
                    Class::Restarting => ClassEntry::Restarting,
                    // A key that failed for want of room is written without its failure.
                    Class::Faulty | Class::Full => ClassEntry::Faulty,
                    Class::Throttled(asked) => ClassEntry::Throttled(*asked),
                    Class::Refused(Refusal {
                        error,
                        error_description,
                    }) => ClassEntry::Refused {
                        error: error.clone(),
                        error_description: error_description.clone(),
                    },
                },
                cause: text.clone(),
                code: Some(*cause),
                status: *status,
            },
            streak: StreakEntry {
                restarting_since,
                restarts,
                faults,
                refusals,
            },
            failures: failing.failures,
            hold_callers: failing.hold_callers,
            told: failing.told.clone(),
        }
    }
}

impl From<FailingEntry> for Failing {
    fn from(entry: FailingEntry) -> Self {
        let class = match entry.failure.class {
            ClassEntry::Restarting => Class::Restarting,
            ClassEntry::Faulty => Class::Faulty,
            ClassEntry::Throttled(asked) => Class::Throttled(asked),
            ClassEntry::Refused {
                error,
                error_description,
            } => Class::Refused(Refusal {
                error,
                error_description,
            }),
        };
        let StreakEntry {
            restarting_since,
            restarts,
            faults,
            refusals,
        } = entry.streak;
        Self {
            failure: Arc::new(Failure {
                class,
                cause: entry.failure.code.unwrap_or(Cause::Other),
                status: entry.failure.status,
                text: entry.failure.cause,
            }),
            streak: Streak {
                restarting_since,
                restarts,
                faults,
                refusals,
            },
            failures: entry.failures,
            hold_callers: entry.hold_callers,
            told: entry.told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::turns_beside;

    const NOW: Now = Now {
        wall: Duration::from_secs(1_700_000_000),
        boot: Duration::from_secs(1000),
    };
    const PLACE: Place<'_> = Place {
        boot_id: "b007",
        uid: 995,
        upstream: "Imds http://127.0.0.1:9/token",
    };

    fn key(resource: &str) -> Key {
        Key::new(Resource::new(resource).unwrap(), Identity::client_id("abc").unwrap())
    }

    /// A key with a token that lives for so many seconds from now.
    fn snapshot(resource: &str, life: u64) -> KeySnapshot {
        let expires_on = NOW.wall.as_secs() + life;
        let body = format!(r#"{{"access_token":"CANARY.{resource}","client_id":"abc","expires_on":"{expires_on}"}}"#);
        let token = upstream::check_reply(body.as_bytes(), &key(resource), false, NOW).unwrap();
        KeySnapshot {
            key: key(resource),
            owner: 7,
            other: Some(8),
            last_asked: Duration::from_secs(5),
            next_try: Duration::from_secs(9),
            token: Some((Arc::new(token), NOW.boot + Duration::from_secs(life))),
            trouble: None,
        }
    }

    fn throttled(asked: Option<Duration>) -> Failing {
        let failure = Failure::new(Class::Throttled(asked), Cause::Status, "HTTP 429").answered(429);
        Failing::new(Arc::new(failure))
    }

    fn written(keys: &[KeySnapshot], place: Place<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(write([keys], place, &mut bytes)).unwrap();
        bytes
    }

    #[tokio::test]
    async fn others_have_their_turn_while_many_keys_are_written() {
        let slices = (0..3).map(|n| vec![snapshot(&format!("r{n}"), 60)]);
        let mut bytes = Vec::new();
        let (written, turns) = turns_beside(write(slices, PLACE, &mut bytes)).await;
        written.unwrap();
        assert_eq!(turns, 3);
        let back = read(&bytes, PLACE, NOW).unwrap();
        assert!(back.iter().map(|back| &back.key).eq(&["r0", "r1", "r2"].map(key)));
    }

    #[test]
    fn what_is_left_is_taken_over_token_by_token() {
        let failing = KeySnapshot {
            token: None,
            trouble: Some(throttled(Some(Duration::from_secs(3)))),
            ..snapshot("b", 60)
        };
        let mut left = vec![snapshot("a", 3600), failing];
        let with_capabilities = key("a").with_capabilities("cp1").unwrap();
        left[0].key = with_capabilities.with_authority("https://login/t").unwrap();
        let back = read(&written(&left, PLACE), PLACE, NOW).unwrap();
        assert_eq!(back.len(), 2);
        for (before, after) in left.iter().zip(&back) {
            assert_eq!(
                (
                    &before.key,
                    before.owner,
                    before.other,
                    before.last_asked,
                    before.next_try
                ),
                (&after.key, after.owner, after.other, after.last_asked, after.next_try)
            );
        }
        let (before, after) = (left[0].token.as_ref().unwrap(), back[0].token.as_ref().unwrap());
        assert!(before.0.is_same_as(&after.0));
        assert_eq!((before.0.expires_on(), before.1), (after.0.expires_on(), after.1));
        let failure = |key: &KeySnapshot| key.trouble.as_ref().unwrap().failure.clone();
        assert_eq!(failure(&back[1]), failure(&left[1]));
    }

    #[test]
    fn failures_of_another_endpoint_are_left_behind_and_its_tokens_are_not() {
        let failing = KeySnapshot {
            trouble: Some(throttled(None)),
            next_try: NOW.boot + Duration::from_secs(300),
            ..snapshot("a", 3600)
        };
        let bytes = written(&[failing, snapshot("b", 3600)], PLACE);
        let elsewhere = Place {
            upstream: "Arc http://127.0.0.1:9/token",
            ..PLACE
        };
        let there = read(&bytes, elsewhere, NOW).unwrap();
        assert!(there[0].trouble.is_none() && there[0].next_try <= NOW.boot);
        assert_eq!(there[1].next_try, Duration::from_secs(9), "nothing had failed");
        assert!(there.iter().all(|key| key.token.is_some()));
        let here = read(&bytes, PLACE, NOW).unwrap();
        assert!(here[0].trouble.is_some() && here[0].next_try > NOW.boot);
    }

    #[test]
    fn a_token_that_no_upstream_could_give_now_is_left_behind_and_its_key_kept() {
        let bytes = written(&[snapshot("a", 3600)], PLACE);
        let later = Now {
            wall: NOW.wall + Duration::from_secs(3601),
            ..NOW
        };
        assert!(read(&bytes, PLACE, later).unwrap()[0].token.is_none());
        let text = String::from_utf8(bytes.clone()).unwrap();
        let text = text.replace("\"abc\"", "\"other\"");
        let back = read(text.as_bytes(), PLACE, NOW).unwrap();
        assert!(back[0].token.is_none(), "another identity's token");
    }

    /// As 0.1.0 wrote it, with every class of failure.
    const FORMAT_1: &str = r#"{"format":1,"boot_id":"b007","uid":995,"upstream":"Imds http://127.0.0.1:9/token","keys":[
        {"resource":"https://a/","identity":"client_id:abc","capabilities":"cp1","owner":7,
         "last_asked":{"secs":5,"nanos":0},"next_try":{"secs":9,"nanos":1},
         "token":{"access_token":"CANARY.a","client_id":"abc","expires_on":"1700003600","not_before":"1699999999",
                  "resource":"https://a/","token_type":"Bearer"},
         "expires_boot":{"secs":4600,"nanos":0},"trouble":null},
        {"resource":"https://b/","identity":"default","capabilities":null,"owner":0,
         "last_asked":{"secs":5,"nanos":0},"next_try":{"secs":9,"nanos":0},"token":null,"expires_boot":{"secs":0,"nanos":0},
         "trouble":{"failure":{"class":{"Throttled":{"secs":3,"nanos":0}},"cause":"HTTP 429 Too Many Requests"},
                    "streak":{"restarting_since":{"secs":1,"nanos":0},"restarts":1,"faults":2,"refusals":3},
                    "failures":6,"hold_callers":true}},
        {"resource":"https://c/","identity":"default","capabilities":null,"owner":0,
         "last_asked":{"secs":5,"nanos":0},"next_try":{"secs":9,"nanos":0},"token":null,"expires_boot":{"secs":0,"nanos":0},
         "trouble":{"failure":{"class":{"Refused":{"error":"e","error_description":"d"}},"cause":"HTTP 400"},
                    "streak":{"restarting_since":null,"restarts":0,"faults":0,"refusals":1},
                    "failures":1,"hold_callers":false,"told":["refused"]}}]}"#;

    #[test]
    fn the_format_of_the_version_before_is_read() {
        let keys = read(FORMAT_1.as_bytes(), PLACE, NOW).unwrap();
        let [a, b, c] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!(
            a.key,
            Key::new(
                Resource::new("https://a/").unwrap(),
                Identity::client_id("abc").unwrap()
            )
            .with_capabilities("cp1")
            .unwrap()
        );
        assert_eq!((a.owner, a.other, a.next_try), (7, None, Duration::new(9, 1)));
        assert_eq!(a.token.as_ref().unwrap().1, Duration::from_secs(4600));
        let b = b.trouble.as_ref().unwrap();
        assert_eq!(b.failure.class, Class::Throttled(Some(Duration::from_secs(3))));
        assert_eq!((b.failure.cause, b.failures, b.hold_callers), (Cause::Other, 6, true));
        assert_eq!((b.streak.restarts, b.streak.faults, b.streak.refusals), (1, 2, 3));
        assert!(
            matches!(&c.trouble.as_ref().unwrap().failure.class, Class::Refused(refusal) if refusal.error.as_deref() == Some("e"))
        );
    }

    #[test]
    fn a_newer_format_and_anything_odd_are_not_read() {
        let good = String::from_utf8(written(&[snapshot("a", 3600)], PLACE)).unwrap();
        let error = |text: &str| read(text.as_bytes(), PLACE, NOW).unwrap_err();
        let current = format!("\"format\":{FORMAT}");
        assert!(good.contains(&current));
        for (from, to, expected) in [
            (&*good, "", SnapshotError::Format),
            (&current, &format!("\"format\":{}", FORMAT + 1), SnapshotError::Format),
            (&current, "\"format\":0", SnapshotError::Format),
            ("\"keys\"", "\"tokens\"", SnapshotError::Format),
            ("b007", "0", SnapshotError::OtherBoot),
            ("\"uid\":995", "\"uid\":4242", SnapshotError::OtherUser),
        ] {
            assert_eq!(error(&good.replace(from, to)), expected, "{from}");
        }
        let nowhere = Place { boot_id: "", ..PLACE };
        let bytes = written(&[], nowhere);
        assert_eq!(read(&bytes, nowhere, NOW).unwrap_err(), SnapshotError::OtherBoot);
    }
}
