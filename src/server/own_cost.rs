//! Edge. What this process takes of the machine, as Linux' /proc tells it; elsewhere only what can be known without. Blocks shortly.

use chrono::{DateTime, Utc};

use super::metrics::ProcessFigures;

/// Clock ticks a second in /proc: Linux has promised programs 100 on every architecture that this runs on.
const TICKS: f64 = 100.0;

/// `since`: when this process began to serve, for where the system does not say when it started.
pub fn own_cost(since: DateTime<Utc>) -> ProcessFigures {
    #[allow(clippy::cast_precision_loss, reason = "seconds of our time")]
    let since = since.timestamp() as f64;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
    let (cpu_seconds, started) = cpu_and_start(&stat).unzip();
    let number = |key: &str| number_of(&status, key);
    ProcessFigures {
        cpu_seconds,
        resident_bytes: number("VmRSS").map(|kib| kib * 1024),
        virtual_bytes: number("VmSize").map(|kib| kib * 1024),
        open_descriptors: open_descriptors(),
        most_descriptors: most_descriptors(),
        threads: number("Threads"),
        started_at: Some(started.zip(boot_time(&read("/proc/stat"))).map_or(since, |(started, boot)| boot + started)),
    }
}

/// Of /proc/self/stat: seconds of CPU so far, and from the machine's boot to the start.
fn cpu_and_start(stat: &str) -> Option<(f64, f64)> {
    // The name in parentheses may hold anything; the fields after it are numbered from 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some(((ticks(14)? + ticks(15)?) / TICKS, ticks(22)? / TICKS))
}

/// Of /proc/stat: Unix seconds.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Of /proc/self/status; memory is in KiB there.
fn number_of(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<u64> {
    // From Linux 6.2 on it is the directory's size; else they are counted, the one that counts aside.
    match std::fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some((std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

#[cfg(unix)]
fn most_descriptors() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn most_descriptors() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 12345 1000 200";
        assert_eq!(cpu_and_start(stat), Some((3.0, 123.45)));
        assert_eq!(cpu_and_start("7 (a"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(number_of("Name:\tx\nVmRSS:\t  5 kB\n", "VmRSS"), Some(5));
        assert_eq!(number_of("Name:\tx\n", "VmRSS"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_something() {
        let now = crate::clock::now();
        let cost = own_cost(now);
        let all = [cost.resident_bytes, cost.virtual_bytes, cost.open_descriptors, cost.most_descriptors, cost.threads];
        assert!(all.iter().all(|figure| figure.is_some_and(|figure| figure > 0)), "{cost:?}");
        let age = cost.started_at.map(|at| now.timestamp() as f64 - at).expect("known");
        assert!(cost.cpu_seconds.is_some() && (-2.0..86_400.0).contains(&age), "{cost:?} {age}");
    }
}
