//! Pure. One answer for a monitor: whether everything that should succeed has done so lately, and what has not. Only what is known to
//! have succeeded is well: a host without an agent is not, and neither is a fleet in which there is nothing to look at.
//! Does not look at whether hosts are online: a success says more.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use super::alert_rules::is_stale;
use super::host_content::HostContent;
use super::host_state::HostState;
use crate::id::{HostName, ScheduleId};
use crate::protocol::job_options::JobKind;
use crate::protocol::text::Span;

/// For backups whose schedules have no `max_age`, where nobody asks for another: once a day, with two hours for a slow one.
pub const USUAL_MAX_AGE: Span = Span::from_secs(26 * 3600);
/// Hosts that are listed at most; the counts are of all.
const LISTED_HOSTS: usize = 1000;
/// Schedules that one line names.
const NAMED: usize = 3;

/// A schedule without a success in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Late {
    pub id: ScheduleId,
    pub kind: JobKind,
    /// Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    pub max_age: Span,
}

/// A host with one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LateHost {
    pub name: HostName,
    pub enrolled: bool,
    pub schedules: Vec<Late>,
}

/// What was looked at, and what is late.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub ok: bool,
    /// Schedules that were looked at.
    pub checked: usize,
    /// Schedules that are late.
    pub late: usize,
    /// Their hosts, by name; the first thousand.
    pub hosts: Vec<LateHost>,
}

impl Status {
    /// Adds a host of the configuration. `max_age`: what was asked for, of backups; without, each schedule's own counts, of any kind.
    pub fn add(
        &mut self,
        name: &HostName,
        state: &HostState,
        content: &HostContent,
        max_age: Option<Span>,
        now: DateTime<Utc>,
    ) {
        let mut late = Vec::new();
        for schedule in content.schedules.iter().filter(|schedule| schedule.enabled) {
            let is_backup = schedule.kind == JobKind::Backup;
            let own = content.alarms.get(&schedule.id).and_then(|alarms| alarms.max_age);
            let max_age = match max_age {
                Some(asked) => is_backup.then_some(asked),
                None => own.or(is_backup.then_some(USUAL_MAX_AGE)),
            };
            let Some(max_age) = max_age else { continue };
            self.checked += 1;
            let memory = state.schedules.get(&schedule.id);
            // Revoked, it backs nothing up any more.
            if state.enrolled_at.is_none() || is_stale(max_age, memory, state, now) {
                let last_success = memory.and_then(|memory| memory.last_success);
                late.push(Late { id: schedule.id.clone(), kind: schedule.kind, last_success, max_age });
            }
        }
        self.late += late.len();
        if !late.is_empty() && self.hosts.len() < LISTED_HOSTS {
            self.hosts.push(LateHost { name: name.clone(), enrolled: state.enrolled_at.is_some(), schedules: late });
        }
        self.ok = self.late == 0 && self.checked > 0;
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let schedules = |count: usize| if count == 1 { "1 schedule".to_owned() } else { format!("{count} schedules") };
        match (self.checked, self.late) {
            (0, _) => "there is no schedule to look at, so nothing has succeeded: see GET /v1/hosts".to_owned(),
            (1, 0) => "ok: the one schedule is not late".to_owned(),
            (checked, 0) => format!("ok: none of {checked} schedules is late"),
            (checked, 1) => format!("1 of {} has not succeeded in time: {}", schedules(checked), self.first_names()),
            (checked, late) => {
                format!("{late} of {} have not succeeded in time: {}", schedules(checked), self.first_names())
            }
        }
    }

    /// The first few that are late.
    fn first_names(&self) -> String {
        let all = self
            .hosts
            .iter()
            .flat_map(|host| host.schedules.iter().map(|late| format!("{} of {}", late.id, host.name)));
        let mut names = all.take(NAMED).collect::<Vec<_>>().join(", ");
        if self.late > NAMED {
            let _ = write!(names, " and {} more", self.late - NAMED);
        }
        names
    }

    /// For people: the summary, and a table of what is late.
    pub fn text(&self, now: DateTime<Utc>) -> String {
        let mut rows = vec![["HOST", "SCHEDULE", "KIND", "LAST SUCCESS", "AGO", "LIMIT"].map(str::to_owned)];
        for host in &self.hosts {
            rows.extend(host.schedules.iter().map(|late| {
                let at = late.last_success.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
                let at = at.unwrap_or_else(|| if host.enrolled { "never" } else { "never: no agent" }.to_owned());
                let ago = late.last_success.map_or("-".to_owned(), |at| ago(now - at));
                let (name, id) = (host.name.to_string(), late.id.to_string());
                [name, id, late.kind.to_string(), at, ago, late.max_age.to_string()]
            }));
        }
        let mut text = self.summary() + "\n";
        if rows.len() > 1 {
            let widths: Vec<usize> =
                (0..6).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
            for row in &rows {
                let cells: Vec<String> =
                    row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}", cells.join("  ").trim_end());
            }
        }
        text
    }
}

/// In days and hours, or hours and minutes.
fn ago(time: TimeDelta) -> String {
    let minutes = time.num_minutes().max(0);
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::server::alert_rules::Alarms;
    use crate::server::folded::{Folded, content, enrolled, host, noon, schedule};

    fn of(state: &HostState, content: &HostContent, max_age: Option<u64>, hours: i64) -> Status {
        let mut status = Status::default();
        let now = noon() + TimeDelta::hours(hours);
        status.add(&host(), state, content, max_age.map(|hours| Span::from_secs(hours * 3600)), now);
        status
    }

    fn late(status: &Status) -> Vec<&str> {
        status.hosts.iter().flat_map(|host| &host.schedules).map(|late| late.id.as_str()).collect()
    }

    #[test]
    fn backups_are_late_after_their_time_and_other_kinds_only_by_a_limit_of_their_own() {
        let mut state = enrolled().state;
        let plain = content();
        let fresh = of(&state, &plain, None, 26);
        assert_eq!((fresh.ok, fresh.checked, fresh.late), (true, 2, 0), "enrolled at noon; `idle` is disabled");
        state.schedules.entry(schedule("thin")).or_default().last_success = Some(noon() + TimeDelta::hours(2));
        assert_eq!(late(&of(&state, &plain, None, 27)), ["system"]);
        assert_eq!(late(&of(&state, &plain, Some(1), 2)), ["system"], "the asker's own limit");
        assert_eq!(late(&of(&state, &plain, Some(1000), 27)), [""; 0]);
        let alarms = |id: &str, hours: u64| {
            (schedule(id), Alarms { max_age: Some(Span::from_secs(hours * 3600)), ..Alarms::default() })
        };
        let limits = HostContent { alarms: BTreeMap::from([alarms("tidy", 30), alarms("system", 90)]).into(), ..plain };
        assert_eq!(late(&of(&state, &limits, None, 29)), ["thin"], "its own limit is longer");
        assert_eq!(late(&of(&state, &limits, None, 31)), ["thin", "tidy"]);
        assert_eq!(late(&of(&state, &limits, Some(26), 31)), ["system", "thin"]);
    }

    #[test]
    fn without_an_agent_or_without_a_schedule_nothing_is_well() {
        let never = of(&Folded::default().state, &content(), Some(1_000_000), 0);
        assert_eq!((never.ok, never.late, never.hosts[0].enrolled), (false, 2, false));
        let text = never.text(noon());
        assert!(text.contains("web-1  system    backup  never: no agent  -"), "{text}");
        let nothing = of(&enrolled().state, &HostContent { schedules: [].into(), ..content() }, None, 0);
        assert!(!nothing.ok && nothing.summary().starts_with("there is no schedule"));
    }

    #[test]
    fn it_is_told_to_people_and_to_programs() {
        let mut state = enrolled().state;
        state.schedules.entry(schedule("system")).or_default().last_success = Some(noon());
        let status = of(&state, &content(), Some(26), 50);
        assert_eq!(
            status.text(noon() + TimeDelta::hours(50)),
            "2 of 2 schedules have not succeeded in time: system of web-1, thin of web-1\n\
             HOST   SCHEDULE  KIND    LAST SUCCESS          AGO    LIMIT\n\
             web-1  system    backup  2026-11-23T12:00:00Z  2d 2h  1d 2h\n\
             web-1  thin      backup  never                 -      1d 2h\n"
        );
        assert_eq!(
            serde_json::to_value(&status).expect("JSON"),
            json!({"ok": false, "checked": 2, "late": 2, "hosts": [{"name": "web-1", "enrolled": true, "schedules": [
                {"id": "system", "kind": "backup", "last_success": "2026-11-23T12:00:00Z", "max_age": "1d 2h"},
                {"id": "thin", "kind": "backup", "max_age": "1d 2h"},
            ]}]})
        );
        assert_eq!(of(&state, &content(), None, 1).summary(), "ok: none of 2 schedules is late");
        assert_eq!(ago(TimeDelta::minutes(61)), "1h 1m");
    }
}
