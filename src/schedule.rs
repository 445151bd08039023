//! Pure. Which due time of a schedule has to fire now, given what was decided before. Does not read a clock, sleep,
//! make jobs, or know whether the last job still runs.
//!
//! The rules:
//!
//! 1. A due instant fires at most once. What was decided is remembered by instant, never as "everything up to the
//!    last": a clock that jumped ahead, fired, and came back mutes only what really fired.
//! 2. Due instants that passed since the last look (the agent was off, the host slept, the clock jumped) fire once, as
//!    the latest of them, late. With `catch_up = false` a late one doesn't fire.
//! 3. Splay delays the firing. What is named is the due instant.
//! 4. A schedule is never due before it was first seen, and begins anew with another cron expression or zone.
//! 5. A clock that steps back by less than an hour is a correction: nothing is caught up for it. After a longer step
//!    the latest due instant before the new time fires, unless it has.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cron_time::CronExpression;
use crate::id::{HostName, ScheduleId};
use crate::protocol::schedule::Schedule;
use crate::protocol::text::Span;

/// Seconds past due plus splay from which on a fire counts as late.
const LATE_SECONDS: i64 = 60;
/// Seconds; a longer step back is a clock that was wrong before.
const CORRECTION_SECONDS: i64 = 3600;
/// Each big jump of the clock makes about one range; those farthest from the present time go first.
const RANGE_LIMIT: usize = 64;

/// A schedule, checked, with the zone and splay it has on this host.
#[derive(Debug, Clone)]
pub struct CompiledSchedule {
    pub id: ScheduleId,
    pub cron: CronExpression,
    pub zone: Tz,
    /// This host's own share of the schedule's splay.
    pub delay: Span,
    pub catch_up: bool,
    pub enabled: bool,
}

/// What to remember of a schedule. Record a fire before this is saved: a fire told twice has the same job id, one
/// that is forgotten never comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleMemory {
    /// Cron expression and zone; with others all the rest means nothing.
    rule: String,
    /// Unix seconds. When the schedule was first seen.
    since: i64,
    /// Unix seconds, less the splay's delay. When it was last looked at.
    looked: i64,
    /// Unix seconds, sorted and apart. Every due instant in (start, end] has fired.
    settled: Vec<(i64, i64)>,
}

/// A due time that fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    /// The due instant, before splay; for what was missed, the latest one.
    pub scheduled_at: DateTime<Utc>,
    /// More than a minute after its time.
    pub late: bool,
}

/// Checks a schedule as it came. The error is a sentence for whoever wrote it.
pub fn compile(schedule: &Schedule, host: &HostName, default_zone: Tz) -> Result<CompiledSchedule, String> {
    let cron = CronExpression::parse(&schedule.cron_expr).map_err(|error| error.to_string())?;
    let zone = match &schedule.timezone {
        None => default_zone,
        Some(name) => {
            name.parse().map_err(|_| format!("{name:?} is not an IANA time zone such as \"Europe/Berlin\""))?
        }
    };
    Ok(CompiledSchedule {
        cron,
        zone,
        delay: splay_of(host, &schedule.id, schedule.splay),
        catch_up: schedule.options.catch_up,
        enabled: schedule.enabled,
        id: schedule.id.clone(),
    })
}

/// The part of `splay` by which this host is later: from 0 to less than `splay`, spread evenly over hosts, and the same for
/// ever, since people learn when their host backs up.
pub fn splay_of(host: &HostName, schedule_id: &ScheduleId, splay: Span) -> Span {
    let digest = Sha256::digest(format!("{host}/{schedule_id}"));
    let hash = digest.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    Span::from_secs(hash.checked_rem(splay.as_secs()).unwrap_or(0))
}

/// When to look again if nothing changes; `now` where something is due already. Look every minute all the same: the clock
/// may jump, and the host may sleep.
pub fn next_wake(schedule: &CompiledSchedule, memory: &ScheduleMemory, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if !schedule.enabled {
        return None;
    }
    if due_now(schedule, memory, now).is_some() {
        return Some(now);
    }
    let since = if memory.rule == schedule.rule() { memory.since } else { now.timestamp() };
    let after = at(schedule.looking_at(now).max(since.min(now.timestamp())));
    schedule.cron.next_after(schedule.zone, after)?.checked_add_signed(schedule.delay_delta())
}

/// What is due now, without deciding it.
pub fn due_now(schedule: &CompiledSchedule, memory: &ScheduleMemory, now: DateTime<Utc>) -> Option<Fire> {
    decide(schedule, &mut memory.clone(), now)
}

/// What is due now, and from now on decided. The memory need only be saved after a fire, when the schedule is new, and
/// when it was switched on or off.
pub fn decide(schedule: &CompiledSchedule, memory: &mut ScheduleMemory, now: DateTime<Utc>) -> Option<Fire> {
    if memory.rule != schedule.rule() {
        *memory = ScheduleMemory::new(schedule, now);
    }
    if !schedule.enabled {
        // What passes meanwhile is not missed, and enabling it makes nothing late.
        memory.looked = schedule.looking_at(now);
        memory.since = now.timestamp();
        return None;
    }
    // First seen in the future: the clock was wrong then, and must not mute the time until there.
    memory.since = memory.since.min(now.timestamp());
    let looking_at = schedule.looking_at(now);
    let last = std::mem::replace(&mut memory.looked, looking_at);
    let after = match last - looking_at {
        ..=0 => last,
        1..CORRECTION_SECONDS => looking_at,
        _ => memory.since,
    };
    let after = after.max(memory.since);
    let latest = schedule.cron.latest_in(schedule.zone, at(after), at(looking_at)).map(|due| due.timestamp());
    let Some(due) = latest else {
        memory.settle(after, looking_at);
        return None;
    };
    if memory.is_settled(due) {
        memory.settle(due, looking_at);
        return None;
    }
    let late = looking_at - due > LATE_SECONDS;
    if late && !schedule.catch_up {
        return None;
    }
    // Instants before the latest did not fire: should the clock go back, they still may.
    let before = schedule.cron.latest_in(schedule.zone, at(after), at(due - 1));
    memory.settle(before.map_or(after, |before| before.timestamp()), looking_at);
    Some(Fire { scheduled_at: at(due), late })
}

impl ScheduleMemory {
    /// A schedule that is seen for the first time.
    pub fn new(schedule: &CompiledSchedule, now: DateTime<Utc>) -> Self {
        Self { rule: schedule.rule(), since: now.timestamp(), looked: schedule.looking_at(now), settled: Vec::new() }
    }

    fn is_settled(&self, due: i64) -> bool {
        self.settled.iter().any(|(start, end)| *start < due && due <= *end)
    }

    /// Adds (start, end], joined with the ranges that it touches.
    fn settle(&mut self, mut start: i64, mut end: i64) {
        if start >= end {
            return;
        }
        self.settled.retain(|(other_start, other_end)| {
            let touches = *other_start <= end && start <= *other_end;
            if touches {
                (start, end) = (start.min(*other_start), end.max(*other_end));
            }
            !touches
        });
        self.settled.push((start, end));
        self.settled.sort_unstable();
        if self.settled.len() > RANGE_LIMIT {
            let distance = |(start, end): (i64, i64)| (start - self.looked).abs().min((end - self.looked).abs());
            let farthest = (0..self.settled.len()).max_by_key(|index| distance(self.settled[*index]));
            farthest.map(|index| self.settled.remove(index));
        }
    }
}

impl CompiledSchedule {
    fn rule(&self) -> String {
        format!("{} {}", self.cron.as_str(), self.zone.name())
    }

    fn delay_delta(&self) -> TimeDelta {
        TimeDelta::seconds(self.delay_seconds())
    }

    fn delay_seconds(&self) -> i64 {
        i64::try_from(self.delay.as_secs()).unwrap_or(0)
    }

    /// The instant up to which due times fire now.
    fn looking_at(&self, now: DateTime<Utc>) -> i64 {
        now.timestamp() - self.delay_seconds()
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests;
