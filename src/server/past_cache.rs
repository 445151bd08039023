//! Edge. The pasts of the hosts whose pages were looked at lately: each is read from history once for a state of its journal. Bounded, both in
//! how far is read back and in how many are held; free to be forgotten. Does not show anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::history::jobs_newest_first;
use super::host::Host;
use super::page::past::{Past, PastJob};
use crate::file_error::FileError;
use crate::id::HostName;
use crate::job::Job;
use crate::journal::read::Next;

/// Jobs that are read back at most: what takes some hundredths of a second.
const MOST_JOBS: usize = 2000;
/// And so far back at most, in days.
const MOST_DAYS: i64 = 90;
/// Hosts whose past is held. A past of 2,000 jobs takes about 300 KiB.
const MOST_HOSTS: usize = 16;
/// Jobs that are held whole.
const WHOLE: usize = 20;

/// What is held of one host.
#[derive(Debug)]
pub struct HostPast {
    pub past: Past,
    /// The newest jobs, questions aside.
    pub newest: Vec<Job>,
}

#[derive(Debug)]
struct Held {
    host: HostName,
    /// The last line that was read.
    seq: u64,
    past: Arc<HostPast>,
}

/// Pasts by host, the one that was asked for last at the end.
#[derive(Debug, Default)]
pub struct PastCache(Mutex<VecDeque<Held>>);

impl PastCache {
    /// The host's past as its journal has it now. Blocks.
    pub fn of(&self, host: &Host, now: DateTime<Utc>) -> Result<Arc<HostPast>, FileError> {
        let seq = host.slot.durable().head.seq;
        let take = |held: &mut VecDeque<Held>| {
            held.iter().position(|held| held.host == host.name).and_then(|at| held.remove(at))
        };
        let known = take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let held = match known {
            Some(held) if held.seq == seq => held,
            _ => Held { host: host.name.clone(), seq, past: Arc::new(read(host, seq, now)?) },
        };
        let past = Arc::clone(&held.past);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(take(&mut all));
        all.push_back(held);
        while all.len() > MOST_HOSTS {
            all.pop_front();
        }
        Ok(past)
    }
}

fn read(host: &Host, seq: u64, now: DateTime<Utc>) -> Result<HostPast, FileError> {
    let since = now - TimeDelta::days(MOST_DAYS);
    let (mut past, mut newest, mut count) = (Past::default(), Vec::new(), 0);
    jobs_newest_first(&host.journal_dir(), seq, |job| {
        if job.queued_at < since {
            return Next::Stop;
        }
        count += 1;
        let queued_at = job.queued_at;
        if !job.kind.is_query() {
            past.jobs.push(PastJob::of(&job));
            if newest.len() < WHOLE {
                newest.push(job);
            }
        }
        if count == MOST_JOBS {
            past.begins = Some(queued_at);
            return Next::Stop;
        }
        Next::Continue
    })?;
    Ok(HostPast { past, newest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::app::App;
    use crate::server::folded::{at, id, queued};
    use crate::server::upkeep::tests::five_months;

    #[test]
    fn a_past_is_read_once_for_each_state_of_the_journal_and_ninety_days_back() {
        let (state, _dir) = five_months();
        let app = App::open(state.path()).expect("open");
        let host = app.host(&"web-1".parse().expect("a name")).expect("there");
        let now = at("2026-11-30T00:00:00Z");
        let past = app.pasts.of(&host, now).expect("read");
        let ids: Vec<_> = past.past.jobs.iter().map(|job| job.id).collect();
        assert_eq!(ids, [id(11), id(10), id(9)], "newest first, none of July and August");
        assert_eq!((past.newest.len(), past.past.begins), (3, None));
        assert!(Arc::ptr_eq(&past, &app.pasts.of(&host, now).expect("held")));
        host.append_here(|_, _| vec![queued(id(12))]).expect("appended");
        // Whatever the clock says here, it is after that.
        let later = app.pasts.of(&host, at("2020-01-01T00:00:00Z")).expect("read again");
        assert_eq!(later.past.jobs.first().map(|job| job.id), Some(id(12)));
    }
}
