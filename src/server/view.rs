//! Pure. What operators see of hosts and jobs: the JSON objects of protocol.md. Absent means unknown.
//! Does not read anything: the folded state, the content and the time are arguments.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::alert::alert_view;
use super::alert_rules::is_stale;
use super::events_in::SnapshotsFile;
use super::host_content::HostContent;
use super::host_state::HostState;
use crate::cron_time::CronExpression;
use crate::id::HostName;
use crate::job::{Job, JobStatus};
use crate::protocol::agent_event::JobProgress;
use crate::protocol::schedule::Schedule;

/// What is known of a host beside its journal.
#[derive(Debug, Clone, Default)]
pub struct Contact {
    pub last_seen: Option<DateTime<Utc>>,
    pub clock_skew_ms: Option<i64>,
    /// Seconds that its last poll asked to wait.
    pub poll_wait_secs: u64,
    /// From when on its silence counts, by `silence`; `None`: since it was heard.
    pub silent_since: Option<DateTime<Utc>>,
}

impl Contact {
    /// protocol.md "offline": max(90 s, 2 x wait + 30 s) without any request while a server was there to hear it.
    fn patience(&self) -> TimeDelta {
        TimeDelta::seconds(i64::try_from(90.max(2 * self.poll_wait_secs + 30)).unwrap_or(i64::MAX / 2000))
    }

    /// Until when the agent counts as online if it stays silent; `None`: it does not.
    pub fn online_until(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let until = self.silent_since.or(self.last_seen)? + self.patience();
        (self.last_seen.is_some() && now <= until).then_some(until)
    }
}

/// Whether the agent was heard lately.
pub fn is_online(contact: &Contact, now: DateTime<Utc>) -> bool {
    contact.online_until(now).is_some()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The host object.
pub fn host_view(
    name: &HostName,
    state: &HostState,
    content: Option<&HostContent>,
    contact: &Contact,
    now: DateTime<Utc>,
) -> Value {
    let hello = state.hello.as_ref();
    let of_status = |status: JobStatus| -> Vec<String> {
        let mut jobs: Vec<&Job> = state.jobs.values().filter(|job| job.status == status).collect();
        jobs.sort_by_key(|job| job.queued_seq);
        jobs.iter().map(|job| job.id.to_string()).collect()
    };
    let zone = hello.and_then(|h| h.timezone.as_deref());
    let schedules = content.map_or(&[][..], |c| &c.schedules);
    let schedules: Vec<Value> = schedules
        .iter()
        .map(|schedule| {
            let memory = state.schedules.get(&schedule.id);
            let last_success = memory.and_then(|m| m.last_success);
            let max_age = content.and_then(|c| c.alarms.get(&schedule.id)?.max_age);
            json!({
                "id": schedule.id,
                "kind": schedule.kind,
                "last_success": last_success,
                "last_status": memory.and_then(|m| m.last_status),
                "next_fire": next_fire(schedule, zone, now),
                "stale": max_age.map(|age| is_stale(age, memory, state, now)),
            })
        })
        .collect();
    without_nulls(json!({
        "name": name,
        "online": state.enrolled_at.is_some() && is_online(contact, now),
        "last_seen": contact.last_seen,
        "enrolled": state.enrolled_at.is_some(),
        "configured": content.is_some_and(|c| c.configured),
        "agent_version": hello.map(|h| &h.agent_version),
        "agent_update": hello.and_then(|h| content?.update_of(&h.agent_version)),
        "restic_version": hello.and_then(|h| h.restic_version.as_ref()),
        "os": hello.map(|h| h.os),
        "arch": hello.map(|h| h.arch),
        "clock_skew_ms": contact.clock_skew_ms,
        "conflict": state.is_in_conflict(now).then_some(true),
        "fingerprint_changed": state.is_another_machine().then_some(true),
        "schedule": schedule_versions(state, content),
        "config": {
            "wanted": state.config_wanted.as_ref().map(|w| w.version),
            "applied": (state.config_applied > 0).then_some(state.config_applied),
        },
        "running": of_status(JobStatus::Running),
        "queued": of_status(JobStatus::Queued),
        "schedules": schedules,
        "repository": repository_view(state, content),
        "alerts": state.alerts.iter().map(|alert| alert_view(Some(name), alert)).collect::<Vec<_>>(),
    }))
}

/// Which repository the host has, and what its agent said of that one, and when. `None`: nothing is known.
fn repository_view(state: &HostState, content: Option<&HostContent>) -> Option<Value> {
    let is_of_it = content.is_none_or(|content| content.has_still(state.repository_told_of.as_ref()));
    // A struct of numbers and text always has a JSON form.
    let told = state.repository.as_ref().filter(|_| is_of_it);
    let mut view = told.map_or_else(|| json!({}), |stats| serde_json::to_value(stats).unwrap_or_default());
    if let Some(at) = state.repository_as_of.filter(|_| is_of_it) {
        view["as_of"] = json!(at);
    }
    if let Some(name) = content.and_then(|content| content.repository.as_ref()) {
        view["name"] = json!(name);
    }
    view.as_object().is_some_and(|view| !view.is_empty()).then_some(view)
}

/// The host's snapshots by the last report, newest first, with the repository and when that was. Empty, with words, where the report
/// is of another repository than the host has now.
pub fn snapshots_view(content: Option<&HostContent>, file: Option<SnapshotsFile>) -> Value {
    let name = content.and_then(|content| content.repository.as_ref());
    let told_of = file.as_ref().and_then(|file| file.repository.clone());
    let is_of_it = content.is_none_or(|content| content.has_still(told_of.as_ref()));
    let reported_at = file.as_ref().and_then(|file| file.reported_at);
    let mut list = file.filter(|_| is_of_it).map(|file| file.snapshots).unwrap_or_default();
    list.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.time));
    let list = list.iter().map(|snapshot| serde_json::to_value(snapshot).unwrap_or_default()).collect();
    let mut view = page("snapshots", list, None);
    if let Some(name) = name {
        view["repository"] = json!(name);
    }
    if let Some(at) = reported_at.filter(|_| is_of_it) {
        view["reported_at"] = json!(at);
    }
    if let (false, Some(told_of)) = (is_of_it, told_of) {
        view["note"] = json!(format!(
            "the agent's last report is of repository {} as it was before the host's configuration changed: the next one, or a request with refresh=1, is of the present one",
            told_of.name
        ));
    }
    view
}

/// The versions of the schedule set, and the commits that they come from: where the two differ, the host has not caught up.
fn schedule_versions(state: &HostState, content: Option<&HostContent>) -> Value {
    let wanted = state.schedule_wanted.as_ref();
    // What is wanted may be older than the configuration that runs, which says the same of this host.
    let running = content.filter(|content| wanted.is_some_and(|wanted| wanted.hash == content.schedule_hash));
    let (commit, dirty) = match running {
        Some(content) => (content.commit.as_ref(), content.dirty),
        None => (wanted.and_then(|wanted| wanted.commit.as_ref()), wanted.and_then(|wanted| wanted.dirty)),
    };
    let applied = (state.schedule_applied > 0).then_some(state.schedule_applied);
    let is_caught_up = wanted.is_some_and(|wanted| Some(wanted.version) == applied);
    json!({
        "wanted": wanted.map(|wanted| wanted.version),
        "applied": applied,
        "commit": commit,
        "dirty": dirty,
        "applied_commit": if is_caught_up { commit } else { state.schedule_applied_commit.as_ref() },
    })
}

/// The next due instant of an enabled schedule, before splay. `None` also where its zone is the host's own and unknown yet.
pub fn next_fire(schedule: &Schedule, host_zone: Option<&str>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if !schedule.enabled {
        return None;
    }
    let zone: chrono_tz::Tz = schedule.timezone.as_deref().or(host_zone)?.parse().ok()?;
    CronExpression::parse(&schedule.cron_expr).ok()?.next_after(zone, now)
}

/// The effective schedule set, with the next fire times.
pub fn schedules_view(state: &HostState, content: Option<&HostContent>, now: DateTime<Utc>) -> Value {
    let zone = state.hello.as_ref().and_then(|h| h.timezone.as_deref());
    let schedules = content.map_or(&[][..], |c| &c.schedules);
    let list: Vec<Value> = schedules
        .iter()
        .map(|schedule| {
            // A struct of text, numbers and lists always has a JSON form.
            let mut object = serde_json::to_value(schedule).unwrap_or_default();
            if let (Some(map), Some(at)) = (object.as_object_mut(), next_fire(schedule, zone, now)) {
                map.insert("next_fire".to_owned(), json!(at));
            }
            object
        })
        .collect();
    json!({
        "version": state.schedule_wanted.as_ref().map_or(0, |w| w.version),
        "applied": state.schedule_applied,
        "schedules": list,
    })
}

/// The job object. `waiting_for`: what keeps it from being dispatched.
pub fn job_view(
    host: &HostName,
    job: &Job,
    progress: Option<&JobProgress>,
    in_contact: bool,
    waiting_for: Option<String>,
) -> Value {
    let contact = (!job.status.is_final()).then_some(if in_contact { "live" } else { "lost" });
    let mut view = without_nulls(json!({
        "id": job.id,
        "host": host,
        "kind": job.kind,
        "status": job.status,
        "incomplete": job.incomplete,
        "warnings": job.warnings,
        "actor": job.actor,
        "schedule_id": job.schedule_id,
        "scheduled_at": job.scheduled_at,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "exit_code": job.exit_code,
        "error": job.error,
        "waiting_for": waiting_for.filter(|_| job.is_undispatched()),
        "cancel_requested": (job.cancel_seq.is_some() && !job.status.is_final()).then_some(true),
        "offline": job.offline,
        "contact": contact,
        "progress": progress.filter(|_| job.status == JobStatus::Running),
        "stats": job.stats,
    }));
    // Not every restic says so of every kind.
    if let (Some(stats), Some(true)) = (view.get_mut("stats"), job.options.get("dry_run").and_then(Value::as_bool)) {
        stats["dry_run"] = true.into();
    }
    if let (Some(map), false) = (view.as_object_mut(), job.options.is_null()) {
        map.insert("options".to_owned(), job.options.clone());
    }
    view
}

/// A page of a list: `{"<name>": [...], "next": cursor or null}`.
pub fn page(name: &str, items: Vec<Value>, next: Option<String>) -> Value {
    let mut map = Map::new();
    map.insert(name.to_owned(), Value::Array(items));
    map.insert("next".to_owned(), next.map_or(Value::Null, Value::String));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::*;
    use crate::server::versions::decide_versions;

    #[test]
    fn where_the_applied_version_comes_from_another_commit_that_is_seen() {
        let of = |hash: &str, commit: &str| HostContent {
            schedule_hash: hash.to_owned(),
            commit: Some(commit.to_owned()),
            ..content()
        };
        let ack =
            |version: u64| event("schedule.ack", &json!({"version": version, "applied_at": "2026-11-23T12:00:05Z"}));
        let mut folded = Folded::default();
        let shown =
            |folded: &Folded, content: &HostContent| without_nulls(schedule_versions(&folded.state, Some(content)));
        let (one, two) = (of("a", "c1"), of("b", "c2"));
        folded.add(decide_versions(&folded.state, &one));
        assert_eq!(shown(&folded, &one), json!({"wanted": 1, "commit": "c1", "dirty": false}));
        folded.add([ack(1)]);
        let other = of("a", "c9");
        assert_eq!(
            shown(&folded, &other),
            json!({"wanted": 1, "applied": 1, "commit": "c9", "dirty": false, "applied_commit": "c9"}),
            "another commit says the same of this host"
        );
        folded.add(decide_versions(&folded.state, &two));
        let drifted = json!({"wanted": 2, "applied": 1, "commit": "c2", "dirty": false, "applied_commit": "c1"});
        assert_eq!(shown(&folded, &two), drifted);
        assert_eq!(shown(&folded, &one)["commit"], "c2", "what is wanted is not what this server runs");
        folded.add([ack(2)]);
        assert_eq!(shown(&folded, &two)["applied_commit"], "c2");
    }

    #[test]
    fn what_was_told_of_another_repository_is_not_shown_as_the_present_ones() {
        let of = |name: &str, url: &str, hash: &str| HostContent {
            repository: Some(name.parse().expect("a name")),
            config: crate::protocol::command::ConfigUpdate { repo_url: Some(url.to_owned()), ..Default::default() }
                .into(),
            config_hash: hash.to_owned(),
            ..content()
        };
        let ack =
            |version: u64| event("config.ack", &json!({"version": version, "applied_at": "2026-11-23T12:00:05Z"}));
        let stats = || event("repo.stats", &json!({"size_bytes": 5, "snapshot_count": 1, "lock_state": "unlocked"}));
        let (one, two, moved) = (of("a", "/srv/a", "1"), of("b", "/srv/b", "2"), of("b", "/srv/c", "3"));
        let mut folded = Folded::default();
        folded.add(decide_versions(&folded.state, &one));
        folded.add([ack(1), stats()]);
        let whole = json!({"name": "a", "as_of": "2026-11-23T12:00:03Z", "size_bytes": 5, "snapshot_count": 1, "lock_state": "unlocked"});
        assert_eq!(repository_view(&folded.state, Some(&one)), Some(whole));
        let file = |state: &HostState| {
            let snapshot =
                json!({"id": "a", "short_id": "a", "time": noon(), "hostname": "h", "paths": [], "tags": []});
            let mut file = json!({"report_id": "00000000-0000-4000-8000-000000000001", "pages": 1, "have": 1,
                "reported_at": noon(), "snapshots": [snapshot]});
            file["repository"] = json!(state.config_applied_repository);
            serde_json::from_value::<SnapshotsFile>(file).expect("a file")
        };
        let reported = file(&folded.state);
        let list = snapshots_view(Some(&one), Some(reported.clone()));
        assert_eq!((&list["repository"], &list["reported_at"]), (&json!("a"), &json!(noon())));
        assert_eq!((list["snapshots"].as_array().map(Vec::len), list.get("note")), (Some(1), None));
        folded.add(decide_versions(&folded.state, &two));
        // The agent has not applied it yet: what it says is still of the first one.
        folded.add([stats()]);
        for content in [&two, &moved] {
            assert_eq!(repository_view(&folded.state, Some(content)), Some(json!({"name": "b"})));
            let list = snapshots_view(Some(content), Some(reported.clone()));
            assert_eq!(
                (&list["repository"], &list["snapshots"], list.get("reported_at")),
                (&json!("b"), &json!([]), None)
            );
            assert!(list["note"].as_str().is_some_and(|note| note.contains("repository a ")), "{list}");
        }
        folded.add([ack(2), stats()]);
        assert_eq!(repository_view(&folded.state, Some(&two)).expect("known")["size_bytes"], 5);
        assert_eq!(repository_view(&folded.state, Some(&moved)), Some(json!({"name": "b"})), "the same name elsewhere");
        let list = snapshots_view(Some(&two), Some(file(&folded.state)));
        assert_eq!(list["snapshots"].as_array().map(Vec::len), Some(1));
        // Of a server before all this was kept.
        let old = SnapshotsFile { repository: None, reported_at: None, ..reported };
        assert_eq!(snapshots_view(Some(&two), Some(old))["snapshots"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_previews_stats_say_that_it_was_one_whatever_restic_says() {
        let options = json!({"schedule": "system", "retention_policy": {"keep_last": 1}, "dry_run": true});
        let queued =
            json!({"job_id": id::<crate::id::JobId>(1), "kind": "forget", "options": options, "actor": operator()});
        let mut folded =
            Folded::of([crate::server::fact::Fact::JobQueued(serde_json::from_value(queued).expect("a job"))]);
        let end = json!({"job_id": id::<crate::id::JobId>(1), "status": "succeeded", "finished_at": noon(), "stats": {"kept": []}});
        folded.add([event("job.finished", &end)]);
        let view = job_view(&host(), folded.state.job(id(1)).expect("the job"), None, true, None);
        assert_eq!(view["stats"], json!({"kept": [], "dry_run": true}));
    }

    #[test]
    fn silence_counts_by_the_agents_own_wait_and_from_where_it_is_said_to_begin() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("an instant");
        let contact = |last_seen, poll_wait_secs, silent_since| Contact {
            last_seen,
            poll_wait_secs,
            silent_since,
            clock_skew_ms: None,
        };
        let seen = Some(at("2026-01-01T00:00:00Z"));
        assert!(!is_online(&contact(None, 30, None), at("2026-01-01T00:00:00Z")));
        assert!(is_online(&contact(seen, 30, None), at("2026-01-01T00:01:30Z")));
        assert!(!is_online(&contact(seen, 30, None), at("2026-01-01T00:01:31Z")));
        assert!(is_online(&contact(seen, 300, None), at("2026-01-01T00:10:30Z")));
        let since = Some(at("2026-01-01T01:00:00Z"));
        assert!(is_online(&contact(seen, 30, since), at("2026-01-01T01:01:30Z")));
        assert!(!is_online(&contact(seen, 30, since), at("2026-01-01T01:01:31Z")));
        assert!(!is_online(&contact(None, 30, since), at("2026-01-01T01:00:01Z")), "it was never heard");
    }
}
