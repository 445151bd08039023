//! Edge. Makes the index of jobs complete: at once where it is missing or a request misses it, and now and then for the hints that
//! a crash lost. One server at a time, off the reactor, a host at a time with pauses. Does not look for jobs: `find_job` does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use super::app::{App, blocking, stopped};
use super::history;
use super::job_index::{Hint, JobIndex, Made};
use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};

/// The first look after the start, where there is an index.
const FIRST_AFTER: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(3600);
/// The shortest time between two looks, beside four times as long as the last one took: where it cannot be made complete,
/// requests that miss it do not keep the disk busy.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two hosts.
const PAUSE: Duration = Duration::from_millis(2);
/// Of several servers the clocks are not the same.
const SLACK_SECS: i64 = 120;
/// Jobs that are collected before the index is looked at.
const COLLECTED_JOBS: usize = 50_000;

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    let index = JobIndex::of(&app.state_dir.path);
    let is_there = blocking(move || index.complete_since().is_some()).await;
    let mut next = if is_there { FIRST_AFTER } else { Duration::ZERO };
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = app.index_wanted.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
        next = EVERY;
        let (worker, begun) = (Arc::clone(&app), Instant::now());
        match blocking(move || complete_once(&worker)).await {
            Ok(Some(())) => tracing::debug!("the index of jobs is complete"),
            Ok(None) => tracing::debug!("the index of jobs is complete another time, or by another server"),
            Err(error) => tracing::warn!("the index of jobs was not made complete: {}", chain(&error)),
        }
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(SHORTEST_PAUSE.max(begun.elapsed() * 4)) => {}
        }
    }
}

/// One look; `None`: another server is at it, this one stops, or a hint was lost meanwhile. Blocks.
pub fn complete_once(app: &App) -> Result<Option<()>, FileError> {
    let path = app.state_dir.path.join(".jobs.lock");
    let Some(_lock) = atomic_file::try_lock(&path)? else { return Ok(None) };
    complete_index(app, clock::now())
}

/// Adds the hints that a crash lost, or all where the index is new: reads what was written since the last time.
fn complete_index(app: &App, now: DateTime<Utc>) -> Result<Option<()>, FileError> {
    let index = JobIndex::of(&app.state_dir.path);
    index.begin_completing(now)?;
    let since = index.looked_until().map(|at| at - TimeDelta::seconds(SLACK_SECS));
    let mut made = Vec::new();
    // Not only those that this server knows: the mark is every server's.
    for host in app.state_dir.hosts()? {
        if *app.stopping.borrow() {
            return Ok(None);
        }
        let mut failed = None;
        // By the times of the lines, which only grow in a journal: what an hour added is all that an hourly look reads.
        history::jobs_made(&app.state_dir.host_dir(&host).join("journal"), since, |id, seq, year| {
            made.push(Made { id, hint: Hint { host: host.to_string(), seq }, year });
            if made.len() >= COLLECTED_JOBS && failed.is_none() {
                failed = index.add_missing(std::mem::take(&mut made)).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        std::thread::sleep(PAUSE);
    }
    index.add_missing(made)?;
    index.forget_before(app.keep_rules().delete_before(now).year())?;
    Ok(index.end_completing()?.then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::find_job::find_job;
    use crate::server::folded::id;
    use crate::server::upkeep::tests::five_months;

    #[tokio::test(flavor = "multi_thread")]
    async fn where_there_is_no_index_it_is_made_at_once_and_again_when_a_request_misses_it() {
        let (state, _dir) = five_months();
        let app = App::open(state.path()).expect("open");
        let index = JobIndex::of(state.path());
        let complete = async || {
            while !index.is_complete(app.outage.ready_at) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let running = tokio::spawn(run(Arc::clone(&app)));
        tokio::time::timeout(FIRST_AFTER / 2, complete()).await.expect("at once after the start");
        std::fs::remove_dir_all(state.path().join("jobs")).expect("delete");
        let finder = Arc::clone(&app);
        let found = blocking(move || find_job(&finder, id(7))).await;
        assert!(found.expect("read").is_some());
        tokio::time::timeout(SHORTEST_PAUSE + FIRST_AFTER, complete()).await.expect("long before the hour is over");
        app.stopping.send_replace(true);
        running.await.expect("it ends");
    }
}
