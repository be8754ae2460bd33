//! What this machine has and what this process uses of it.

use std::fs;
use std::path::Path;

/// Resident memory of this process, as the kernel counts it.
pub(crate) fn resident_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The memory that this process may use: the machine's, or less where its control group says so.
pub(super) fn memory_bytes() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    Some(machine.min(group_bytes().unwrap_or(u64::MAX)))
}

/// Bytes that this process can still write where `path` is.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// The least limit of the control groups around this process; version 2, then version 1.
fn group_bytes() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = Path::new("/sys/fs/cgroup");
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    let limits = groups.map(|group| root.join(group).join("memory.max"));
    limits
        .chain([root.join("memory/memory.limit_in_bytes")])
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .min()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1_024)
}
