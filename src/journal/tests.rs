//! The journal against its promises: every line once, damage contained, a failed write never a success.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::read::Next;
use super::*;

/// Counts, so that a line that is lost or doubled is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    seqs: Vec<u64>,
}

impl Fold for Seen {
    fn apply(&mut self, line: &Line) {
        self.seqs.push(line.seq);
    }
}

/// Keeps what the line said of its time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Times {
    times: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Fold for Times {
    fn apply(&mut self, line: &Line) {
        self.times.push((line.ts, line.received_at));
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn november() -> DateTime<Utc> {
    at("2026-11-23T12:00:00Z")
}

fn append(journal: &mut Journal<Seen>, now: DateTime<Utc>, count: usize) {
    let mut batch = journal.begin(now).expect("begin");
    for _ in 0..count {
        let payload = RawValue::from_string("{}".to_owned()).expect("JSON");
        batch.append(now, &NewLine { kind: "x".into(), ts: now, stream: None, payload });
    }
    batch.commit().expect("commit");
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("journal");
    (dir, path)
}

fn history(dir: &Path) -> Vec<u64> {
    let mut seqs = Vec::new();
    read::newest_first(dir, u64::MAX, |line| {
        seqs.push(line.seq);
        Next::Continue
    })
    .expect("read");
    seqs
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 3);
    append(&mut journal, november(), 1);
    let again = Journal::<Seen>::open(&dir).expect("open again");
    assert_eq!(again.state(), journal.state());
    assert_eq!(again.head(), journal.head());
    assert_eq!(again.state().seqs, [2, 3, 4, 5]);
}

#[test]
fn memory_holds_a_lines_times_as_the_file_does() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Times>::open(&dir).expect("open");
    let fine = at("2026-11-23T12:00:00.123456789Z");
    let mut batch = journal.begin(november()).expect("begin");
    let payload = RawValue::from_string("{}".to_owned()).expect("JSON");
    batch.append(fine, &NewLine { kind: "x".into(), ts: fine, stream: None, payload });
    batch.commit().expect("commit");
    assert_eq!(Journal::<Times>::open(&dir).expect("open again").state(), journal.state());
}

#[test]
fn an_agents_event_is_never_the_journals_own_line() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 1);
    let mut batch = journal.begin(november()).expect("begin");
    let payload = RawValue::from_string(r#"{"state":{"seqs":[99]}}"#.to_owned()).expect("JSON");
    let stream = Some((crate::id::StreamId(uuid::Uuid::nil()), 1));
    batch.append(november(), &NewLine { kind: OPENED.into(), ts: november(), stream, payload });
    batch.commit().expect("commit");
    assert_eq!(journal.state().seqs, [2, 3]);
    assert_eq!(Journal::<Seen>::open(&dir).expect("open again").state(), journal.state());
    assert_eq!(history(&dir), [3, 2]);
}

#[test]
fn a_batch_that_is_dropped_never_happened() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 1);
    let mut batch = journal.begin(november()).expect("begin");
    let payload = RawValue::from_string("{}".to_owned()).expect("JSON");
    batch.append(november(), &NewLine { kind: "x".into(), ts: november(), stream: None, payload });
    drop(batch);
    append(&mut journal, november(), 1);
    assert_eq!(journal.state().seqs, [2, 3]);
    assert_eq!(history(&dir), [3, 2]);
}

#[test]
fn a_new_month_begins_a_segment_that_carries_the_state() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 2);
    append(&mut journal, at("2026-12-01T00:00:01Z"), 2);
    fs::remove_file(dir.join("2026-11.jsonl")).expect("the operator removes the old segment");
    let again = Journal::<Seen>::open(&dir).expect("open again");
    assert_eq!(again.state().seqs, [2, 3, 5, 6], "seq 4 is the segment's own first line");
    assert_eq!(again.head(), journal.head());
}

#[test]
fn a_damaged_carry_is_made_good_from_the_segment_before() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 2);
    append(&mut journal, at("2026-12-01T00:00:01Z"), 2);
    let december = dir.join("2026-12.jsonl");
    let mut bytes = fs::read(&december).expect("read");
    bytes[30] ^= 1;
    fs::write(&december, bytes).expect("damage");
    let mut again = Journal::<Seen>::open(&dir).expect("open again");
    assert_eq!(again.state().seqs, journal.state().seqs);
    let damage = again.take_damage();
    assert_eq!((damage.len(), damage[0].line, damage[0].set_aside), (1, 1, false));
}

#[test]
fn a_tail_that_is_cut_zeroed_or_noise_at_any_byte_hides_no_earlier_line() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 2);
    let segment = dir.join("2026-11.jsonl");
    let good = fs::read(&segment).expect("read");
    append(&mut journal, november(), 1);
    let whole = fs::read(&segment).expect("read");
    for at in good.len()..whole.len() {
        for tail in [&[][..], &[0u8; 40][..], &b"\xff{\"seq\":\n\n}"[..]] {
            let mut bytes = whole[..at].to_vec();
            bytes.extend_from_slice(tail);
            fs::write(&segment, &bytes).expect("damage");
            let mut again = Journal::<Seen>::open(&dir).expect("open again");
            assert_eq!(again.state().seqs, [2, 3], "cut at {at}");
            append(&mut again, november(), 1);
            let reopened = Journal::<Seen>::open(&dir).expect("open a third time");
            assert_eq!(reopened.state().seqs, [2, 3, 4], "cut at {at}");
            assert_eq!(history(&dir), [4, 3, 2], "cut at {at}");
        }
    }
    assert!(dir.join("2026-11.jsonl.damaged").exists(), "damage is set aside and not thrown away");
}

#[test]
fn two_openers_of_one_directory_see_each_others_lines_in_one_order() {
    let (_keep, dir) = scratch();
    let mut one = Journal::<Seen>::open(&dir).expect("open");
    let mut two = Journal::<Seen>::open(&dir).expect("open");
    for round in 0..20 {
        append(if round % 2 == 0 { &mut one } else { &mut two }, november(), 1);
    }
    one.begin(november()).expect("begin");
    assert_eq!(one.state(), two.state());
    assert_eq!(one.head(), two.head());
    assert_eq!(one.state().seqs, (2..22).collect::<Vec<_>>());
}

#[test]
fn history_is_read_backwards_across_chunks_and_segments() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 1500);
    append(&mut journal, at("2026-12-01T00:00:01Z"), 700);
    let mut expected = journal.state().seqs.clone();
    expected.reverse();
    assert_eq!(history(&dir), expected);
    let mut forward = Vec::new();
    read::oldest_first(&dir, None, |line| {
        forward.push(line.seq);
        Next::Continue
    })
    .expect("read");
    expected.reverse();
    assert_eq!(forward, expected);
    let mut late = Vec::new();
    read::oldest_first(&dir, Some(november()), |line| {
        late.push(line.seq);
        if late.len() == 3 { Next::Stop } else { Next::Continue }
    })
    .expect("read");
    assert_eq!(late, [1503, 1504, 1505], "December's, after its own first line");
}

#[test]
fn a_sealed_segments_unacknowledged_lines_do_not_count() {
    let (_keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 2);
    let good = journal.folded;
    append(&mut journal, november(), 1);
    // As after a commit whose fdatasync failed: the line is in the file, and was acknowledged to nobody.
    (journal.sealed, journal.stale) = (Some(good), true);
    append(&mut journal, november(), 1);
    assert_eq!(journal.state().seqs, [2, 3, 5], "4 is the new segment's first line");
    assert_eq!(history(&dir), [5, 3, 2]);
    assert_eq!(Journal::<Seen>::open(&dir).expect("open").state(), journal.state());
}
