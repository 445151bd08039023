//! Compressing, deleting and indexing: nothing else is seen than before, whatever a crash leaves, and only what is old goes.

use std::fs;
use std::path::PathBuf;

use chrono::TimeDelta;

use super::*;
use crate::job::Job;
use crate::journal::line::{self, Line};
use crate::journal::{Fold, Journal};
use crate::protocol::Envelope;
use crate::protocol::text::Span;
use crate::server::fact::agent_line;
use crate::server::find_job::find_job;
use crate::server::folded::{at, finished, id, queued};
use crate::server::history::{self, JobFilter};
use crate::server::host_state::HostState;
use crate::server::index_upkeep;
use crate::server::job_index::{Hint, JobIndex, Made};

const DAY: u64 = 86_400;

fn now() -> DateTime<Utc> {
    at("2026-11-23T12:00:00Z")
}

fn rules(keep_days: u64, compress_days: u64) -> KeepRules {
    let span = |days| Span::from_secs(days * DAY);
    KeepRules { keep: span(keep_days), logs_keep: span(90), compress_after: Some(span(compress_days)) }
}

/// A host's directory in a state directory, with a job in each of the months July to November.
pub(in crate::server) fn five_months() -> (tempfile::TempDir, PathBuf) {
    let state = tempfile::tempdir().expect("a temporary directory");
    let dir = state.path().join("hosts/web-1/journal");
    let mut journal = Journal::<HostState>::open(&dir).expect("open");
    for month in 7..=11 {
        let job: JobId = id(month);
        let time = at(&format!("2026-{month:02}-05T12:00:00Z"));
        let mut batch = journal.begin(time).expect("begin");
        let start = time + TimeDelta::seconds(1);
        batch.append(start, &queued(job).to_new_line(start));
        let new = finished(job, "succeeded").to_new_line(start);
        let envelope = Envelope { seq: u64::from(month), ts: new.ts, kind: new.kind, payload: new.payload };
        batch.append(start + TimeDelta::seconds(1), &agent_line(id(1), &envelope));
        batch.commit().expect("commit");
        let segment =
            fs::File::options().append(true).open(dir.join(format!("2026-{month:02}.jsonl"))).expect("a segment");
        segment.set_modified(time.into()).expect("a time");
    }
    (state, dir)
}

/// What the API shows of a journal.
#[derive(Debug, PartialEq)]
struct Views {
    listed: Vec<Job>,
    found: Vec<Option<Job>>,
    lines: Vec<(u64, String)>,
    late: Vec<u64>,
    state: HostState,
}

fn views(dir: &Path) -> Views {
    let lines = |after| {
        history::lines_between(dir, u64::MAX, after, now(), 1000, |_| true)
            .expect("lines")
            .into_iter()
            .map(|line: Line| (line.seq, line.kind))
    };
    let mut state = Journal::<HostState>::open(dir).expect("open").state().clone();
    state.lines.clear();
    Views {
        listed: history::jobs(dir, u64::MAX, &JobFilter::default(), 100).expect("jobs").0,
        found: (7..=11).map(|month| history::job(dir, u64::MAX, id(month)).expect("job")).collect(),
        lines: lines(None).collect(),
        late: lines(Some(at("2026-09-05T12:00:01Z"))).map(|(seq, _)| seq).collect(),
        state,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.contains(".jsonl"))
        .collect();
    names.sort();
    names
}

fn keep(dir: &Path, rules: &KeepRules) -> Done {
    let mut done = Done::default();
    keep_segments(dir, rules, now(), &mut done).expect("upkeep");
    done
}

const COMPRESSED: [&str; 5] =
    ["2026-07.jsonl.gz", "2026-08.jsonl.gz", "2026-09.jsonl.gz", "2026-10.jsonl.gz", "2026-11.jsonl"];

#[test]
fn compressed_segments_show_the_same_and_the_newest_stays_as_it_is() {
    let (_state, dir) = five_months();
    let before = views(&dir);
    assert_eq!((before.listed.len(), before.lines.len(), before.late.len()), (5, 10, 5));
    assert_eq!(keep(&dir, &rules(730, 60)).segments_compressed, 3, "September's are older, October's not");
    assert_eq!(keep(&dir, &rules(730, 30)).segments_compressed, 1);
    assert_eq!(names(&dir), COMPRESSED);
    assert_eq!(views(&dir), before);
    assert_eq!(keep(&dir, &rules(730, 30)), Done::default());
    assert_eq!(keep(&dir, &rules(730, 0)), Done::default());
    assert_eq!(names(&dir).last().map(String::as_str), Some("2026-11.jsonl"));
    assert_eq!(views(&dir), before);
}

#[test]
fn a_crash_at_any_step_of_compressing_shows_the_same_and_the_next_run_ends_it() {
    let segment = "2026-07.jsonl";
    type Crash = fn(&Path);
    let crashes: [(&str, Crash); 4] = [
        ("half of the temporary file", |path| {
            fs::write(path.with_extension("jsonl.gz.tmp"), b"\x1f\x8b").expect("write");
        }),
        ("both there", |path| gzip_file::write_compressed(path).expect("compress")),
        ("both there, the compressed one torn", |path| {
            gzip_file::write_compressed(path).expect("compress");
            let gz = gzip_file::compressed_path(path);
            let half = fs::read(&gz).expect("read").len() / 2;
            fs::File::options().write(true).open(&gz).and_then(|f| f.set_len(half as u64)).expect("cut");
        }),
        ("both there, the compressed one empty", |path| {
            fs::write(gzip_file::compressed_path(path), b"").expect("write");
        }),
    ];
    for (what, crash) in crashes {
        let (_state, dir) = five_months();
        let before = views(&dir);
        crash(&dir.join(segment));
        assert_eq!(views(&dir), before, "{what}");
        assert_eq!(keep(&dir, &rules(730, 30)).segments_compressed, 4, "{what}");
        assert_eq!(names(&dir), COMPRESSED, "{what}");
        assert_eq!(views(&dir), before, "{what}");
    }
    // The control: a torn file alone does show less.
    let (_state, dir) = five_months();
    let before = views(&dir);
    fs::write(dir.join("2026-07.jsonl.gz"), b"").expect("write");
    fs::remove_file(dir.join(segment)).expect("remove");
    assert_ne!(views(&dir), before);
}

#[test]
fn segments_older_than_keep_go_with_what_was_in_them() {
    let (_state, dir) = five_months();
    keep(&dir, &rules(730, 30));
    fs::write(dir.join("2026-07.jsonl.damaged"), "x").expect("write");
    // From before 2026-09-09.
    assert_eq!(keep(&dir, &rules(75, 30)).segments_deleted, 3);
    assert_eq!(names(&dir), ["2026-10.jsonl.gz", "2026-11.jsonl"]);
    let after = views(&dir);
    assert_eq!(after.listed.iter().map(|job| job.id).collect::<Vec<_>>(), [id(11), id(10)]);
    assert_eq!(after.found.iter().filter(|job| job.is_none()).count(), 3);
    assert_eq!(keep(&dir, &rules(0, 30)).segments_deleted, 1, "never the newest");
    assert_eq!(names(&dir), ["2026-11.jsonl"]);
    assert_eq!(views(&dir).state, after.state, "the newest carries the state");
}

#[test]
fn what_a_damaged_first_line_does_not_carry_is_kept_in_the_segment_before() {
    let (_state, dir) = five_months();
    let path = dir.join("2026-11.jsonl");
    let mut bytes = fs::read(&path).expect("read");
    bytes[20] ^= 1;
    fs::write(&path, bytes).expect("damage");
    let before = views(&dir);
    let done = keep(&dir, &rules(0, 0));
    assert_eq!((done.segments_deleted, done.segments_compressed), (3, 0));
    assert_eq!(names(&dir), ["2026-10.jsonl", "2026-11.jsonl"]);
    assert_eq!(views(&dir).state, before.state);
}

#[test]
fn logs_of_finished_jobs_are_compressed_and_deleted() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let write = |number: u8, days: u64| {
        let path = state.path().join(format!("{}.jsonl", id::<JobId>(number)));
        let time = std::time::SystemTime::from(now()) - Duration::from_secs(days * DAY);
        fs::write(&path, "{}\n").expect("write");
        fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(time)).expect("a time");
    };
    [(1, 10), (2, 40), (3, 100), (4, 100)].into_iter().for_each(|(number, days)| write(number, days));
    fs::write(state.path().join("notes.txt"), "an operator's").expect("write");
    let mut done = Done::default();
    keep_logs(state.path(), &rules(730, 30), now(), |job| job == id(4), &mut done).expect("upkeep");
    assert_eq!((done.logs_compressed, done.logs_deleted), (1, 1));
    let name = |number: u8, end: &str| format!("{}{end}", id::<JobId>(number));
    assert_eq!(names(state.path()), [name(1, ".jsonl"), name(2, ".jsonl.gz"), name(4, ".jsonl")]);
    assert!(state.path().join("notes.txt").exists());
}

#[test]
fn the_index_is_made_complete_and_can_be_deleted() {
    let (state, dir) = five_months();
    keep(&dir, &rules(730, 30));
    let app = App::open(state.path()).expect("open");
    let found = |job: u8| find_job(&app, id(job)).expect("find").map(|(host, job)| (host.name.to_string(), job.id));
    let index = JobIndex::of(state.path());
    assert_eq!(index.find(id(7)).hints, []);
    assert_eq!(found(7), Some(("web-1".to_owned(), id(7))), "before the first upkeep history is read");
    index_upkeep::complete_once(&app).expect("index").expect("nobody else is at it");
    assert!(index.is_complete(app.outage.ready_at));
    assert_eq!(index.find(id(7)).hints, [Hint { host: "web-1".to_owned(), seq: 2 }]);
    assert_eq!((found(7), found(99)), (Some(("web-1".to_owned(), id(7))), None));
    // The control: a hint leads there without history being read; a false one to nothing.
    fs::remove_dir_all(state.path().join("jobs")).expect("delete");
    index
        .add_missing(vec![Made { id: id(7), hint: Hint { host: "web-1".to_owned(), seq: 5 }, year: 2026 }])
        .expect("add");
    index.begin_completing(clock::now()).expect("begin");
    assert!(index.end_completing().expect("end"));
    assert_eq!(found(7), None);
    fs::remove_dir_all(state.path().join("jobs")).expect("delete");
    assert_eq!(found(7), Some(("web-1".to_owned(), id(7))));
}

#[test]
fn one_server_at_a_time() {
    let (state, dir) = five_months();
    let app = App::open(state.path()).expect("open");
    let lock = atomic_file::open_lock(&state.path().join(".upkeep.lock")).expect("the lock");
    lock.lock().expect("held");
    assert_eq!(run_once(&app).expect("fine"), None);
    assert_eq!(names(&dir).len(), 5);
    drop(lock);
    assert!(run_once(&app).expect("fine").is_some());
}

#[test]
fn a_job_is_read_from_where_it_was_made_as_from_the_list() {
    let (_state, dir) = five_months();
    for job in history::jobs(&dir, u64::MAX, &JobFilter::default(), 100).expect("jobs").0 {
        let at_hint = history::job_at(&dir, u64::MAX, job.id, job.queued_seq).expect("read");
        let mut state = HostState::default();
        history::lines_between(&dir, u64::MAX, None, now(), 1000, |_| true)
            .expect("lines")
            .iter()
            .for_each(|l| state.apply(l));
        assert_eq!(at_hint.as_ref(), Some(&job));
        assert!(state.job(job.id).is_none_or(|known| *known == job), "as the state has it");
        assert_eq!(history::job_at(&dir, u64::MAX, job.id, job.queued_seq + 1).expect("read"), None);
    }
}

#[test]
fn every_line_of_the_files_is_found_by_its_checksum_a_segments_first_one_too() {
    let (_state, dir) = five_months();
    keep(&dir, &rules(730, 30));
    let mut lines = 0;
    for name in stored::segments(&dir).expect("segments") {
        let mut segment = stored::Stored::open(&dir, name).expect("open").expect("there");
        let (mut bytes, end) = (Vec::new(), segment.len());
        segment.read(0, end, &mut bytes).expect("read");
        for text in bytes.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            let (seq, crc) = (line::peek(text).expect("a line").seq, line::checksum(text).expect("a whole line"));
            assert!(history::has_line(&dir, seq, crc).expect("read"), "{seq}");
            assert!(
                !history::has_line(&dir, seq, crc ^ 1).expect("read")
                    && !history::has_line(&dir, 999, crc).expect("read")
            );
            lines += 1;
        }
    }
    assert!(lines > 10, "{lines}");
}
