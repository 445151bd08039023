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
    (journal.sealed, journal.stale) = (journal.segment.map(|name| (name, good)), true);
    append(&mut journal, november(), 1);
    assert_eq!(journal.state().seqs, [2, 3, 5], "4 is the new segment's first line");
    assert_eq!(history(&dir), [5, 3, 2]);
    assert_eq!(Journal::<Seen>::open(&dir).expect("open").state(), journal.state());
}

/// A journal of more than one checkpoint's worth of lines, and its directory.
fn with_checkpoint() -> (tempfile::TempDir, PathBuf, Journal<Seen>) {
    let (keep, dir) = scratch();
    let mut journal = Journal::<Seen>::open(&dir).expect("open");
    append(&mut journal, november(), 700);
    journal.keep_checkpoint_if_due().expect("kept");
    assert!(dir.join("checkpoint.json").exists(), "700 lines are worth one");
    append(&mut journal, november(), 3);
    (keep, dir, journal)
}

#[test]
fn a_checkpoint_spares_reading_and_gives_the_state_of_a_full_fold() {
    let (_keep, dir, journal) = with_checkpoint();
    let again = Journal::<Seen>::open(&dir).expect("open again");
    assert!(again.spared > 0, "the checkpoint was used");
    assert_eq!((again.state(), again.head(), again.place()), (journal.state(), journal.head(), journal.place()));
    fs::remove_file(dir.join("checkpoint.json")).expect("remove");
    let full = Journal::<Seen>::open(&dir).expect("open without");
    assert_eq!((full.spared, full.state(), full.head()), (0, journal.state(), journal.head()));
}

#[test]
fn a_checkpoint_that_is_torn_flipped_or_not_borne_out_is_passed_over() {
    let (_keep, dir, journal) = with_checkpoint();
    let path = dir.join("checkpoint.json");
    let good = fs::read(&path).expect("read");
    let opens_without = |what: &str| {
        let opened = Journal::<Seen>::open(&dir).expect("open");
        assert_eq!((opened.spared, opened.state(), opened.head()), (0, journal.state(), journal.head()), "{what}");
    };
    for at in (0..good.len()).step_by(97) {
        fs::write(&path, &good[..at]).expect("cut");
        opens_without(&format!("cut at {at}"));
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).expect("flip");
        opens_without(&format!("flipped at {at}"));
    }
    // A checkpoint of a journal that was restored from a backup: the line that it ends with is another one here.
    fs::write(&path, &good).expect("whole again");
    let segment = dir.join("2026-11.jsonl");
    let bytes = fs::read(&segment).expect("read");
    let lines = bytes.split_inclusive(|b| *b == b'\n').count();
    let fewer: Vec<u8> = bytes.split_inclusive(|b| *b == b'\n').take(lines - 10).flatten().copied().collect();
    fs::write(&segment, fewer).expect("an older copy");
    let opened = Journal::<Seen>::open(&dir).expect("open");
    assert_eq!((opened.spared, opened.state().seqs.len()), (0, journal.state().seqs.len() - 10));
}

#[test]
fn a_reader_notices_what_another_process_appended_and_its_new_segments() {
    let (_keep, dir) = scratch();
    let mut one = Journal::<Seen>::open(&dir).expect("open");
    let mut two = Journal::<Seen>::open(&dir).expect("open");
    append(&mut one, november(), 1);
    let behind = |journal: &Journal<Seen>, now| journal.place().is_behind(&dir, now).expect("look");
    assert!(!behind(&one, november()) && behind(&two, november()));
    append(&mut two, november(), 1);
    assert!(behind(&one, november()) && !behind(&two, november()));
    drop(one.begin(november()).expect("begin"));
    assert!(!behind(&one, november()));
    append(&mut two, at("2026-12-01T00:00:00Z"), 1);
    append(&mut two, at("2027-02-01T00:00:00Z"), 1);
    for now in ["2026-11-30T23:59:59Z", "2026-12-05T00:00:00Z", "2027-05-01T00:00:00Z"] {
        assert!(behind(&one, at(now)), "{now}");
    }
    drop(one.begin(at("2027-05-01T00:00:00Z")).expect("begin"));
    assert_eq!(one.state(), Journal::<Seen>::open(&dir).expect("open").state());
}

#[test]
fn a_segment_that_another_process_sealed_is_not_gone_on_with() {
    let (_keep, dir) = scratch();
    let mut one = Journal::<Seen>::open(&dir).expect("open");
    append(&mut one, november(), 2);
    let mut two = Journal::<Seen>::open(&dir).expect("open");
    let good = one.folded;
    append(&mut one, november(), 1);
    (one.sealed, one.stale) = (one.segment.map(|name| (name, good)), true);
    drop(one.begin(november()).expect("the next segment is opened"));
    append(&mut two, november(), 1);
    assert_eq!(two.state().seqs, [2, 3, 5]);
    drop(one.begin(november()).expect("begin"));
    assert_eq!(one.state(), two.state());
}
