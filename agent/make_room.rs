//! Edge. Makes room where everything that waits for the server has reached its bound: progress of all jobs goes first, then log
//! lines, the oldest job's before younger ones'; never events. Says what was given up. Does not write events.

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::JobId;

use crate::core::Agent;
use crate::log_spool::{self, GiveUp};
use crate::room::{Dropped, Room};

/// So much is made free at once, in bytes: looking through many logs for every event would be slow.
const AT_ONCE: u64 = 4 * 1024 * 1024;

/// Room for `bytes` beside the reserve. False: nothing more can be given up.
pub(crate) fn for_bytes(agent: &Agent, bytes: u64) -> bool {
    give_up_until(agent, &[GiveUp::Progress, GiveUp::Lines], bytes)
}

/// Room for a job's log as far as progress stands in its way: of two logs' lines the older ones stay.
pub(crate) fn for_log(agent: &Agent) {
    give_up_until(agent, &[GiveUp::Progress], log_spool::JOB_LIMIT);
}

fn give_up_until(agent: &Agent, kinds: &[GiveUp], bytes: u64) -> bool {
    if agent.room.has(bytes) || !agent.room.may_give.get() {
        return agent.room.has(bytes);
    }
    let jobs = match log_spool::oldest_first(&agent.dir) {
        Ok(jobs) => jobs,
        Err(error) => {
            tracing::warn!("no room can be made: {}", chain(&error));
            return false;
        }
    };
    let dropped = give_up(&agent.room, &jobs, kinds, bytes.max(AT_ONCE), |job, what| {
        let given = agent.log(job).and_then(|log| match log.try_borrow_mut() {
            Ok(mut log) => log.give_up(what, clock::now()),
            // It is being written at this moment.
            Err(_) => Ok(Dropped::default()),
        });
        agent.close_log(job);
        given.unwrap_or_else(|error| {
            tracing::warn!(%job, "its log gives nothing up: {}", chain(&error));
            Dropped::default()
        })
    });
    if dropped != Dropped::default() {
        agent.note_error(&format!(
            "the spool is full: {} log lines and {} progress reports of jobs were given up for newer events",
            dropped.lines, dropped.progress
        ));
    }
    agent.room.has(bytes)
}

/// One kind after the other, of each kind the first job first, until `bytes` fit.
fn give_up(
    room: &Room,
    jobs: &[JobId],
    kinds: &[GiveUp],
    bytes: u64,
    mut of_job: impl FnMut(JobId, GiveUp) -> Dropped,
) -> Dropped {
    let mut dropped = Dropped::default();
    for what in kinds {
        for job in jobs {
            if room.has(bytes) {
                return dropped;
            }
            let given = of_job(*job, *what);
            dropped.lines += given.lines;
            dropped.progress += given.progress;
        }
    }
    if !room.has(bytes) && kinds.contains(&GiveUp::Lines) {
        room.may_give.set(false);
    }
    dropped
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod thirty_days;
