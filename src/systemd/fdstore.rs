//! The cache over a restart, without touching a disk: it is written to a sealed memfd that systemd's descriptor store
//! holds between two lives of the service (`sd_notify(3)`, `FDSTORE=1`).
//!
//! Nothing is believed because it was in the store: seals, size, format, boot and user are judged, and each token goes
//! through the same checks as a reply from the upstream. Where anything is odd the cache starts empty, as it does
//! without systemd.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::geteuid;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::notify::notify;
use crate::broker::{Failing, KeySnapshot};
use crate::clock::Now;
use crate::engine::Engine;
use crate::key::{Identity, Key, Resource};
use crate::upstream;

/// What `FDNAME=` calls the memfd in the store.
pub const NAME: &str = "tokens";

/// A write costs a few milliseconds with a thousand tokens, and the one thread has callers to serve.
const PAUSE: Duration = Duration::from_secs(3);
/// At the end it is tried so often, this long apart.
const LAST_TRIES: u32 = 40;
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// The form of [`Document`]; any other starts empty.
const FORMAT: u32 = 1;
/// Ten thousand of the largest tokens; more was not written by us.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// Without these somebody could still change what was judged. Shrinking is left open: it is how the memory is given back
/// while the store still holds the old descriptor.
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Why a former life's cache is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The descriptor cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is not the sealed memory that this program leaves.
    #[error("it is no memory sealed by this program")]
    NotSealed,
    /// It is larger than any that this program leaves.
    #[error("it is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// Left by an older or newer version of this program.
    #[error("it is of another format than {FORMAT}")]
    Format,
    /// Its times mean nothing here.
    #[error("it is from another boot of this machine")]
    OtherBoot,
    /// Left by a daemon of another user.
    #[error("it is another user's")]
    OtherUser,
}

/// The memfd's content: JSON, with each token as the reply that it came in could have been.
#[derive(Serialize, Deserialize)]
struct Document<'a> {
    format: u32,
    boot_id: String,
    uid: u32,
    /// Whose failures the entries tell of; not said by the first version.
    upstream: Option<String>,
    #[serde(borrow)]
    keys: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// [`KeySnapshot`], with all times as on the boot-time clock.
#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    resource: Resource,
    identity: Identity,
    capabilities: Option<String>,
    owner: u32,
    /// Not said by the first version.
    #[serde(default)]
    other: Option<u32>,
    last_asked: Duration,
    next_try: Duration,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    expires_boot: Duration,
    trouble: Option<Failing>,
}

/// What systemd holds for us at this moment.
#[derive(Debug)]
pub struct FdStore {
    held: Option<File>,
    boot_id: String,
    /// Why the cache could not be handed over, which was said.
    failing: Option<io::ErrorKind>,
}

impl FdStore {
    /// Starts from what systemd passed, if anything; without a service manager there is nobody to carry for us.
    pub fn new(passed: Option<OwnedFd>) -> Option<Self> {
        let managed = passed.is_some() || env::var_os("NOTIFY_SOCKET").is_some();
        managed.then(|| Self {
            held: passed.map(File::from),
            boot_id: boot_id(),
            failing: None,
        })
    }

    /// Fills the cache with what the former life left.
    pub fn restore(&mut self, engine: &Arc<Engine>) {
        match self.take_back(engine.now(), &engine.upstream_name()) {
            Ok(carried) if carried.is_empty() => {}
            Ok(carried) => {
                info!(
                    keys = carried.len(),
                    "the cache of the process before this one is taken over"
                );
                engine.take_over(carried);
            }
            Err(odd) => warn!("the cache starts empty; what systemd held for it is not taken over: {odd}"),
        }
    }

    /// Keeps the store up to date with the cache, at most once in [`PAUSE`]. Never returns.
    pub async fn follow(&mut self, engine: &Engine) {
        loop {
            if !self.can_be_retried() {
                engine.changed().await;
            }
            self.save(engine);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Puts the cache as it is now into the store. Why it is not there is said once, until it is again.
    pub fn save(&mut self, engine: &Engine) {
        let result = self.hand_over(&engine.carry(), engine.upstream_name());
        let kind = result.as_ref().err().map(io::Error::kind);
        let said = std::mem::replace(&mut self.failing, kind).is_some();
        if let Err(error) = result
            && !said
        {
            warn!(%error, "systemd cannot be handed the cache: a restart would start with an empty one");
        }
    }

    /// The last [`FdStore::save`]: nobody is served any more, so it may take a moment.
    pub async fn close(&mut self, engine: &Engine) {
        for _ in 0..LAST_TRIES {
            self.save(engine);
            if !self.can_be_retried() {
                break;
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }

    /// systemd did not read, which it may do again.
    fn can_be_retried(&self) -> bool {
        self.failing == Some(io::ErrorKind::WouldBlock)
    }

    /// What the former life left; nothing if it left nothing.
    fn take_back(&mut self, now: Now, upstream: &str) -> Result<Vec<KeySnapshot>, RestoreError> {
        let Some(file) = &mut self.held else {
            return Ok(Vec::new());
        };
        let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_err(|_| RestoreError::NotSealed)?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(RestoreError::NotSealed);
        }
        let size = file.metadata()?.size();
        if size > MAX_SIZE {
            return Err(RestoreError::TooLarge);
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default()));
        file.rewind()?;
        file.take(size).read_to_end(&mut bytes)?;
        self.judge(&bytes, now, upstream)
    }

    fn judge(&self, bytes: &[u8], now: Now, upstream: &str) -> Result<Vec<KeySnapshot>, RestoreError> {
        let Format { format } = serde_json::from_slice(bytes).map_err(|_| RestoreError::Format)?;
        if format != FORMAT {
            return Err(RestoreError::Format);
        }
        let document: Document<'_> = serde_json::from_slice(bytes).map_err(|_| RestoreError::Format)?;
        if document.boot_id != self.boot_id || self.boot_id.is_empty() {
            return Err(RestoreError::OtherBoot);
        }
        if document.uid != geteuid().as_raw() {
            return Err(RestoreError::OtherUser);
        }
        let mut carried: Vec<KeySnapshot> = document
            .keys
            .into_iter()
            .filter_map(|entry| entry.into_carried(now))
            .collect();
        if document.upstream.is_some_and(|name| name != upstream) {
            for carried in &mut carried {
                carried.forget_failure(now);
            }
        }
        Ok(carried)
    }

    /// Puts `carried` into the store in place of what is there, whose memory is given back.
    fn hand_over(&mut self, carried: &[KeySnapshot], upstream: String) -> io::Result<()> {
        let file = sealed(&self.document(carried, upstream)?)?;
        // The store has room for one, so that a daemon gone mad cannot fill it; the old one goes first.
        notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)], &[])?;
        notify(&[NotifyState::FdStore, NotifyState::FdName(NAME)], &[file.as_fd()])?;
        if let Some(old) = self.held.replace(file) {
            old.set_len(0)?;
        }
        Ok(())
    }

    fn document(&self, carried: &[KeySnapshot], upstream: String) -> io::Result<Zeroizing<Vec<u8>>> {
        let document = Document {
            format: FORMAT,
            boot_id: self.boot_id.clone(),
            uid: geteuid().as_raw(),
            upstream: Some(upstream),
            keys: carried.iter().map(Entry::try_from).collect::<Result<_, _>>()?,
        };
        // Sized for all of it at once: a buffer that grows leaves copies of tokens behind.
        let tokens: usize = carried
            .iter()
            .filter_map(|c| c.token.as_ref())
            .map(|(token, _)| token.object().len())
            .sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(tokens + carried.len() * 4096 + 256));
        serde_json::to_writer(&mut *bytes, &document)?;
        Ok(bytes)
    }
}

/// A memfd that nobody can change any more.
fn sealed(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(
        "msi-tokend",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?);
    file.write_all(bytes)?;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file)
}

/// From the kernel, or where the sandbox hides it (`ProcSubset=pid`) from the unit's own `%b`.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").or_else(|_| env::var("MSI_TOKEND_BOOT_ID"));
    id.unwrap_or_default().trim().replace('-', "")
}

impl<'a> TryFrom<&'a KeySnapshot> for Entry<'a> {
    type Error = serde_json::Error;

    fn try_from(carried: &'a KeySnapshot) -> Result<Self, Self::Error> {
        let (token, expires_boot) = match &carried.token {
            Some((token, expires_boot)) => (Some(serde_json::from_slice(token.object())?), *expires_boot),
            None => (None, Duration::ZERO),
        };
        Ok(Self {
            resource: carried.key.resource.clone(),
            identity: carried.key.identity.clone(),
            capabilities: carried.key.capabilities.as_deref().map(str::to_owned),
            owner: carried.owner,
            other: carried.other,
            last_asked: carried.last_asked,
            next_try: carried.next_try,
            token,
            expires_boot,
            trouble: carried.trouble.clone(),
        })
    }
}

impl Entry<'_> {
    /// A key whose parts are out of bounds is dropped, as is a token that no upstream could have given now.
    fn into_carried(self, now: Now) -> Option<KeySnapshot> {
        let key = Key::new(self.resource, self.identity);
        let key = match self.capabilities {
            Some(text) => key.with_capabilities(&text).ok()?,
            None => key,
        };
        let token = self
            .token
            .and_then(|body| upstream::judge_reply(body.get().as_bytes(), &key, false, now).ok());
        Some(KeySnapshot {
            owner: self.owner,
            other: self.other,
            last_asked: self.last_asked,
            next_try: self.next_try,
            token: token.map(|token| (Arc::new(token), self.expires_boot)),
            trouble: self.trouble,
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::failure::{Class, Failure};

    const UPSTREAM: &str = "Imds http://127.0.0.1:9/token";

    fn now() -> Now {
        SystemClock.now()
    }

    fn key(resource: &str) -> Key {
        Key::new(Resource::new(resource).unwrap(), Identity::client_id("abc").unwrap())
    }

    /// A key with a token that lives for so many seconds from now.
    fn carried(resource: &str, life: u64) -> KeySnapshot {
        let expires_on = now().wall.as_secs() + life;
        let body = format!(r#"{{"access_token":"CANARY.{resource}","client_id":"abc","expires_on":"{expires_on}"}}"#);
        let token = upstream::judge_reply(body.as_bytes(), &key(resource), false, now()).unwrap();
        KeySnapshot {
            key: key(resource),
            owner: 7,
            other: Some(8),
            last_asked: Duration::from_secs(5),
            next_try: Duration::from_secs(9),
            token: Some((Arc::new(token), now().boot + Duration::from_secs(life))),
            trouble: None,
        }
    }

    fn passed(descriptor: impl Into<OwnedFd>) -> FdStore {
        FdStore::new(Some(descriptor.into())).unwrap()
    }

    /// What a next life is passed when this one wrote `bytes`.
    fn next_life(bytes: &[u8]) -> FdStore {
        passed(sealed(bytes).unwrap())
    }

    fn document(carried: &[KeySnapshot]) -> Zeroizing<Vec<u8>> {
        passed(sealed(b"").unwrap())
            .document(carried, UPSTREAM.to_owned())
            .unwrap()
    }

    #[test]
    fn what_is_left_is_taken_over_token_by_token() {
        let failure = Arc::new(Failure::new(Class::Throttled(Some(Duration::from_secs(3))), "HTTP 429"));
        let failing = KeySnapshot {
            token: None,
            trouble: Some(Failing::new(failure.clone())),
            ..carried("b", 60)
        };
        let mut left = vec![carried("a", 3600), failing];
        left[0].key = key("a").with_capabilities("cp1").unwrap();
        let back = next_life(&document(&left)).take_back(now(), UPSTREAM).unwrap();
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
        assert_eq!(back[1].trouble.as_ref().unwrap().failure, failure);
    }

    #[test]
    fn failures_of_another_endpoint_are_left_behind_and_its_tokens_are_not() {
        let failing = KeySnapshot {
            trouble: Some(Failing::new(Arc::new(Failure::new(Class::Throttled(None), "HTTP 429")))),
            next_try: now().boot + Duration::from_secs(300),
            ..carried("a", 3600)
        };
        let bytes = document(&[failing, carried("b", 3600)]);
        let there = next_life(&bytes)
            .take_back(now(), "Arc http://127.0.0.1:9/token")
            .unwrap();
        assert!(there[0].trouble.is_none() && there[0].next_try <= now().boot);
        assert_eq!(there[1].next_try, Duration::from_secs(9), "nothing had failed");
        assert!(there.iter().all(|carried| carried.token.is_some()));
        let here = next_life(&bytes).take_back(now(), UPSTREAM).unwrap();
        assert!(here[0].trouble.is_some() && here[0].next_try > now().boot);
    }

    #[test]
    fn a_token_that_no_upstream_could_give_now_is_left_behind_and_its_key_kept() {
        let bytes = document(&[carried("a", 3600)]);
        let later = Now {
            wall: now().wall + Duration::from_secs(3601),
            ..now()
        };
        let back = next_life(&bytes).take_back(later, UPSTREAM).unwrap();
        assert!(back[0].token.is_none());
        let text = String::from_utf8(bytes.to_vec())
            .unwrap()
            .replace("\"abc\"", "\"other\"");
        assert!(
            next_life(text.as_bytes()).take_back(now(), UPSTREAM).unwrap()[0]
                .token
                .is_none(),
            "another identity's token"
        );
    }

    #[test]
    fn anything_odd_is_not_believed() {
        let good = String::from_utf8(document(&[carried("a", 3600)]).to_vec()).unwrap();
        let odd = |text: &str| next_life(text.as_bytes()).take_back(now(), UPSTREAM).unwrap_err();
        assert!(matches!(odd(""), RestoreError::Format));
        assert!(matches!(
            odd(&good.replace("\"format\":1", "\"format\":2")),
            RestoreError::Format
        ));
        assert!(matches!(
            odd(&good.replace("\"keys\"", "\"tokens\"")),
            RestoreError::Format
        ));
        assert!(matches!(odd(&good.replace(&boot_id(), "0")), RestoreError::OtherBoot));
        let uid = format!("\"uid\":{}", geteuid());
        assert!(matches!(
            odd(&good.replace(&uid, "\"uid\":4242")),
            RestoreError::OtherUser
        ));

        let unsealed = memfd_create("t", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        File::from(unsealed.try_clone().unwrap())
            .write_all(good.as_bytes())
            .unwrap();
        assert!(matches!(
            passed(unsealed).take_back(now(), UPSTREAM).unwrap_err(),
            RestoreError::NotSealed
        ));
        let plain: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(matches!(
            passed(plain).take_back(now(), UPSTREAM).unwrap_err(),
            RestoreError::NotSealed
        ));
        let large = memfd_create("t", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&large, i64::try_from(MAX_SIZE).unwrap() + 1).unwrap();
        fcntl(&large, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(matches!(
            passed(large).take_back(now(), UPSTREAM).unwrap_err(),
            RestoreError::TooLarge
        ));
    }

    #[test]
    fn a_sealed_memory_cannot_be_changed_and_can_be_given_back() {
        let mut file = sealed(b"tokens").unwrap();
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(7).is_err());
        file.set_len(0).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 0);
    }
}
