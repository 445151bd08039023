use super::*;
use proptest::prelude::*;
use restic_manager::protocol::HELLO_LIMIT_BYTES;
use restic_manager::protocol::agent_event::JobOutcome;
use serde_json::json;

fn id(n: u128) -> JobId {
    JobId(uuid::Uuid::from_u128(n))
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).expect("an instant")
}

fn run(n: u128) -> Command {
    Command::Run(CommandRun {
        job_id: id(n),
        kind: "backup".into(),
        options: Some(json!({"paths": ["/etc"]})),
        schedule_id: Some("system".parse().expect("an id")),
        scheduled_at: Some(at(0)),
        issued_at: at(0),
        expires_at: at(3600),
    })
}

fn end(n: u128) -> Stage {
    let finished = JobFinished {
        job_id: id(n),
        status: JobOutcome::Succeeded,
        exit_code: Some(0),
        finished_at: at(9),
        incomplete: false,
        warnings: vec!["one".into()],
        last_log_seq: 3,
        stats: json!({"files_new": 5}).as_object().cloned(),
        error: None,
        kind: None,
        schedule_id: None,
        scheduled_at: None,
    };
    Stage::Finished { finished }
}

fn offline() -> Stage {
    let offline = serde_json::from_value(json!({"schedule_id": "system", "scheduled_at": at(0), "kind": "backup",
        "options": {"paths": ["/etc"]}}));
    Stage::Accepted { offline: Some(offline.expect("an offline job")) }
}

fn open(dir: &Path) -> Ledger {
    let (ledger, damage) = Ledger::open(dir, at(100)).expect("opens");
    assert!(damage.is_empty(), "{damage:?}");
    ledger
}

/// A bit of everything: received, accepted, started, finished, settled, rejected, cancelled, offline.
fn write_history(ledger: &mut Ledger) {
    let receipt = ledger.receive(at(1), &[run(1), run(2), run(3)], "c.1").expect("received");
    assert_eq!(receipt.new, [id(1), id(2), id(3)]);
    ledger.record(at(2), id(1), Stage::Accepted { offline: None }).expect("recorded");
    ledger.record(at(3), id(1), Stage::Started).expect("recorded");
    ledger.record(at(4), id(2), Stage::Rejected { error: "policy".into() }).expect("recorded");
    ledger.record(at(5), id(9), offline()).expect("recorded");
    ledger.receive(at(6), &[Command::Cancel(id(1)), run(4)], "c.2").expect("received");
    ledger.record(at(7), id(1), end(1)).expect("recorded");
    ledger.record(at(8), id(1), Stage::Settled).expect("recorded");
    ledger.record(at(8), id(9), Stage::Started).expect("recorded");
}

fn ids(jobs: &[&LedgerJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

#[test]
fn there_is_room_for_as_many_commands_as_a_hello_can_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut ledger = open(dir.path());
    let limit = UNSETTLED_JOBS_LIMIT as u128;
    let commands: Vec<Command> = (1..=limit).map(run).collect();
    ledger.receive(at(1), &commands, "c.1").expect("received");
    assert!(ledger.has_room_for_commands());
    let named = serde_json::to_string(&ids(&ledger.unsettled())).expect("JSON");
    assert!(named.len() * 2 < HELLO_LIMIT_BYTES, "half of it is for what the agent fires by itself: {}", named.len());
    ledger.receive(at(2), &[run(limit + 1)], "c.2").expect("received");
    assert!(!ledger.has_room_for_commands());
    ledger.record(at(3), id(1), end(1)).expect("recorded");
    ledger.record(at(4), id(1), Stage::Settled).expect("recorded");
    assert!(ledger.has_room_for_commands());
}

#[test]
fn every_stage_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut ledger = open(dir.path());
    write_history(&mut ledger);
    let again = open(dir.path());
    assert_eq!(again.state, ledger.state);
    assert_eq!(again.cursor(), Some("c.2"));
    assert_eq!(ids(&again.unfinished()), [id(3), id(9), id(4)]);
    assert_eq!(ids(&again.unsettled()), [id(2), id(3), id(9), id(4)]);
    assert_eq!(ids(&again.unsettled_ends()), [id(2)]);
    assert_eq!(again.started_without_end(), [id(9)]);
    assert!(again.job(id(9)).expect("known").is_offline());
    assert!(again.job(id(1)).expect("known").cancel_requested);
    assert_eq!(again.end_of(id(1)).map(|end| end.last_log_seq), Some(3));
}

#[test]
fn a_command_that_is_delivered_again_is_known_and_not_received_twice() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut ledger = open(dir.path());
    write_history(&mut ledger);
    let before = ledger.file().expect("open").len();
    let receipt = ledger.receive(at(50), &[run(1), run(9), Command::Cancel(id(1)), Command::Cancel(id(77))], "c.2");
    assert_eq!(receipt.expect("received"), Receipt { known: vec![id(1), id(9)], ..Receipt::default() });
    assert_eq!(ledger.file().expect("open").len(), before, "nothing new, nothing written");
    let receipt = ledger.receive(at(51), &[run(5), run(5), Command::Cancel(id(5))], "c.3").expect("received");
    assert_eq!((receipt.new, receipt.cancel), (vec![id(5)], vec![id(5)]));
    assert_eq!(ids(&open(dir.path()).unfinished()), [id(3), id(9), id(4), id(5)]);
}

#[test]
fn a_file_cut_at_any_byte_gives_a_state_that_once_was_and_takes_new_lines() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_history(&mut open(dir.path()));
    let path = dir.path().join("ledger.jsonl");
    let bytes = std::fs::read(&path).expect("read");
    let states = states_of(&bytes);
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).expect("written");
        let mut ledger = open(dir.path());
        assert!(states.contains(&ledger.state), "cut at {cut}");
        ledger.record(at(200), id(42), Stage::Started).expect("recorded");
        assert_eq!(open(dir.path()).state, ledger.state, "cut at {cut}");
    }
}

/// The state after each line.
fn states_of(bytes: &[u8]) -> Vec<LedgerState> {
    let mut states = vec![LedgerState::default()];
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let mut state = states.last().expect("one").clone();
        entry::apply(&mut state, &serde_json::from_slice(line).expect("an entry"));
        states.push(state);
    }
    states
}

#[test]
fn the_cursor_is_never_ahead_of_its_commands() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    open(dir.path()).receive(at(1), &[run(1), run(2)], "c.1").expect("received");
    let path = dir.path().join("ledger.jsonl");
    let bytes = std::fs::read(&path).expect("read");
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).expect("written");
        assert_eq!(open(dir.path()).cursor(), None, "cut at {cut}");
    }
}

#[test]
fn a_damaged_line_is_told_and_skipped_and_its_job_is_not_run_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_history(&mut open(dir.path()));
    let path = dir.path().join("ledger.jsonl");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[0] = 0;
    std::fs::write(&path, &bytes).expect("written");
    let (mut ledger, damage) = Ledger::open(dir.path(), at(100)).expect("opens");
    assert!(damage.len() == 1 && damage[0].contains("ledger.jsonl:1:"), "{damage:?}");
    assert_eq!(ledger.job(id(1)).map(|job| &job.work), Some(&Work::Forgotten));
    assert_eq!(ledger.receive(at(101), &[run(1)], "c.9").expect("received").known, [id(1)]);
}

#[test]
fn compaction_keeps_the_answers_and_later_lines() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ledger.jsonl");
    let mut lines = Vec::new();
    for n in 1_000..3_500 {
        let stages = [end(n), Stage::Settled];
        let Command::Run(command) = run(n) else { unreachable!("a run") };
        for stage in
            [Stage::Received { command }, Stage::Accepted { offline: None }, Stage::Started].into_iter().chain(stages)
        {
            serde_json::to_writer(&mut lines, &Entry::Job { ts: at(0), job_id: id(n), stage }).expect("written");
            lines.push(b'\n');
        }
    }
    std::fs::write(&path, &lines).expect("written");
    let mut before = LedgerState::default();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        entry::apply(&mut before, &serde_json::from_slice(line).expect("an entry"));
    }
    let mut ledger = open(dir.path());
    assert!(ledger.file().expect("open").len() < lines.len() as u64 / 4 * 3, "it was compacted");
    for n in 1_000..3_500 {
        let (was, is) = (before.job(id(n)).expect("known"), ledger.job(id(n)).expect("known"));
        assert!(is.settled && is.has_ended());
        assert_eq!(is == was, n >= 2_500, "the newest thousand are as they were: {n}");
        assert_eq!(ledger.end_of(id(n)).map(|end| end.last_log_seq), Some(3));
    }
    write_history(&mut ledger);
    let len = ledger.file().expect("open").len();
    let mut again = open(dir.path());
    assert_eq!(again.state, ledger.state);
    assert_eq!(again.file().expect("open").len(), len, "and is not compacted again for nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_prefix_of_any_history_is_a_state_that_once_was(
        steps in prop::collection::vec((1_u128..6, 0_u8..7), 1..30),
        share in 0.0_f64..1.0,
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut ledger = open(dir.path());
        for (second, (n, what)) in (0_i64..).zip(&steps) {
            let (now, n) = (at(second), *n);
            let stage = match what {
                0 => { ledger.receive(now, &[run(n), run(n + 1)], &second.to_string()).expect("received"); continue }
                1 => Stage::Accepted { offline: None },
                2 => Stage::Started,
                3 => Stage::Rejected { error: "no".into() },
                4 => end(n),
                5 => offline(),
                _ => Stage::Settled,
            };
            ledger.record(now, id(n), stage).expect("recorded");
        }
        let path = dir.path().join("ledger.jsonl");
        let bytes = std::fs::read(&path).expect("read");
        let states = states_of(&bytes);
        prop_assert_eq!(states.last(), Some(&ledger.state));
        let cut = (bytes.len() as f64 * share) as usize;
        std::fs::write(&path, &bytes[..cut]).expect("written");
        prop_assert!(states.contains(&open(dir.path()).state));
    }
}
