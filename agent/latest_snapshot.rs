//! Pure. Which of a host's snapshots "latest" is, when something is to be restored: each schedule has a newest of its own, and one of them
//! alone is not the host. Does not ask restic, and does not judge.

use std::collections::BTreeMap;

use restic_manager::id::ScheduleId;
use restic_manager::protocol::agent_event::Snapshot;

/// What was chosen, and the newest snapshots of other schedules that hold what it does not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Latest<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) beside: Vec<&'a Snapshot>,
}

/// The newest of the schedule, if one is named; else the newest that holds all of the wanted paths, as `ls` shows paths; else the newest.
pub(crate) fn latest<'a>(
    own: &'a [Snapshot],
    schedule: Option<&ScheduleId>,
    wanted: &[String],
) -> Result<Latest<'a>, String> {
    let newest = |filter: &dyn Fn(&Snapshot) -> bool| {
        own.iter().filter(|snapshot| filter(snapshot)).max_by_key(|snapshot| snapshot.time)
    };
    if let Some(schedule) = schedule {
        let found = newest(&|snapshot| schedule_of(snapshot) == Some(schedule.as_str()));
        let found = found.ok_or_else(|| format!("this host has no snapshot of schedule {:?}", schedule.as_str()))?;
        return Ok(Latest { snapshot: found, beside: Vec::new() });
    }
    let holds_wanted = |snapshot: &Snapshot| wanted.iter().all(|path| holds(snapshot, path));
    let found = if wanted.is_empty() { None } else { newest(&holds_wanted) };
    let any = || newest(&|_| true).ok_or_else(|| "this host has no snapshot".to_owned());
    let snapshot = found.map_or_else(any, Ok)?;
    if found.is_some() {
        return Ok(Latest { snapshot, beside: Vec::new() });
    }
    let mut of_schedules: BTreeMap<Option<&str>, &Snapshot> = BTreeMap::new();
    for other in own {
        let newest = of_schedules.entry(schedule_of(other)).or_insert(other);
        if other.time > newest.time {
            *newest = other;
        }
    }
    let holds_more = |other: &&Snapshot| other.paths.iter().any(|path| !holds(snapshot, &in_snapshot(path)));
    Ok(Latest { snapshot, beside: of_schedules.into_values().filter(holds_more).collect() })
}

/// A snapshot for people.
pub(crate) fn described(snapshot: &Snapshot) -> String {
    let of = schedule_of(snapshot).map_or_else(|| "no schedule".to_owned(), |id| format!("schedule {id:?}"));
    let time = snapshot.time.format("%Y-%m-%dT%H:%M:%SZ");
    format!("{} of {of} ({time}: {})", snapshot.short_id, snapshot.paths.join(", "))
}

fn schedule_of(snapshot: &Snapshot) -> Option<&str> {
    snapshot.tags.iter().find_map(|tag| tag.strip_prefix("schedule:"))
}

/// Whether this path, as `ls` shows it, is one of the snapshot's or below one.
fn holds(snapshot: &Snapshot, path: &str) -> bool {
    snapshot.paths.iter().map(|held| in_snapshot(held)).any(|held| {
        let held = held.trim_end_matches('/');
        path.strip_prefix(held).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A host's path as snapshots have it: with '/' on every system, and a folder for each drive.
pub(crate) fn in_snapshot(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{}", path.replacen(':', "", 1).replace('\\', "/")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta};

    fn snapshot(minute: i64, schedule: Option<&str>, paths: &[&str]) -> Snapshot {
        Snapshot {
            id: format!("{minute:064x}"),
            short_id: format!("{minute:08x}"),
            time: DateTime::UNIX_EPOCH + TimeDelta::minutes(minute),
            hostname: "web-1".to_owned(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            tags: schedule.map(|id| format!("schedule:{id}")).into_iter().collect(),
            size_bytes: None,
            file_count: None,
        }
    }

    fn chosen(own: &[Snapshot], schedule: Option<&str>, wanted: &[&str]) -> Result<(i64, usize), String> {
        let schedule = schedule.map(|id| id.parse::<ScheduleId>().expect("an id"));
        let wanted: Vec<String> = wanted.iter().map(|path| (*path).to_owned()).collect();
        latest(own, schedule.as_ref(), &wanted)
            .map(|latest| (latest.snapshot.time.timestamp() / 60, latest.beside.len()))
    }

    #[test]
    fn the_latest_of_one_schedule_is_not_the_host_and_what_else_there_is_gets_told() {
        let own = [
            snapshot(1, Some("system"), &["/etc", "/srv"]),
            snapshot(2, Some("system"), &["/etc", "/srv"]),
            snapshot(3, Some("db"), &["/var/lib/db"]),
            snapshot(4, None, &["/srv/part"]),
        ];
        assert_eq!(chosen(&own, None, &[]), Ok((4, 2)), "nothing of the system, nothing of the database");
        assert_eq!(chosen(&own[..2], None, &[]), Ok((2, 0)));
        assert_eq!(chosen(&own, Some("system"), &[]), Ok((2, 0)));
        assert!(chosen(&own, Some("nosuch"), &[]).is_err_and(|text| text.contains("nosuch")));
        assert!(chosen(&[], None, &[]).is_err());
    }

    #[test]
    fn the_latest_is_the_newest_that_holds_what_is_wanted() {
        let own = [
            snapshot(1, Some("system"), &["/etc"]),
            snapshot(2, Some("db"), &["/etcetera"]),
            snapshot(3, Some("win"), &["C:\\Users"]),
        ];
        assert_eq!(chosen(&own, None, &["/etc/fstab"]), Ok((1, 0)));
        assert_eq!(chosen(&own, None, &["/C/Users/x"]), Ok((3, 0)));
        assert_eq!(chosen(&own, None, &["/etc/fstab", "/etcetera/x"]), Ok((3, 2)), "no one snapshot has both");
        assert_eq!(chosen(&[snapshot(5, None, &["/"])], None, &["/etc"]), Ok((5, 0)));
    }
}
