//! What the kernel says of this process, under the names that every Prometheus client gives it.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

/// One look. What cannot be had is left out, as zero would be a lie.
#[derive(Debug)]
pub struct Process {
    /// Spent, in user and kernel mode.
    pub cpu: Option<Duration>,
    /// Descriptors that are open.
    pub open_fds: Option<u64>,
    /// Descriptors that may be open.
    pub max_fds: Option<u64>,
    /// Bytes of address space.
    pub virtual_memory: Option<u64>,
    /// Bytes in memory.
    pub resident_memory: Option<u64>,
}

impl Process {
    /// Looks. The files in `/proc/self` stay readable by the process itself whatever `PR_SET_DUMPABLE` says of others.
    pub fn look() -> Self {
        let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut bytes = pages.split(' ').map(bytes_of);
        Self {
            cpu: cpu(),
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            virtual_memory: bytes.next().flatten(),
            resident_memory: bytes.next().flatten(),
        }
    }
}

/// The one for the look itself apart.
fn open_fds() -> Option<u64> {
    let all = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(all).ok()?.checked_sub(1)
}

fn bytes_of(pages: &str) -> Option<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.parse::<u64>().ok()?.checked_mul(size.try_into().ok()?)
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some(duration(usage.user_time())? + duration(usage.system_time())?)
}

fn duration(time: TimeVal) -> Option<Duration> {
    let micros = u32::try_from(time.tv_usec()).ok()?;
    Some(Duration::new(time.tv_sec().try_into().ok()?, micros * 1000))
}
