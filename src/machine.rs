//! Edge. What this machine calls itself, and which of its lives this is. Does not tell one program from another.

/// The machine's own name; empty where it has none.
pub fn hostname() -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    return std::env::var("COMPUTERNAME").unwrap_or_default();
}

/// Names the running system: two processes with the same one read one clock. Where there is no such id, the name.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if id.trim().is_empty() { hostname() } else { id.trim().to_owned() }
}
