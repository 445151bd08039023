//! Edge. What the system counts of a program that runs and of everything in its process group: bytes read and written, and time on a
//! processor. Linux only. Does not judge what they mean.

use std::time::Duration;

/// Counted since the start of those that run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Bytes read and written, of files, pipes and sockets alike.
    pub bytes: u64,
    /// Time on processors.
    pub processor: Duration,
}

/// Whether this system counts.
pub const HAS_ACTIVITY: bool = cfg!(target_os = "linux");

/// The activity of this process group; `None`: this system does not count, or the group is gone.
#[cfg(not(target_os = "linux"))]
pub fn activity(_group: u32) -> Option<Activity> {
    None
}

#[cfg(target_os = "linux")]
pub use linux::activity;

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::Activity;

    /// Of the times in /proc, on every system that we run on.
    const TICKS_PER_SECOND: u64 = 100;

    pub fn activity(group: u32) -> Option<Activity> {
        let mut sum: Option<Activity> = None;
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            let is_process = entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
            if is_process && let Some(one) = of_process(&entry.path(), group) {
                let sum = sum.get_or_insert_default();
                sum.bytes = sum.bytes.saturating_add(one.bytes);
                sum.processor = sum.processor.saturating_add(one.processor);
            }
        }
        sum
    }

    /// One that ends meanwhile, or belongs to another group, has none.
    fn of_process(dir: &Path, group: u32) -> Option<Activity> {
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        // The name in parentheses may hold anything; state, parent and group follow it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        if number(2)? != u64::from(group) {
            return None;
        }
        let ticks = number(11)?.saturating_add(number(12)?);
        let io = fs::read_to_string(dir.join("io")).unwrap_or_default();
        let counted = io.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(": ")?;
            matches!(name, "rchar" | "wchar").then(|| bytes.parse::<u64>().ok())?
        });
        Some(Activity { bytes: counted.sum(), processor: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND) })
    }
}
