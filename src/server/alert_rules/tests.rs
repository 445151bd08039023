//! Alerts are raised once, while their cause lasts, and resolved by themselves.

use serde_json::json;

use super::*;
use crate::server::folded::*;

fn with_alarms(alarms: Alarms) -> HostContent {
    let all = content().schedules.iter().map(|schedule| (schedule.id.clone(), alarms)).collect();
    HostContent { alarms: std::sync::Arc::new(all), ..content() }
}

/// Decides on the state as it is, takes the facts in, and tells them by type and kind.
fn settle(folded: &mut Folded, content: &HostContent, silence: Option<TimeDelta>) -> Vec<String> {
    let now = folded.head.at.expect("a line");
    let facts = decide_alerts(&host(), &folded.state, Some(content), Moment { silence, ..Moment::heard(now) });
    let told = facts.iter().map(|fact| match fact {
        Fact::AlertRaised(raised) => format!("+{}", json!(raised.kind).as_str().expect("text")),
        Fact::AlertUpdated(updated) => format!("~{}", json!(updated.kind).as_str().expect("text")),
        Fact::AlertResolved(resolved) => format!("-{}", json!(resolved.kind).as_str().expect("text")),
        other => unreachable!("no alert: {other:?}"),
    });
    let told = told.collect();
    folded.add(facts);
    let again = decide_alerts(&host(), &folded.state, Some(content), Moment { silence, ..Moment::heard(now) });
    assert_eq!(again, [], "once");
    told
}

/// A job of the schedule `system`, from its beginning to this end.
fn run(folded: &mut Folded, number: u8, end: &serde_json::Value) {
    let job: JobId = id(number);
    let queued = json!({"job_id": job, "kind": "backup", "options": {}, "schedule_id": "system",
        "actor": {"kind": "schedule", "name": "system"}, "scheduled_at": noon()});
    folded.add([Fact::JobQueued(serde_json::from_value(queued).expect("a job")), started(job)]);
    let mut payload = json!({"job_id": job, "finished_at": noon(), "exit_code": 0});
    payload.as_object_mut().expect("an object").extend(end.as_object().expect("an object").clone());
    folded.add([event("job.finished", &payload)]);
}

fn sized(files: u64, bytes: u64, changed: u64) -> serde_json::Value {
    json!({"status": "succeeded", "stats": {"total_files_processed": files, "total_bytes_processed": bytes,
        "files_new": changed, "files_changed": 0}})
}

#[test]
fn a_failed_backup_is_told_once_and_resolved_by_the_next_success() {
    let (mut folded, content) = (enrolled(), with_alarms(Alarms::default()));
    run(&mut folded, 1, &json!({"status": "failed", "error": "no space"}));
    assert_eq!(settle(&mut folded, &content, None), ["+backup_failed"]);
    let open = folded.state.alerts.iter().next().expect("open").clone();
    assert_eq!((open.text.as_str(), open.job_id), ("no space", Some(id(1))));
    folded.add([Fact::AlertAcknowledged(crate::server::alert::AlertAcknowledged {
        alert_id: open.id,
        by: "alice".to_owned(),
    })]);
    assert_eq!(
        folded.state.alerts.get(open.id).and_then(|alert| alert.acknowledged_by.clone()).as_deref(),
        Some("alice")
    );
    run(&mut folded, 2, &json!({"status": "failed", "error": "no space"}));
    run(&mut folded, 3, &json!({"status": "cancelled"}));
    assert_eq!(settle(&mut folded, &content, None), [""; 0], "it is open already, and a cancel tells nothing");
    run(
        &mut folded,
        4,
        &json!({"status": "succeeded", "incomplete": true, "warnings": ["/x: denied"], "exit_code": 3}),
    );
    assert_eq!(settle(&mut folded, &content, None), ["-backup_failed", "+backup_incomplete"]);
    run(&mut folded, 5, &json!({"status": "succeeded"}));
    assert_eq!(settle(&mut folded, &content, None), ["-backup_incomplete"]);
}

#[test]
fn of_several_jobs_of_one_round_a_failure_is_not_undone_by_another_ones_success() {
    let (mut folded, content) = (enrolled(), with_alarms(Alarms::default()));
    let round = |folded: &mut Folded, first: u8, ends: [&str; 3]| -> Vec<String> {
        let jobs = [first + 2, first + 1, first];
        for number in jobs {
            let queued = json!({"job_id": id::<JobId>(number), "kind": "check", "schedule_id": "tidy",
                "options": {"repository": format!("main/web-{number}")}, "scheduled_at": noon(),
                "part_of": (number != first).then(|| id::<JobId>(first)),
                "actor": {"kind": "schedule", "name": "tidy"}});
            folded.add([Fact::JobQueued(serde_json::from_value(queued).expect("a job"))]);
        }
        let mut told = Vec::new();
        for (number, status) in jobs.into_iter().zip(ends) {
            let error = (status == "failed").then_some("errors");
            let end = json!({"job_id": id::<JobId>(number), "status": status, "finished_at": noon(), "error": error});
            folded.add([event("job.finished", &end)]);
            told.extend(settle(folded, &content, None));
        }
        told
    };
    assert_eq!(round(&mut folded, 10, ["failed", "succeeded", "succeeded"]), ["+check_failed"]);
    let text = folded.state.alerts.iter().next().expect("open").text.clone();
    assert_eq!(text, "main/web-12: errors");
    assert_eq!(folded.state.schedules[&schedule("tidy")].last_status, Some(JobStatus::Failed));
    assert_eq!(round(&mut folded, 20, ["succeeded", "failed", "succeeded"]), ["~check_failed"], "it stays");
    assert_eq!(
        round(&mut folded, 30, ["succeeded", "succeeded", "succeeded"]),
        ["-check_failed"],
        "with the last of it"
    );
}

#[test]
fn an_operators_own_job_and_a_dry_run_raise_nothing() {
    let (mut folded, content) = (enrolled(), with_alarms(Alarms::default()));
    folded.add([queued(id(1)), started(id(1)), finished(id(1), "failed")]);
    assert_eq!(settle(&mut folded, &content, None), [""; 0]);
}

#[test]
fn a_backup_that_shrinks_is_told_until_it_grows_again_or_is_the_usual_one() {
    let (mut folded, content) = (enrolled(), with_alarms(Alarms::default()));
    for number in 1..=4 {
        run(&mut folded, number, &sized(1000, 5_000_000, 3));
        assert_eq!(settle(&mut folded, &content, None), [""; 0]);
    }
    run(&mut folded, 5, &sized(1000, 2_400_000, 3));
    assert_eq!(settle(&mut folded, &content, None), ["+backup_shrunk"], "fewer bytes");
    run(&mut folded, 6, &sized(990, 5_000_000, 3));
    assert_eq!(settle(&mut folded, &content, None), ["-backup_shrunk"]);
    run(&mut folded, 7, &sized(400, 5_000_000, 3));
    assert_eq!(settle(&mut folded, &content, None), ["+backup_shrunk"], "fewer files");
    let mut told = Vec::new();
    for number in 8..=20 {
        run(&mut folded, number, &sized(400, 5_000_000, 3));
        told.extend(settle(&mut folded, &content, None));
    }
    told.retain(|told| told != "~backup_shrunk");
    assert_eq!(told, ["-backup_shrunk"], "in the end it is the usual size");
    let off = with_alarms(Alarms { shrink_percent: 0, ..Alarms::default() });
    run(&mut folded, 21, &sized(1, 1, 1));
    assert_eq!(settle(&mut folded, &off, None), [""; 0]);
}

#[test]
fn a_shrunken_backup_is_the_same_alert_with_its_newest_words_until_a_success_is_as_usual() {
    let (mut folded, content) = (enrolled(), with_alarms(Alarms { no_new_data: 1, ..Alarms::default() }));
    for number in 1..=4 {
        run(&mut folded, number, &sized(1000, 5_000_000, 3));
        settle(&mut folded, &content, None);
    }
    run(&mut folded, 5, &sized(3, 5_000_000, 0));
    assert_eq!(settle(&mut folded, &content, None), ["+backup_shrunk", "+no_new_data"]);
    let shrunk = |folded: &Folded| {
        let mut alerts = folded.state.alerts.iter();
        alerts.find(|alert| alert.kind == AlertKind::BackupShrunk).expect("it is open").clone()
    };
    let raised = shrunk(&folded);
    let by = "alice".to_owned();
    folded.add([Fact::AlertAcknowledged(crate::server::alert::AlertAcknowledged { alert_id: raised.id, by })]);
    run(&mut folded, 6, &json!({"status": "failed", "error": "no space"}));
    assert_eq!(settle(&mut folded, &content, None), ["+backup_failed"], "a failure is no usual backup");
    assert_eq!((shrunk(&folded).id, shrunk(&folded).job_id), (raised.id, Some(id(5))));
    run(&mut folded, 7, &sized(0, 0, 1));
    assert_eq!(settle(&mut folded, &content, None), ["-no_new_data", "-backup_failed", "~backup_shrunk"]);
    let newest = shrunk(&folded);
    assert!(newest.text.starts_with("the backup is of 0 files"), "{}", newest.text);
    assert_eq!((newest.id, newest.raised_at, newest.job_id), (raised.id, raised.raised_at, Some(id(7))));
    assert_eq!(newest.acknowledged_by.as_deref(), Some("alice"));
    run(&mut folded, 8, &sized(1000, 5_000_000, 3));
    assert_eq!(settle(&mut folded, &content, None), ["-backup_shrunk"]);
}

#[test]
fn so_many_runs_with_nothing_new_are_told() {
    let content = with_alarms(Alarms { no_new_data: 3, ..Alarms::default() });
    let mut folded = enrolled();
    let mut told = Vec::new();
    for (number, changed) in (1..).zip([5, 0, 0, 0, 0, 1]) {
        run(&mut folded, number, &sized(10, 1000, changed));
        told.push(settle(&mut folded, &content, None).join(","));
    }
    assert_eq!(told, ["", "", "", "+no_new_data", "~no_new_data", "-no_new_data"]);
}

#[test]
fn a_schedule_without_a_success_for_its_max_age_is_stale_also_where_nothing_ran() {
    let content = with_alarms(Alarms { max_age: Some(Span::from_secs(3600)), ..Alarms::default() });
    let folded = enrolled();
    let at = |minutes: i64| Moment {
        silence: None,
        ..Moment::heard(folded.head.at.expect("a line") + TimeDelta::minutes(minutes))
    };
    assert_eq!(decide_alerts(&host(), &folded.state, Some(&content), at(59)), []);
    let due = decide_alerts(&host(), &folded.state, Some(&content), at(61));
    // `idle` is disabled.
    assert_eq!(types(&due), ["alert.raised"; 3]);
    let removed = HostContent { configured: false, ..content };
    assert_eq!(decide_alerts(&host(), &folded.state, Some(&removed), at(61)), []);
}

#[test]
fn silence_is_told_by_who_looked_and_by_nobody_else() {
    let (mut folded, content) = (enrolled(), with_alarms(Alarms::default()));
    assert_eq!(settle(&mut folded, &content, Some(TimeDelta::minutes(14))), [""; 0]);
    assert_eq!(settle(&mut folded, &content, Some(TimeDelta::minutes(16))), ["+agent_offline"]);
    assert_eq!(settle(&mut folded, &content, None), [""; 0], "an event from elsewhere does not end it");
    assert_eq!(settle(&mut folded, &content, Some(TimeDelta::zero())), ["-agent_offline"]);
}

#[test]
fn a_laptop_is_not_stale_while_it_is_away_nor_at_once_when_it_is_back() {
    let mut folded = enrolled();
    let day = Span::from_secs(86_400);
    let usual = with_alarms(Alarms { max_age: Some(day), ..Alarms::default() });
    let laptop = HostContent { absence: Absence::of(true, None), ..usual.clone() };
    let moment = |days: i64, heard_for: TimeDelta| {
        let now = noon() + TimeDelta::days(days);
        let silence = if heard_for.is_zero() { TimeDelta::days(days) } else { TimeDelta::zero() };
        Moment { now, silence: Some(silence), heard_for }
    };
    let due = |folded: &Folded, content: &HostContent, moment| {
        let facts = decide_alerts(&host(), &folded.state, Some(content), moment);
        let kind = |fact: &Fact| match fact {
            Fact::AlertRaised(raised) => raised.kind.as_str().to_owned(),
            Fact::AlertResolved(resolved) => format!("-{}", resolved.kind.as_str()),
            other => unreachable!("no alert: {other:?}"),
        };
        let mut kinds: Vec<String> = facts.iter().map(kind).collect();
        kinds.dedup();
        (kinds, facts)
    };
    let away = TimeDelta::zero();
    assert_eq!(due(&folded, &usual, moment(3, away)).0, ["agent_offline", "stale_schedule"]);
    assert_eq!(due(&folded, &laptop, moment(3, away)).0, [""; 0]);
    assert_eq!(due(&folded, &laptop, moment(15, away)).0, ["agent_offline"]);
    assert_eq!(due(&folded, &laptop, moment(3, TimeDelta::minutes(90))).0, [""; 0], "it has to catch up first");
    let (kinds, facts) = due(&folded, &laptop, moment(3, TimeDelta::hours(3)));
    assert_eq!(kinds, ["stale_schedule"], "it was here for hours, and made none");
    folded.add(facts);
    assert_eq!(due(&folded, &laptop, moment(4, away)).0, [""; 0], "what was told stays while it is away");
    let sooner = HostContent { absence: Absence::of(true, Some(Span::from_secs(3600))), ..laptop };
    assert_eq!(due(&folded, &sooner, moment(4, away)).0, ["agent_offline"]);
}

#[test]
fn a_schedule_that_has_just_been_written_has_had_no_time_to_succeed() {
    let (enrolled, written) = (at("2026-01-01T00:00:00Z"), at("2026-01-05T00:00:00Z"));
    let wanted = serde_json::from_value(json!({"version": 2, "hash": "h", "adopted_at": written})).expect("a version");
    let state = HostState { enrolled_at: Some(enrolled), schedule_wanted: Some(wanted), ..HostState::default() };
    let stale_after = |hours: i64| is_stale(Span::from_secs(7200), None, &state, written + TimeDelta::hours(hours));
    assert_eq!([stale_after(0), stale_after(2), stale_after(3)], [false, false, true]);
    let succeeded = ScheduleMemory { last_success: Some(enrolled), ..ScheduleMemory::default() };
    assert!(is_stale(Span::from_secs(7200), Some(&succeeded), &state, written), "an edit makes nothing fresh");
}
