use super::*;
use proptest::prelude::*;
use restic_manager::protocol::Envelope;
use restic_manager::protocol::agent_event::{CommandResult, ScheduleAck};
use serde_json::json;

fn stream(n: u128) -> StreamId {
    StreamId(uuid::Uuid::from_u128(n))
}

fn job(n: u64) -> JobId {
    JobId(uuid::Uuid::from_u128(n.into()))
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("an instant")
}

fn ack(version: u64) -> AgentEvent {
    AgentEvent::ScheduleAck(ScheduleAck { version, applied_at: now() })
}

fn end(n: u64) -> AgentEvent {
    let end = json!({"type": "job.finished", "payload": {"job_id": job(n), "status": "failed", "finished_at": now()}});
    serde_json::from_value(end).expect("an event")
}

const SMALL: Limits = Limits { segment: 500, total: 4_000, reserve: 1_000 };

fn open(dir: &Path) -> Spool {
    let (spool, damage) = Spool::open_with(dir, stream(1), SMALL).expect("opens");
    assert!(damage.is_empty(), "{damage:?}");
    spool
}

fn filled(dir: &Path, count: u64) -> Spool {
    let mut spool = open(dir);
    for n in 1..=count {
        assert_eq!(spool.append(now(), &ack(n)).expect("appended"), n);
    }
    spool
}

fn envelopes(batch: &Batch) -> Vec<Envelope> {
    let lines = batch.bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice(line).expect("an envelope")).collect()
}

#[test]
fn what_the_server_cannot_have_from_here_is_anothers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = filled(dir.path(), 2);
    assert!(spool.can_have_given(0) && !spool.can_have_given(1), "nothing was sent yet");
    spool.next_batch(10_000).expect("read").expect("one");
    spool.append(now(), &ack(3)).expect("appended");
    assert!(spool.can_have_given(2) && !spool.can_have_given(3));
    drop(spool);
    // The last life may have sent all that is there, and nothing that is told now.
    let mut spool = open(dir.path());
    spool.append(now(), &ack(4)).expect("appended");
    assert!(spool.can_have_given(3) && !spool.can_have_given(4));
    spool.start_new_stream(stream(9)).expect("begins");
    assert!(!spool.can_have_given(1));
}

/// Sends and acknowledges everything; gives (seq, version) of every event.
fn drain(spool: &mut Spool) -> Vec<(u64, u64)> {
    let mut sent = Vec::new();
    while let Some(batch) = spool.next_batch(300).expect("read") {
        assert_eq!(batch.first_seq, spool.acked() + 1);
        for envelope in envelopes(&batch) {
            let AgentEvent::ScheduleAck(ack) = AgentEvent::from_envelope(&envelope).expect("fine").expect("known")
            else {
                continue;
            };
            sent.push((envelope.seq, ack.version));
        }
        spool.acknowledge(batch.last_seq).expect("acknowledged");
    }
    sent
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64)> {
    range.map(|n| (n, n)).collect()
}

/// The names of the segments, by seq.
fn files(dir: &Path) -> Vec<PathBuf> {
    segment::list(&dir.join("spool")).expect("listed").into_iter().map(|(_, path)| path).collect()
}

#[test]
fn a_line_is_the_wires_envelope_and_the_file_the_requests_body() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = filled(dir.path(), 2);
    let batch = spool.next_batch(10_000).expect("read").expect("one");
    assert_eq!(batch.bytes, std::fs::read(&files(dir.path())[0]).expect("read"));
    let text = String::from_utf8(batch.bytes).expect("text");
    let first = r#"{"seq":1,"ts":"2026-09-21T14:13:20Z","type":"schedule.ack","payload":{"version":1,"applied_at":"2026-09-21T14:13:20Z"}}"#;
    assert_eq!(text.lines().next(), Some(first));
}

#[test]
fn events_survive_a_restart_and_only_wholly_acknowledged_segments_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = filled(dir.path(), 20);
    let segments = files(dir.path()).len();
    assert!(segments > 3);
    spool.acknowledge(6).expect("acknowledged");
    drop(spool);
    let mut again = open(dir.path());
    assert_eq!((again.acked(), again.last_seq(), again.stream()), (6, 20, stream(1)));
    assert_eq!(files(dir.path()).len(), segments - 1);
    assert_eq!(again.append(now(), &ack(21)).expect("appended"), 21);
    assert_eq!(drain(&mut again), numbered(7..=21));
    assert!(again.is_empty() && again.depth_bytes() == 0 && files(dir.path()).is_empty());
    assert_eq!(open(dir.path()).append(now(), &ack(22)).expect("appended"), 22, "numbers go on");
}

#[test]
fn an_old_acknowledgement_changes_nothing_and_one_of_more_than_there_is_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = filled(dir.path(), 3);
    spool.acknowledge(2).expect("acknowledged");
    spool.acknowledge(1).expect("ignored");
    assert_eq!(spool.acked(), 2);
    let error = spool.acknowledge(4).expect_err("there is no event 4");
    assert!(matches!(error, SpoolError::AcknowledgedTooMuch { up_to: 4, last: 3 }));
    assert_eq!(drain(&mut spool), numbered(3..=3));
}

#[test]
fn acknowledging_an_end_or_a_rejection_names_its_job() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    let result = |n, accepted| AgentEvent::CommandResult(CommandResult { job_id: job(n), accepted, error: None });
    spool.append_all(now(), &[result(1, true), result(2, false), end(1), end(3)]).expect("appended");
    let mut again = open(dir.path());
    assert!(again.holds_end_of(job(1)) && again.holds_end_of(job(2)) && !again.holds_end_of(job(4)));
    assert_eq!(again.acknowledge(3).expect("acknowledged"), [job(2), job(1)]);
    assert!(!again.holds_end_of(job(1)));
    assert_eq!(open(dir.path()).acknowledge(4).expect("acknowledged"), [job(3)]);
}

#[test]
fn a_new_stream_holds_what_is_not_acknowledged_from_1_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = filled(dir.path(), 20);
    spool.append(now(), &end(5)).expect("appended");
    spool.acknowledge(6).expect("acknowledged");
    spool.start_new_stream(stream(2)).expect("begun");
    assert_eq!((spool.acked(), spool.last_seq(), spool.stream()), (0, 15, stream(2)));
    let mut again = open(dir.path());
    assert_eq!((again.acked(), again.last_seq(), again.stream()), (0, 15, stream(2)));
    again.append(now(), &ack(99)).expect("appended");
    let expected: Vec<_> = (1..=14).map(|n| (n, n + 6)).chain([(16, 99)]).collect();
    assert!(again.holds_end_of(job(5)));
    assert_eq!(drain(&mut again), expected);
}

#[test]
fn a_crash_before_or_after_the_mark_of_a_new_stream_leaves_one_whole_stream() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = filled(dir.path(), 9);
    let old: Vec<_> =
        files(dir.path()).into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect();
    let old_mark = std::fs::read(spool.mark_path()).expect("read");
    spool.start_new_stream(stream(2)).expect("begun");
    // After the mark: the old files are still there.
    old.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("written"));
    let mut again = open(dir.path());
    assert_eq!((again.stream(), drain(&mut again)), (stream(2), numbered(1..=9)));
    // Before the mark: the new files are there and the old mark is.
    let dir = tempfile::tempdir().expect("a temporary directory");
    filled(dir.path(), 9).start_new_stream(stream(2)).expect("begun");
    for (path, bytes) in &old {
        std::fs::write(dir.path().join("spool").join(path.file_name().expect("a name")), bytes).expect("written");
    }
    std::fs::write(dir.path().join("spool/stream.json"), old_mark).expect("written");
    let mut again = open(dir.path());
    assert_eq!((again.stream(), drain(&mut again)), (stream(1), numbered(1..=9)));
}

#[test]
fn the_last_segment_cut_at_any_byte_leaves_a_contiguous_stream() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = filled(dir.path(), 7);
    spool.acknowledge(2).expect("acknowledged");
    let last = files(dir.path()).pop().expect("one");
    let bytes = std::fs::read(&last).expect("read");
    let before = spool.segments.back().expect("one").first_seq - 1;
    for cut in 0..=bytes.len() {
        let copy = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(copy.path().join("spool")).expect("made");
        for entry in std::fs::read_dir(dir.path().join("spool")).expect("listed") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, copy.path().join("spool").join(path.file_name().expect("a name"))).expect("copied");
        }
        let cut_file = copy.path().join("spool").join(last.file_name().expect("a name"));
        std::fs::write(&cut_file, &bytes[..cut]).expect("written");
        let mut again = open(copy.path());
        let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(again.last_seq(), before + whole, "cut at {cut}");
        let next = again.last_seq() + 1;
        assert_eq!(again.append(now(), &ack(next)).expect("appended"), next);
        assert_eq!(drain(&mut open(copy.path())), numbered(3..=next), "cut at {cut}");
    }
}

#[test]
fn damage_in_the_middle_begins_a_new_stream_with_all_that_can_be_read() {
    for damage in ["line", "mark", "segment"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        filled(dir.path(), 12);
        let paths = files(dir.path());
        match damage {
            "line" => {
                let mut bytes = std::fs::read(&paths[1]).expect("read");
                bytes[3] = b'x';
                std::fs::write(&paths[1], bytes).expect("written");
            }
            "mark" => std::fs::write(dir.path().join("spool/stream.json"), "{").expect("written"),
            _ => std::fs::remove_file(&paths[1]).expect("removed"),
        }
        let (mut spool, told) = Spool::open_with(dir.path(), stream(7), SMALL).expect("opens");
        assert!(!told.is_empty(), "{damage}");
        assert_eq!(spool.stream(), stream(7), "{damage}");
        let sent = drain(&mut spool);
        let lost = match damage {
            "line" => 1,
            "mark" => 0,
            _ => 4,
        };
        assert_eq!(sent.len(), 12 - lost, "{damage}");
        assert!(sent.iter().zip(1..).all(|((seq, _), n)| *seq == n), "{damage}: {sent:?}");
    }
}

#[test]
fn a_full_spool_keeps_room_for_the_ends_of_jobs_and_an_end_too_many_is_refused_whole() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    assert!(spool.has_room_for_commands());
    let mut count = 0;
    while spool.append(now(), &ack(1)).is_ok() {
        count += 1;
    }
    assert!(matches!(spool.append(now(), &ack(1)), Err(SpoolError::Full)));
    assert!(!spool.has_room_for_commands());
    while spool.append(now(), &end(1)).is_ok() {
        count += 1;
    }
    assert!(spool.depth_bytes() > 3_800 && spool.depth_bytes() <= 4_000);
    assert_eq!(open(dir.path()).last_seq(), count);
    spool.acknowledge(count).expect("acknowledged");
    assert!(spool.has_room_for_commands() && spool.append(now(), &ack(1)).is_ok());
}

#[test]
fn an_event_that_the_protocol_does_not_allow_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut spool, _) = Spool::open(dir.path(), stream(1)).expect("opens");
    let result = CommandResult { job_id: job(1), accepted: false, error: Some("x".repeat(EVENT_LIMIT_BYTES)) };
    let error = spool.append_all(now(), &[ack(1), AgentEvent::CommandResult(result)]).expect_err("too large");
    assert!(matches!(error, SpoolError::TooLarge { kind: "command.result", .. }));
    assert!(spool.is_empty() && spool.last_seq() == 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn in_any_order_of_appends_batches_losses_and_restarts_each_event_is_sent_in_order(
        steps in prop::collection::vec((0_u8..6, 1_u64..6), 1..60),
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let limits = Limits { total: 1_000_000, ..SMALL };
        let reopen = || Spool::open_with(dir.path(), stream(1), limits).expect("opens").0;
        let mut spool = reopen();
        let (mut appended, mut server) = (0_u64, Vec::new());
        let mut streams = 1;
        for (what, n) in steps {
            match what {
                0 | 1 => {
                    let events: Vec<_> = (0..n).map(|k| ack(appended + k + 1)).collect();
                    spool.append_all(now(), &events).expect("appended");
                    appended += n;
                }
                2 => spool = reopen(),
                3 => {
                    streams += 1;
                    spool.start_new_stream(stream(streams)).expect("begun");
                }
                _ => if let Some(batch) = spool.next_batch(100 * n as usize).expect("read") {
                    for envelope in envelopes(&batch) {
                        let Ok(Some(AgentEvent::ScheduleAck(ack))) = AgentEvent::from_envelope(&envelope) else { continue };
                        server.push(ack.version);
                    }
                    spool.acknowledge(batch.last_seq).expect("acknowledged");
                }
            }
        }
        server.extend(drain(&mut spool).into_iter().map(|(_, version)| version));
        prop_assert_eq!(server, (1..=appended).collect::<Vec<_>>());
    }
}
