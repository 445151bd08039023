use restic_manager::protocol::Envelope;

use super::*;
use proptest::prelude::*;

fn job() -> JobId {
    JobId(uuid::Uuid::from_u128(1))
}

fn at(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_790_000_000_000 + milliseconds).expect("an instant")
}

fn open(dir: &Path) -> LogSpool {
    LogSpool::open(dir, job(), &room()).expect("opens")
}

fn room() -> Rc<Room> {
    Rc::new(Room::new(64 << 20, 0))
}

fn say(spool: &mut LogSpool, text: &str) {
    spool.append_line(at(0), LogSource::Stdout, text).expect("appended");
}

fn progress(share: f64) -> JobProgress {
    JobProgress {
        job_id: job(),
        percent_done: Some(share),
        files_done: None,
        total_files: None,
        bytes_done: None,
        total_bytes: None,
        eta_seconds: None,
        throughput_bps: None,
    }
}

/// What a server has of a job's log: it insists on contiguous numbers.
#[derive(Default)]
struct Server {
    acked: u64,
    lines: Vec<(u64, String)>,
}

impl Server {
    fn take(&mut self, batch: &Batch) {
        for line in batch.bytes.split_inclusive(|byte| *byte == b'\n') {
            let envelope: Envelope = serde_json::from_slice(line).expect("an envelope");
            let (first, text) = match envelope.kind.as_str() {
                LogDropped::TYPE => {
                    let dropped: LogDropped = serde_json::from_str(envelope.payload.get()).expect("a marker");
                    assert_eq!(dropped.to, envelope.seq);
                    (dropped.from, "dropped".to_owned())
                }
                JobProgress::TYPE => (envelope.seq, "progress".to_owned()),
                _ => {
                    let line: LogStream = serde_json::from_str(envelope.payload.get()).expect("a line");
                    assert_eq!(line.seq, envelope.seq);
                    (line.seq, line.payload)
                }
            };
            if envelope.seq > self.acked {
                assert!(first <= self.acked + 1, "a gap: {first} after {}", self.acked);
                self.acked = envelope.seq;
                self.lines.push((envelope.seq, text));
            }
        }
    }

    fn drain(&mut self, spool: &mut LogSpool, max_bytes: usize) {
        while let Some(batch) = spool.next_batch(spool.acked(), max_bytes).expect("read") {
            self.take(&batch);
            spool.acknowledge(self.acked).expect("acknowledged");
        }
    }

    fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(|(_, text)| text.as_str()).collect()
    }
}

#[test]
fn lines_and_progress_share_numbers_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    say(&mut spool, "one\n");
    spool.append_progress(at(0), &progress(0.5)).expect("appended");
    say(&mut spool, "two");
    assert_eq!(spool.finish(at(9)).expect("finished"), 3);
    assert_eq!(list(dir.path()).expect("listed"), [job()]);
    drop(spool);
    let mut spool = open(dir.path());
    say(&mut spool, "three");
    let mut server = Server::default();
    server.drain(&mut spool, 200);
    assert_eq!(server.texts(), ["one", "progress", "two", "three"]);
    assert!(spool.is_sent());
    spool.delete().expect("removed");
    assert!(list(dir.path()).expect("listed").is_empty());
}

#[test]
fn after_a_restart_the_servers_answer_to_the_first_batch_is_where_to_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    (0..20).for_each(|_| say(&mut spool, "x"));
    let mut server = Server::default();
    server.drain(&mut spool, 100_000);
    drop(spool);
    let mut spool = open(dir.path());
    assert!(!spool.is_sent());
    let first = spool.next_batch(spool.acked(), 300).expect("read").expect("a batch");
    server.take(&first);
    spool.acknowledge(server.acked).expect("acknowledged");
    assert!(spool.is_sent() && spool.next_batch(20, 300).expect("read").is_none());
    assert_eq!(server.lines.len(), 20);
}

#[test]
fn progress_comes_at_most_every_two_seconds_and_goes_on_when_the_clock_is_set_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    for (milliseconds, seq) in [(0, 1), (500, 1), (1_999, 1), (2_000, 2), (3_000, 2), (-60_000, 3)] {
        spool.append_progress(at(milliseconds), &progress(0.1)).expect("appended");
        assert_eq!(spool.last_seq(), seq, "at {milliseconds}");
    }
}

#[test]
fn texts_are_cut_and_carry_no_control_characters() {
    assert_eq!(line::clean("a\tb\u{1b}[31mc\u{7}\r\n", 100), "a\tb?[31mc?");
    assert_eq!(line::clean("äöü", 3), "ä [4 more bytes]");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    say(&mut spool, &"\"".repeat(1_000_000));
    assert!(spool.file().expect("open").len() < line::LONGEST);
}

#[test]
fn what_does_not_fit_is_dropped_and_marked_and_an_acknowledgement_makes_room() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limits = Limits { job: 200_000, trim: 60_000, ..LIMITS };
    let mut spool = LogSpool::open_with(dir.path(), job(), &room(), limits).expect("opens");
    let text = "x".repeat(1_000);
    (0..300).for_each(|_| say(&mut spool, &text));
    assert_eq!(spool.last_seq(), 300);
    assert!(spool.file().expect("open").len() <= 200_000);
    let mut server = Server::default();
    server.drain(&mut spool, 50_000);
    let sent = server.acked;
    assert!(sent > 100 && sent < 200);
    say(&mut spool, "after");
    assert_eq!(spool.last_seq(), 301);
    server.drain(&mut spool, 50_000);
    assert_eq!(&server.lines[sent as usize..], [(300, "dropped".to_owned()), (301, "after".to_owned())]);
    // A trimmed file is opened as any other.
    drop(spool);
    let mut spool = LogSpool::open_with(dir.path(), job(), &room(), limits).expect("opens");
    assert_eq!(spool.last_seq(), 301);
    say(&mut spool, "again");
    server.drain(&mut spool, 50_000);
    assert_eq!(server.acked, 302);
}

#[test]
fn finish_marks_what_was_dropped_and_the_logs_of_other_jobs_leave_less_room() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let room = Rc::new(Room::new(20_000, 0));
    let mut other = LogSpool::open(dir.path(), JobId(uuid::Uuid::from_u128(2)), &room).expect("opens");
    (0..10).for_each(|_| say(&mut other, &"x".repeat(1_500)));
    let mut spool = LogSpool::open(dir.path(), job(), &room).expect("opens");
    (0..10).for_each(|_| say(&mut spool, &"x".repeat(1_500)));
    assert_eq!(spool.finish(at(0)).expect("finished"), 10);
    let mut server = Server::default();
    server.drain(&mut spool, 1_000_000);
    assert_eq!(server.lines.last(), Some(&(10, "dropped".to_owned())));
    assert!(server.lines.len() < 4);
}

#[test]
fn a_cut_at_any_byte_and_a_damaged_line_leave_contiguous_numbers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    (1..=6).for_each(|n| say(&mut spool, &n.to_string()));
    let path = spool.path.clone();
    drop(spool);
    let bytes = std::fs::read(&path).expect("read");
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).expect("written");
        let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut again = open(dir.path());
        assert_eq!(again.last_seq(), whole);
        say(&mut again, "more");
        let mut server = Server::default();
        server.drain(&mut again, 250);
        assert_eq!(server.acked, whole + 1);
    }
    for line in 0..5 {
        let mut damaged = bytes.clone();
        damaged[line * bytes.len() / 6 + 40] = 0;
        std::fs::write(&path, damaged).expect("written");
        let mut server = Server::default();
        server.drain(&mut open(dir.path()), 250);
        assert_eq!((server.acked, server.lines.len()), (6, 6), "line {line}");
        assert_eq!(server.texts()[line], "dropped");
    }
}

#[test]
fn numbers_that_a_power_loss_took_from_us_but_not_from_the_server_are_not_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut spool = open(dir.path());
    say(&mut spool, "one");
    spool.acknowledge(5).expect("acknowledged");
    say(&mut spool, "six");
    assert_eq!(spool.last_seq(), 6);
    let batch = spool.next_batch(5, 1_000).expect("read").expect("a batch");
    assert_eq!((batch.first_seq, batch.last_seq), (6, 6));
}

#[test]
fn a_server_that_has_lost_lines_gets_again_what_is_still_here_and_a_marker_for_the_rest() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limits = Limits { trim: 100_000, ..LIMITS };
    let mut spool = LogSpool::open_with(dir.path(), job(), &room(), limits).expect("opens");
    (0..400).for_each(|n| say(&mut spool, &format!("{n} {}", "x".repeat(1_000))));
    let mut server = Server::default();
    server.drain(&mut spool, 20_000);
    assert_eq!((server.acked, spool.acked()), (400, 400));
    // As after a restored backup: of the two, one has less than it had.
    let mut older = Server { acked: 20, lines: Vec::new() };
    assert!(spool.rewind(21).expect("rewound"), "it goes back");
    older.drain(&mut spool, 20_000);
    assert_eq!(older.acked, 400);
    assert_eq!(older.lines.first().map(|(_, text)| text.as_str()), Some("dropped"), "what was trimmed is marked");
    assert!(!spool.rewind(401).expect("read"), "nothing to go back to");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_server_that_insists_on_contiguous_numbers_is_always_satisfied(
        steps in prop::collection::vec((0_u8..8, 1_usize..4_000), 1..200),
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let limits = Limits { job: 40_000, trim: 10_000, ..LIMITS };
        let reopen = || LogSpool::open_with(dir.path(), job(), &room(), limits).expect("opens");
        let (mut spool, mut server) = (reopen(), Server::default());
        for (second, (what, n)) in (0_i64..).zip(steps) {
            match what {
                0..=3 => say(&mut spool, &"x".repeat(n)),
                4 => spool.append_progress(at(second * 1_000), &progress(0.5)).expect("appended"),
                5 => { spool.finish(at(0)).expect("finished"); drop(spool); spool = reopen(); }
                6 => if let Some(batch) = spool.next_batch(server.acked, n).expect("read") {
                    server.take(&batch);
                    spool.acknowledge(server.acked).expect("acknowledged");
                },
                _ => server.drain(&mut spool, n),
            }
        }
        let last = spool.finish(at(0)).expect("finished");
        server.drain(&mut spool, 5_000);
        prop_assert_eq!(server.acked, last);
        prop_assert!(spool.is_sent());
    }
}
