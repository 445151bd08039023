//! Hints are found again whatever lies beside them, and the index counts as complete only while it is.

use chrono::TimeDelta;

use super::*;
use crate::server::folded::{at, id};

fn hint(host: &str, seq: u64) -> Hint {
    Hint { host: host.to_owned(), seq }
}

fn hints(index: &JobIndex, job: u8) -> Vec<Hint> {
    let found = index.find(id(job));
    assert!(found.is_whole);
    found.hints
}

fn complete(index: &JobIndex, began: DateTime<Utc>) -> bool {
    index.begin_completing(began).expect("begin");
    index.end_completing().expect("end")
}

/// A state directory whose index is complete, its index, and a journal in it.
fn completed() -> (tempfile::TempDir, JobIndex, PathBuf) {
    let state = tempfile::tempdir().expect("a temporary directory");
    let index = JobIndex::of(state.path());
    assert!(complete(&index, clock::now()));
    let journal = state.path().join("hosts/web-1/journal");
    (state, index, journal)
}

#[test]
fn a_job_is_found_again_and_a_torn_line_hides_no_other() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let journal = state.path().join("hosts/web-1/journal");
    let index = JobIndex::of(state.path());
    let now = at("2026-11-23T12:00:00Z");
    assert_eq!(hints(&index, 1), []);
    note(&journal, id(1), 7, now);
    append(&index.file(2026, &id::<JobId>(1).to_string()), "00000000-0000-4000-80").expect("tear");
    note(&journal, id(2), 9, now);
    note(&journal, id(1), 12, at("2027-01-01T00:00:00Z"));
    assert_eq!(hints(&index, 2), [hint("web-1", 9)]);
    assert_eq!(hints(&index, 1), [hint("web-1", 12), hint("web-1", 7)]);
    index.forget_before(2027).expect("forget");
    assert_eq!(hints(&index, 1), [hint("web-1", 12)]);
}

#[test]
fn jobs_are_found_by_how_their_ids_begin_and_never_by_what_is_within_another() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let journal = state.path().join("hosts/web-1/journal");
    let index = JobIndex::of(state.path());
    let now = at("2026-11-23T12:00:00Z");
    let ids = ["abcdef01-0000-4000-8000-000000000001", "abcdef01-0000-4000-8000-000000000002"];
    let ids: Vec<JobId> = ids.iter().map(|id| id.parse().expect("an id")).collect();
    note(&journal, ids[0], 7, now);
    append(&index.file(2026, "ab"), "abcdef01-0000-40").expect("a torn line");
    note(&journal, ids[1], 9, now);
    note(&journal, "ab000000-0000-4000-8000-0000abcdef01".parse().expect("an id"), 11, now);
    let found = |beginning: &str, most| index.find_beginning(beginning, most);
    let both = vec![(ids[1], hint("web-1", 9)), (ids[0], hint("web-1", 7))];
    assert_eq!(found("abcdef01", 9), (both.clone(), true));
    assert_eq!(found("abcdef01", 1), (both[..1].to_vec(), true));
    assert_eq!(found("abcdef01-0000-4000-8000-000000000001", 9).0, both[1..]);
    assert_eq!(found("abcdef02", 9), (Vec::new(), true));
}

#[test]
fn what_is_missing_is_added_once_and_complete_is_since_when() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let index = JobIndex::of(state.path());
    let made = vec![Made { id: id(1), hint: hint("web-1", 7), year: 2026 }];
    index.add_missing(made.clone()).expect("add");
    index.add_missing(made).expect("add again");
    assert_eq!(hints(&index, 1), [hint("web-1", 7)]);
    let noon = clock::now();
    assert!(!index.is_complete(noon));
    assert!(complete(&index, noon));
    assert!(index.is_complete(noon) && !index.is_complete(noon + TimeDelta::seconds(1)));
    assert!(complete(&index, noon + TimeDelta::hours(1)));
    assert!(!index.is_complete(noon) && index.looked_until().is_none(), "a time from the future is not believed");
}

#[cfg(target_os = "linux")]
#[test]
fn a_hint_lost_on_a_full_disk_makes_the_index_incomplete_for_every_server() {
    let (_state, index, journal) = completed();
    let before = index.complete_since().expect("complete");
    let now = at("2026-11-23T12:00:00Z");
    note(&journal, id(1), 7, now);
    assert!(index.is_complete(before), "the control");
    let path = index.file(2026, &id::<JobId>(1).to_string());
    atomic_file::remove(&path).expect("remove");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a full disk");
    index.begin_completing(clock::now()).expect("a pass is under way");
    note(&journal, id(2), 9, now);
    assert_eq!((index.complete_since(), index.looked_until()), (None, Some(before)));
    atomic_file::remove(&path).expect("remove");
    assert!(!index.end_completing().expect("the pass may have looked there before"));
    assert!(complete(&index, clock::now()) && index.is_complete(before), "the next one counts");
    assert_eq!(FAILED_AT.load(Ordering::Acquire), i64::MIN);
}

#[test]
fn what_cannot_be_read_is_no_error_and_is_made_anew() {
    let (_state, index, journal) = completed();
    let path = index.file(2026, &id::<JobId>(1).to_string());
    note(&journal, id(1), 7, at("2025-11-23T12:00:00Z"));
    std::fs::create_dir_all(path.join("in-the-way")).expect("a directory in the way");
    for _ in 0..2 {
        assert_eq!(index.find(id(1)), Hints { hints: vec![hint("web-1", 7)], is_whole: false });
    }
    index.begin_completing(clock::now()).expect("begin");
    assert_eq!(index.looked_until(), None, "the pass reads everything");
    index.add_missing(vec![Made { id: id(1), hint: hint("web-1", 9), year: 2026 }]).expect("add");
    assert!(index.end_completing().expect("end"));
    assert_eq!(hints(&index, 1), [hint("web-1", 9), hint("web-1", 7)]);
}

#[test]
fn of_hints_that_many_write_at_once_none_is_lost() {
    const EACH: u64 = 500;
    let (_state, index, journal) = completed();
    let now = at("2026-11-23T12:00:00Z");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let journal = &journal;
            scope.spawn(move || (0..EACH).for_each(|n| note(journal, id(1), writer * EACH + n, now)));
        }
        scope.spawn(|| {
            let made = |seq| Made { id: id(2), hint: hint("web-2", seq), year: 2026 };
            (0..EACH).for_each(|seq| index.add_missing(vec![made(seq)]).expect("add"));
        });
    });
    let mut seqs: Vec<u64> = hints(&index, 1).into_iter().map(|hint| hint.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..4 * EACH).collect::<Vec<_>>());
    assert_eq!(hints(&index, 2).len() as u64, EACH);
    let text = std::fs::read_to_string(index.file(2026, &id::<JobId>(1).to_string())).expect("read");
    assert!(text.lines().all(|line| line.split(' ').count() == 3), "whole lines");
}
