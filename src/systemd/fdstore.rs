//! The cache over a restart, without touching a disk: it is written to a sealed memfd that systemd's descriptor store
//! holds while the service restarts (`sd_notify(3)`, `FDSTORE=1`).
//!
//! What comes out of the store is checked before it is used: its seals, size, format, boot and user, and each token as a
//! reply of the upstream is. If a check fails, the cache starts empty, as it does without systemd.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::geteuid;
use sd_notify::NotifyState;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::cache_format::{self, Place, SnapshotError};
use super::message::notify;
use crate::broker::KeySnapshot;
use crate::clock::Now;
use crate::engine::Engine;

/// What `FDNAME=` calls the memfd in the store.
pub const NAME: &str = "tokens";

/// A write costs the one thread a few milliseconds with a thousand tokens, if in slices.
const PAUSE: Duration = Duration::from_secs(3);
/// So many keys take a few hundred microseconds; after that callers have their turn.
const SLICE: usize = 16;
/// So many bytes take the kernel some 60 microseconds to take back.
const GIVEN_BACK: u64 = 1 << 20;
/// The last write is tried this many times, this far apart.
const LAST_TRIES: u32 = 40;
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// Ten thousand of the largest tokens; more was not written by us.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// Without these seals the memory could change after it was checked. Shrinking is left open: it is how the memory is given back
/// while the store still holds the old descriptor. `F_SEAL_WRITE` would also end mappings, of which there are none; to find
/// that out the kernel waits for all processors, which takes it 4 ms now and then.
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE);
/// Those that earlier versions set.
const FORMER_SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Why the cache of the previous process is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The descriptor cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is not the sealed memory that this program leaves.
    #[error("it is not memory that this program sealed")]
    NotSealed,
    /// It is larger than any that this program leaves.
    #[error("it is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// Its content is not good here.
    #[error(transparent)]
    Content(#[from] SnapshotError),
}

/// The daemon's side of the store.
#[derive(Debug)]
pub struct FdStore {
    held: Option<File>,
    /// What was held before, until its memory is given back.
    former: Option<File>,
    boot_id: String,
    /// Why the last write failed. It was logged.
    failing: Option<io::ErrorKind>,
    /// A write was begun and not ended.
    behind: bool,
}

impl FdStore {
    /// Starts from what systemd passed, if anything. `None` without a service manager, which has no store.
    pub fn new(passed: Option<OwnedFd>) -> Option<Self> {
        let managed = passed.is_some() || env::var_os("NOTIFY_SOCKET").is_some();
        managed.then(|| Self {
            held: passed.map(File::from),
            former: None,
            boot_id: boot_id(),
            failing: None,
            behind: false,
        })
    }

    /// Fills the cache with what the previous process left.
    pub fn restore(&mut self, engine: &Arc<Engine>) {
        match self.take_back(engine.now(), &engine.upstream_name()) {
            Ok(keys) if keys.is_empty() => {}
            Ok(keys) => {
                info!(keys = keys.len(), "cache restored from the previous process");
                engine.restore(keys);
            }
            Err(error) => {
                warn!("the cache starts empty: what systemd kept of the previous process cannot be used: {error}");
            }
        }
    }

    /// Keeps the store up to date with the cache, at most once in [`PAUSE`]. Never returns, but may be dropped and called again.
    pub async fn follow(&mut self, engine: &Engine) {
        loop {
            if !self.behind && !self.can_be_retried() {
                engine.changed().await;
            }
            self.save(engine).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Puts the cache as it is now into the store. A failure is logged once, until a write succeeds again.
    async fn save(&mut self, engine: &Engine) {
        self.behind = true;
        let result = self.hand_over(engine).await;
        self.behind = false;
        let kind = result.as_ref().err().map(io::Error::kind);
        let said = std::mem::replace(&mut self.failing, kind).is_some();
        if let Err(error) = result
            && !said
        {
            warn!(%error, "the cache cannot be given to systemd: after a restart it would be empty");
        }
    }

    /// The last [`FdStore::save`]. No caller is served any more, so it may take a moment.
    pub async fn close(&mut self, engine: &Engine) {
        for _ in 0..LAST_TRIES {
            self.save(engine).await;
            if !self.can_be_retried() {
                break;
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }

    /// systemd did not read the message; it may do so later.
    fn can_be_retried(&self) -> bool {
        self.failing == Some(io::ErrorKind::WouldBlock)
    }

    /// What the previous process left; empty if it left nothing.
    fn take_back(&mut self, now: Now, upstream: &str) -> Result<Vec<KeySnapshot>, RestoreError> {
        let Some(file) = &mut self.held else {
            return Ok(Vec::new());
        };
        let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_err(|_| RestoreError::NotSealed)?;
        let seals = SealFlag::from_bits_truncate(seals);
        if ![SEALS, FORMER_SEALS].iter().any(|wanted| seals.contains(*wanted)) {
            return Err(RestoreError::NotSealed);
        }
        let size = file.metadata()?.size();
        if size > MAX_SIZE {
            return Err(RestoreError::TooLarge);
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default()));
        file.rewind()?;
        file.take(size).read_to_end(&mut bytes)?;
        Ok(cache_format::read(&bytes, self.place(upstream), now)?)
    }

    fn place<'a>(&'a self, upstream: &'a str) -> Place<'a> {
        Place {
            boot_id: &self.boot_id,
            uid: geteuid().as_raw(),
            upstream,
        }
    }

    /// Puts the cache into the store in place of what is there, whose memory is given back.
    async fn hand_over(&mut self, engine: &Engine) -> io::Result<()> {
        // Where the last time was cut short.
        self.give_back().await?;
        let file = new_memory()?;
        let slices = engine.slices(SLICE).map(|keys| engine.snapshot(&keys));
        cache_format::write(slices, self.place(&engine.upstream_name()), &file).await?;
        seal(&file)?;
        // The unit limits the store to one descriptor, so the old one is removed first.
        notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)], &[])?;
        notify(&[NotifyState::FdStore, NotifyState::FdName(NAME)], &[file.as_fd()])?;
        self.former = self.held.replace(file);
        self.give_back().await
    }

    /// Gives the memory of the former cache back, a piece at a time: all of it at once takes the kernel a millisecond for ten
    /// thousand tokens.
    async fn give_back(&mut self) -> io::Result<()> {
        let Some(former) = &self.former else {
            return Ok(());
        };
        let mut size = former.metadata()?.size();
        while size > 0 {
            size = size.saturating_sub(GIVEN_BACK);
            former.set_len(size)?;
            tokio::task::yield_now().await;
        }
        self.former = None;
        Ok(())
    }
}

fn new_memory() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    Ok(File::from(memfd_create("msi-tokend", flags)?))
}

/// From here on nobody can change what is in it.
fn seal(file: &File) -> io::Result<()> {
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(())
}

/// From the kernel, or where the sandbox hides it (`ProcSubset=pid`) from the unit's own `%b`.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").or_else(|_| env::var("MSI_TOKEND_BOOT_ID"));
    id.unwrap_or_default().trim().replace('-', "")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::FutureExt;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::engine::turns_beside;

    const UPSTREAM: &str = "Imds http://127.0.0.1:9/token";

    fn passed(descriptor: impl Into<OwnedFd>) -> FdStore {
        FdStore::new(Some(descriptor.into())).unwrap()
    }

    fn holding(bytes: &[u8]) -> File {
        let mut file = new_memory().unwrap();
        file.write_all(bytes).unwrap();
        seal(&file).unwrap();
        file
    }

    fn take_back(descriptor: impl Into<OwnedFd>) -> Result<Vec<KeySnapshot>, RestoreError> {
        passed(descriptor).take_back(SystemClock.now(), UPSTREAM)
    }

    #[tokio::test]
    async fn only_memory_sealed_by_this_program_is_read() {
        let empty = || holding(b"");
        let mut good = Vec::new();
        cache_format::write([[]; 0], passed(empty()).place(UPSTREAM), &mut good)
            .await
            .unwrap();
        assert!(take_back(holding(&good)).unwrap().is_empty());
        let mut former = new_memory().unwrap();
        former.write_all(&good).unwrap();
        fcntl(&former, FcntlArg::F_ADD_SEALS(FORMER_SEALS)).unwrap();
        assert!(take_back(former).unwrap().is_empty(), "as earlier versions left it");
        assert!(matches!(take_back(empty()), Err(RestoreError::Content(_))));
        let unsealed = memfd_create("t", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        File::from(unsealed.try_clone().unwrap()).write_all(&good).unwrap();
        assert!(matches!(take_back(unsealed).unwrap_err(), RestoreError::NotSealed));
        let plain: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(matches!(take_back(plain).unwrap_err(), RestoreError::NotSealed));
        let large = memfd_create("t", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&large, i64::try_from(MAX_SIZE).unwrap() + 1).unwrap();
        fcntl(&large, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(matches!(take_back(large).unwrap_err(), RestoreError::TooLarge));
    }

    #[test]
    fn a_sealed_memory_cannot_be_changed_and_can_be_given_back() {
        let mut file = holding(b"tokens");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(7).is_err());
        file.set_len(0).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 0);
    }

    #[tokio::test]
    async fn others_have_their_turn_while_much_memory_is_given_back() {
        let memory = holding(&vec![b'x'; 5 << 20]);
        let left = || memory.metadata().unwrap().size();
        let mut store = passed(holding(b""));
        store.former = Some(memory.try_clone().unwrap());
        let cut_short = store.give_back().now_or_never();
        assert!(cut_short.is_none() && left() == 4 << 20);
        let (given, turns) = turns_beside(store.give_back()).await;
        given.unwrap();
        assert_eq!((turns, left()), (4, 0));
        assert!(store.former.is_none());
    }
}
