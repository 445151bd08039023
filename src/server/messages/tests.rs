//! What polls are answered.

use serde_json::json;

use super::*;
use crate::id::JobId;
use crate::protocol::job_options::JobKind;
use crate::server::decide::{JobDecision, JobRequest, decide_cancel, decide_fire, decide_job};
use crate::server::fact::{Fact, JobWaiting};
use crate::server::folded::*;
use crate::server::versions::decide_versions;

fn epoch() -> Epoch {
    id(0xee)
}

fn queue(job: JobId) -> Vec<Fact> {
    let request = JobRequest {
        kind: Some("prune".to_owned()),
        schedule_id: None,
        options: Some(json!({})),
        actor: operator(),
        idempotency: None,
        queue_for: None,
        is_offline: false,
        new_id: job,
    };
    match decide_job(&HostState::default(), Some(&content()), &request, noon()) {
        Ok(JobDecision::New(_, facts)) => facts,
        other => unreachable!("a new job was expected: {other:?}"),
    }
}

/// Up to date in versions, after a cursor.
fn after(cursor: Option<Cursor>) -> PollQuestion {
    PollQuestion { after: cursor, is_known: false, schedule_version: 1, config_version: 1 }
}

fn ask(folded: &Folded, question: &PollQuestion) -> PollAnswer {
    poll_answer(&folded.state, folded.head, Some(&content()), epoch(), question, noon())
}

fn head(folded: &Folded) -> Cursor {
    Cursor { epoch: epoch(), seq: folded.head.seq, crc: folded.head.crc }
}

fn kinds(answer: &PollAnswer) -> Vec<&str> {
    answer.messages.iter().map(|message| message.kind.as_str()).collect()
}

fn greeted() -> Folded {
    let mut folded = Folded::of([Fact::Hello(hello(1))]);
    folded.add(decide_versions(&folded.state, &content()));
    folded
}

#[test]
fn an_agent_behind_gets_settings_then_schedules_then_commands() {
    let mut folded = greeted();
    folded.add(queue(id(1)));
    let answer = ask(&folded, &PollQuestion::default());
    assert_eq!(kinds(&answer), ["config.update", "schedule.set", "command.run"]);
    assert_eq!(answer.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [None, None, Some(5)]);
    let set: ScheduleSet = serde_json::from_str(answer.messages[1].payload.get()).expect("a schedule set");
    assert_eq!((set.version, set.hash.as_str(), &set.schedules[..]), (1, "s1", &*content().schedules));
    let update: ConfigUpdate = serde_json::from_str(answer.messages[0].payload.get()).expect("settings");
    assert_eq!((update.version, update.repo_url), (1, content().config.repo_url.clone()));
    let only_settings = PollQuestion { schedule_version: 1, ..PollQuestion::default() };
    assert_eq!(kinds(&ask(&folded, &only_settings)), ["config.update", "command.run"]);
    let ahead = PollQuestion { schedule_version: 2, config_version: 2, ..PollQuestion::default() };
    assert_eq!(kinds(&ask(&folded, &ahead)), ["command.run"], "a lower version is never sent");
}

#[test]
fn content_whose_version_is_not_in_the_journal_waits_for_it() {
    let folded = greeted();
    let newer = HostContent { schedule_hash: "s2".to_owned(), config_hash: "c2".to_owned(), ..content() };
    let answer = poll_answer(&folded.state, folded.head, Some(&newer), epoch(), &PollQuestion::default(), noon());
    assert_eq!(kinds(&answer), [""; 0]);
    let none = poll_answer(&folded.state, folded.head, None, epoch(), &PollQuestion::default(), noon());
    assert_eq!(kinds(&none), [""; 0]);
}

#[test]
fn commands_come_in_the_order_of_their_lines_and_only_after_the_cursor() {
    let mut folded = greeted();
    // Ids sort the other way round than lines.
    folded.add(queue(id(9)));
    folded.add(queue(id(3)));
    let between = head(&folded);
    folded.add(queue(id(1)));
    folded.add(decide_cancel(&folded.state, id(3), operator()));
    let at_start = ask(&folded, &after(None));
    assert_eq!(kinds(&at_start), ["command.run", "command.run", "command.run", "command.cancel"]);
    let seqs: Vec<_> = at_start.messages.iter().map(|m| m.seq).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    let later = ask(&folded, &after(Some(between)));
    assert_eq!((kinds(&later), later.reset), (vec!["command.run", "command.cancel"], false));
    let cancel: CommandCancel = serde_json::from_str(later.messages[1].payload.get()).expect("a cancel");
    assert_eq!(cancel.job_id, id(3));
    // What memory has forgotten since the poll came: the edge's word counts.
    folded.state.lines.clear();
    let forgotten = ask(&folded, &after(Some(between)));
    assert_eq!((kinds(&forgotten).len(), forgotten.reset), (4, true));
    let known = ask(&folded, &PollQuestion { is_known: true, ..after(Some(between)) });
    assert_eq!((kinds(&known), known.reset), (vec!["command.run", "command.cancel"], false));
    let up_to_date = ask(&folded, &after(Some(head(&folded))));
    assert!(!is_news(&up_to_date), "{up_to_date:?}");
    assert_eq!(up_to_date.cursor, head(&folded).to_string());
}

#[test]
fn a_command_says_what_to_run_and_until_when() {
    let mut folded = greeted();
    folded.add(queue(id(1)));
    let answer = ask(&folded, &after(None));
    let command: CommandRun = serde_json::from_str(answer.messages[0].payload.get()).expect("a command");
    let job = folded.state.job(id(1)).expect("the job");
    let dispatch = job.dispatch.as_ref().expect("dispatched");
    assert_eq!((command.job_id, command.kind.as_str()), (id(1), JobKind::Prune.as_str()));
    assert_eq!((command.issued_at, command.expires_at), (dispatch.issued_at, dispatch.expires_at));
}

#[test]
fn a_cursor_that_names_no_line_of_ours_starts_over() {
    let mut folded = greeted();
    folded.add(queue(id(1)));
    let good = head(&folded);
    for (cursor, what) in [
        (None, "none"),
        (Some(Cursor { epoch: id(0xdd), ..good }), "another epoch's"),
        (Some(Cursor { crc: good.crc ^ 1, ..good }), "another line's, as after a restored backup"),
        (Some(Cursor { seq: good.seq + 1, ..good }), "beyond the head"),
        (Some(Cursor { seq: 0, crc: 0, ..good }), "the start"),
    ] {
        let answer = ask(&folded, &after(cursor));
        assert_eq!((kinds(&answer), answer.reset, is_news(&answer)), (vec!["command.run"], true, true), "{what}");
        assert_eq!(answer.cursor, good.to_string(), "{what}");
    }
}

#[test]
fn the_head_can_be_followed_also_where_the_state_does_not_remember_its_line() {
    // As after opening a new segment: its first line is the head, and no line is remembered.
    let folded = greeted();
    let state = HostState { lines: std::collections::VecDeque::new(), ..folded.state };
    for head in [Head { seq: 9, crc: 7, at: None }, Head::default()] {
        let cursor = Cursor { epoch: epoch(), seq: head.seq, crc: head.crc };
        let answer = poll_answer(&state, head, Some(&content()), epoch(), &after(Some(cursor)), noon());
        assert!(!is_news(&answer), "{answer:?}");
    }
}

#[test]
fn started_and_finished_jobs_give_no_command_and_an_ended_one_no_cancel() {
    let mut folded = greeted();
    folded.add(queue(id(1)));
    folded.add([accepted(id(1))]);
    assert_eq!(kinds(&ask(&folded, &after(None))), ["command.run"], "told again: a known id is not run twice");
    folded.add([started(id(1))]);
    assert_eq!(kinds(&ask(&folded, &after(None))), [""; 0]);
    folded.add(decide_cancel(&folded.state, id(1), operator()));
    assert_eq!(kinds(&ask(&folded, &after(None))), ["command.cancel"]);
    folded.add([finished(id(1), "cancelled")]);
    assert_eq!(kinds(&ask(&folded, &after(None))), [""; 0]);
}

#[test]
fn every_fire_is_answered_with_what_became_of_it() {
    let mut folded = greeted();
    let fire = |due: &str| {
        let (schedule_id, scheduled_at) = (schedule("system"), at(due));
        let job_id = crate::id::job_id_of_fire(&host(), &schedule_id, scheduled_at);
        crate::protocol::agent_event::ScheduleFire { schedule_id, scheduled_at, fired_at: scheduled_at, job_id }
    };
    let result = |answer: &PollAnswer| -> FireResult {
        let message = answer.messages.iter().find(|m| m.kind == FireResult::TYPE).expect("a result");
        serde_json::from_str(message.payload.get()).expect("a fire.result")
    };
    let first = fire("2026-11-23T02:00:00Z");
    let facts = decide_fire(&host(), &folded.state, Some(&content()), &first, noon(), false);
    let [queued, dispatched] = <[Fact; 2]>::try_from(facts).expect("two facts");
    folded.add([queued]);
    assert_eq!(kinds(&ask(&folded, &after(None))), [""; 0], "it is open yet whether it waits");
    let before = head(&folded);
    folded.add([Fact::JobWaiting(JobWaiting { job_id: first.job_id, waiting_for: "its turn".to_owned() })]);
    // The poll before it moved the cursor beyond the line that queued the job.
    let waiting = ask(&folded, &after(Some(before)));
    assert_eq!((kinds(&waiting), result(&waiting).outcome), (vec!["fire.result"], FireOutcome::Waiting));
    assert_eq!(result(&waiting).waiting_for.as_deref(), Some("its turn"));
    let told = head(&folded);
    folded.add([dispatched]);
    assert_eq!(kinds(&ask(&folded, &after(Some(told)))), ["command.run"], "it was told");
    let answer = ask(&folded, &after(None));
    assert_eq!(kinds(&answer), ["fire.result", "command.run"]);
    assert_eq!((result(&answer).outcome, result(&answer).job_id), (FireOutcome::Queued, first.job_id));
    let cursor = head(&folded);
    let second = fire("2026-11-23T03:00:00Z");
    folded.add(decide_fire(&host(), &folded.state, Some(&content()), &second, noon(), false));
    let answer = ask(&folded, &after(Some(cursor)));
    assert_eq!(kinds(&answer), ["fire.result"]);
    assert_eq!((result(&answer).outcome, result(&answer).job_id), (FireOutcome::Skipped, second.job_id));
}

#[test]
fn a_fire_is_answered_with_the_line_that_dispatches_or_ends_its_job_also_to_a_poll_from_before() {
    let (schedule_id, scheduled_at) = (schedule("system"), noon());
    let job_id = crate::id::job_id_of_fire(&host(), &schedule_id, scheduled_at);
    let fire = crate::protocol::agent_event::ScheduleFire { schedule_id, scheduled_at, fired_at: scheduled_at, job_id };
    for (end, messages) in [(false, &["fire.result", "command.run"][..]), (true, &["fire.result"])] {
        let mut folded = greeted();
        let facts = decide_fire(&host(), &folded.state, Some(&content()), &fire, noon(), false);
        folded.add(facts[..1].to_vec());
        let before = head(&folded);
        if end {
            folded.add(decide_cancel(&folded.state, job_id, operator()));
        } else {
            folded.add(facts[1..].to_vec());
        }
        assert_eq!(kinds(&ask(&folded, &after(Some(before)))), messages);
        assert_eq!(kinds(&ask(&folded, &after(Some(head(&folded))))), [""; 0], "once");
    }
}

#[test]
fn a_command_that_is_withdrawn_is_not_told_until_it_is_dispatched_again() {
    let mut folded = greeted();
    folded.add(queue(id(1)));
    let withdrawn = || Fact::JobWaiting(JobWaiting { job_id: id(1), waiting_for: "its agent".to_owned() });
    folded.add([withdrawn()]);
    assert_eq!(kinds(&ask(&folded, &after(None))), [""; 0]);
    let cursor = head(&folded);
    folded
        .add([crate::server::job_endings::dispatched_by(id(1), noon() + crate::server::job_endings::COMMAND_LIFETIME)]);
    assert_eq!(kinds(&ask(&folded, &after(Some(cursor)))), ["command.run"]);
    folded.add([accepted(id(1)), withdrawn()]);
    assert!(folded.state.jobs[&id(1)].dispatch.is_some(), "the agent has it");
}

#[test]
fn the_older_instance_is_told_so_and_gets_nothing() {
    let folded = Folded::of([Fact::Hello(hello(1)), Fact::Hello(hello(2))]);
    assert!(is_current(&folded.state, id(2)) && !is_current(&folded.state, id(1)));
    let answer = superseded_answer(epoch(), "kept".to_owned(), noon());
    assert!(answer.superseded && is_news(&answer) && answer.messages.is_empty());
    assert_eq!(answer.cursor, "kept");
}

#[test]
fn two_fires_of_one_schedule_between_two_polls_are_both_answered() {
    let mut folded = greeted();
    let fires = [noon(), noon() + chrono::TimeDelta::minutes(1)].map(|at| FireResult {
        schedule_id: "system".parse().expect("an id"),
        scheduled_at: at,
        job_id: id(7),
        outcome: FireOutcome::Skipped,
        waiting_for: None,
        reason: None,
    });
    folded.add(fires.into_iter().map(Fact::ScheduleSkipped).collect::<Vec<_>>());
    let answer = ask(&folded, &after(None));
    assert_eq!(kinds(&answer), [FireResult::TYPE, FireResult::TYPE]);
}
