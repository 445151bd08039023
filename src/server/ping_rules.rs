//! Pure. Pings of schedules, as Healthchecks takes them: that a job has begun, and how it ended. What is to be pinged next is a
//! function of what is remembered of the schedule. Does not send.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::host_state::ScheduleMemory;
use crate::id::{JobId, ScheduleId};

/// Ends that could not be told are told for this long: after that the other side has noticed by itself.
const NEWS_FOR: TimeDelta = TimeDelta::hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Start,
    Success,
    Fail,
}

impl Stage {
    /// What goes behind the address.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Start => "/start",
            Self::Success => "",
            Self::Fail => "/fail",
        }
    }
}

/// The other side has taken a ping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingSent {
    pub schedule_id: ScheduleId,
    pub job_id: JobId,
    pub stage: Stage,
}

impl PingSent {
    pub const TYPE: &str = "ping.sent";
}

/// The newest jobs of a schedule that were told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinged {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<JobId>,
}

impl Pinged {
    /// The other side has taken it: that stage of that job is told no more.
    pub fn sent(&mut self, sent: &PingSent) {
        match sent.stage {
            Stage::Start => self.start = Some(sent.job_id),
            Stage::Success | Stage::Fail => self.end = Some(sent.job_id),
        }
    }
}

/// The next ping of a schedule. `running`: its job that runs. `adopted_at`: when the configuration was adopted; an address that was told
/// nothing yet is new, and ends from before it are none of its news.
pub fn due_ping(
    schedule_id: &ScheduleId,
    memory: Option<&ScheduleMemory>,
    running: Option<JobId>,
    adopted_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<PingSent> {
    let ping = |job_id, stage| PingSent { schedule_id: schedule_id.clone(), job_id, stage };
    let pinged = memory.map_or(Pinged::default(), |memory| memory.pinged);
    let end = memory.and_then(|memory| memory.last_end.as_ref());
    let since = adopted_at.filter(|_| pinged == Pinged::default());
    let is_news =
        |at: Option<DateTime<Utc>>| at.is_some_and(|at| now - at < NEWS_FOR && since.is_none_or(|since| at > since));
    if let Some(end) = end.filter(|end| pinged.end != Some(end.job_id) && is_news(end.at)) {
        return Some(ping(end.job_id, if end.succeeded { Stage::Success } else { Stage::Fail }));
    }
    running.filter(|job| pinged.start != Some(*job)).map(|job| ping(job, Stage::Start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::job_options::JobKind;
    use crate::server::alert_rules::LastEnd;
    use crate::server::folded::{id, noon, schedule};

    fn ended(job: u8, succeeded: bool) -> Option<LastEnd> {
        let (job_id, round, kind, incomplete, text) = (id(job), id(job), JobKind::Backup, false, None);
        Some(LastEnd { job_id, round, kind, succeeded, incomplete, text, at: Some(noon()) })
    }

    #[test]
    fn begin_and_end_are_told_once_each_and_old_ends_not_at_all() {
        let mut memory = ScheduleMemory::default();
        let mut told = Vec::new();
        let mut settle = |memory: &mut ScheduleMemory, running: Option<JobId>, now| {
            while let Some(ping) = due_ping(&schedule("x"), Some(memory), running, None, now) {
                memory.pinged.sent(&ping);
                told.push((ping.job_id, ping.stage));
            }
            std::mem::take(&mut told)
        };
        assert_eq!(settle(&mut memory, Some(id(1)), noon()), [(id(1), Stage::Start)]);
        memory.last_end = ended(1, true);
        assert_eq!(settle(&mut memory, None, noon()), [(id(1), Stage::Success)]);
        // The next one begins: the end of the one before is not told again.
        assert_eq!(settle(&mut memory, Some(id(2)), noon()), [(id(2), Stage::Start)]);
        memory.last_end = ended(2, false);
        assert_eq!(settle(&mut memory, Some(id(3)), noon()), [(id(2), Stage::Fail), (id(3), Stage::Start)]);
        memory.last_end = ended(3, false);
        assert_eq!(settle(&mut memory, None, noon() + TimeDelta::hours(30)), []);
    }

    #[test]
    fn a_new_address_is_not_told_of_what_was_before_it() {
        let mut memory = ScheduleMemory { last_end: ended(1, true), ..ScheduleMemory::default() };
        let due = |memory: &ScheduleMemory, adopted: DateTime<Utc>| {
            due_ping(&schedule("x"), Some(memory), None, Some(adopted), noon() + TimeDelta::minutes(5))
        };
        assert_eq!(due(&memory, noon() + TimeDelta::minutes(1)), None);
        assert!(due(&memory, noon() - TimeDelta::minutes(1)).is_some());
        // One that knows the schedule is told whatever was edited meanwhile.
        memory.pinged.start = Some(id(1));
        assert!(due(&memory, noon() + TimeDelta::minutes(1)).is_some());
    }
}
