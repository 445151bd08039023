//! P3: a torn, NUL or garbage tail never hides another line, and a flipped byte damages the line it is in and no other. On the
//! files of a real server: each byte for the journal, a sample for the server itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use restic_manager::journal::line::{NewLine, Piece, pieces};
use restic_manager::journal::{Journal, read};
use restic_manager::server::host_state::HostState;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::checker::segments;
use crate::count;
use crate::harness::eventually;
use crate::poster::{ask, while_posting};
use crate::station::Station;

/// A station whose server has ended, and its host's only segment.
fn written_by_a_server() -> (Station, PathBuf) {
    let mut station = Station::started(1, Vec::new());
    let mut posters = std::mem::take(&mut station.posters);
    let acked = std::sync::Arc::clone(&posters[0].acked);
    while_posting(&mut posters, || {
        let enough = || (acked.load(std::sync::atomic::Ordering::SeqCst) >= 9).then_some(());
        eventually("some events", Duration::from_secs(20), enough);
    });
    station.posters = posters;
    station.checked_end("P3");
    let segment = segments(&journal_of(&station)).pop().expect("a segment");
    (station, segment)
}

fn journal_of(station: &Station) -> PathBuf {
    station.state().join("hosts/web-1/journal")
}

/// What a disk may make of the bytes from `at` on.
const DAMAGES: [&str; 3] = ["cut", "NULs", "noise"];

fn damaged(good: &[u8], at: usize, how: &str) -> Vec<u8> {
    let lost = good.len() - at;
    let mut bytes = good[..at].to_vec();
    match how {
        "NULs" => bytes.resize(good.len() + 40, 0),
        // With newlines, braces and the beginning of a line in it.
        "noise" => bytes.extend((0..lost + 40).map(|n| (n * 89 + n / 7 + at) as u8).chain(*b"\n{\"seq\":1\n\n")),
        _ => {}
    }
    bytes
}

/// The lines of a file as the journal tells them: seq and checksum, oldest first, without the segment's own.
fn told(dir: &Path) -> Vec<(u64, u32)> {
    let mut lines = Vec::new();
    read::newest_first(dir, u64::MAX, |line| {
        lines.push((line.seq, line.crc));
        read::Next::Continue
    })
    .expect("read");
    lines.reverse();
    lines
}

fn append(journal: &mut Journal<HostState>) -> (u64, u32) {
    let now = journal.head().at.expect("a line") + chrono::TimeDelta::microseconds(1);
    let payload = RawValue::from_string("{}".to_owned()).expect("JSON");
    let mut batch = journal.begin(now).expect("begin");
    batch.append(now, &NewLine { kind: "of.later".into(), ts: now, stream: None, payload });
    let head = batch.head();
    batch.commit().expect("commit");
    (head.seq, head.crc)
}

/// A reader that takes lines as they come until one is none, and knows no checksums.
fn naive_until_bad(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    lines.map_while(|line| serde_json::from_str::<Value>(&line).ok().map(|_| line.into_owned())).collect()
}

/// One that skips what is none, and knows no checksums either.
fn naive_without_checksum(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    lines.filter(|line| serde_json::from_str::<Value>(line).is_ok()).map(|line| line.into_owned()).collect()
}

fn ours(bytes: &[u8]) -> Vec<String> {
    let line = |piece| match piece {
        // A line that was joined to the next one counts the byte between them.
        Piece::Line { offset, len, .. } => Some(String::from_utf8_lossy(&bytes[offset..offset + len - 1]).into_owned()),
        Piece::Damaged { .. } => None,
    };
    pieces(bytes).into_iter().filter_map(line).collect()
}

#[test]
fn p3_a_damaged_tail_hides_no_other_line_from_the_journal() {
    let (_station, segment) = written_by_a_server();
    let good = fs::read(&segment).expect("read");
    let last = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("two lines") + 1;
    // Thousands of syncs, which are not what is looked at here: in memory where there is such a place.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
    let name = segment.file_name().expect("a name");
    let (mut cases, mut hidden_by_the_naive) = (0, 0);
    for at in last..good.len() {
        for how in DAMAGES {
            let dir = scratch.path().join(format!("{at}-{how}"));
            fs::create_dir(&dir).expect("a directory");
            fs::write(dir.join(name), &good[..last]).expect("write");
            let earlier = told(&dir);
            let bytes = damaged(&good, at, how);
            fs::write(dir.join(name), &bytes).expect("write");
            let mut journal = Journal::<HostState>::open(&dir).expect("open");
            assert_eq!(told(&dir), earlier, "{how} at {at}: earlier lines");
            assert_eq!(journal.take_damage().is_empty(), bytes.len() == last, "{how} at {at}: it is reported");
            let appended = append(&mut journal);
            let all = [&earlier[..], &[appended]].concat();
            assert_eq!(told(&dir), all, "{how} at {at}: the next line");
            let again = Journal::<HostState>::open(&dir).expect("open again");
            assert_eq!((again.head(), told(&dir)), (journal.head(), all), "{how} at {at}: opened again");
            // The control: who appends behind such a tail and reads on until a line is none does not find the next line.
            let mut naive = bytes;
            naive.extend_from_slice(&good[last..]);
            let next = String::from_utf8_lossy(&good[last..good.len() - 1]).into_owned();
            hidden_by_the_naive += usize::from(!naive_until_bad(&naive).contains(&next));
            fs::remove_dir_all(&dir).expect("remove");
            cases += 1;
        }
    }
    assert!(hidden_by_the_naive > cases / 2, "the control passed: {hidden_by_the_naive} of {cases}");
    eprintln!("P3 tails: {cases} damaged tails, 0 other lines hidden; the control hid {hidden_by_the_naive}");
}

/// What a reader makes wrong of a file with one byte flipped: `None` is right.
fn wrong(read: fn(&[u8]) -> Vec<String>, lines: &[String], good: &[u8], at: usize, mask: u8) -> Option<String> {
    let mut bytes = good.to_vec();
    bytes[at] ^= mask;
    let hit = good[..at].iter().filter(|byte| **byte == b'\n').count();
    let joined = good[at] == b'\n';
    let got = read(&bytes);
    for (index, line) in lines.iter().enumerate() {
        let may_be_hit = index == hit || joined && index == hit + 1;
        if !may_be_hit && !got.contains(line) {
            return Some(format!("byte {at} ^ {mask}: line {} is hidden", index + 1));
        }
    }
    let strange = got.iter().find(|line| !lines.contains(line));
    strange.map(|line| format!("byte {at} ^ {mask}: not noticed: {line}"))
}

#[test]
fn p3_a_flipped_byte_is_the_damage_of_its_own_line() {
    let (_station, segment) = written_by_a_server();
    let good = fs::read(&segment).expect("read");
    let lines: Vec<String> = String::from_utf8_lossy(&good).lines().map(str::to_owned).collect();
    let masks = [0x01, 0x20, 0x80, 0x02, 0x04, 0x08, 0x10, 0x40];
    let of_each_byte = count(1, masks.len());
    let flips = || (0..good.len()).flat_map(|at| (0..of_each_byte).map(move |n| (at, masks[(at + n) % masks.len()])));
    for (at, mask) in flips() {
        let wrong = wrong(ours, &lines, &good, at, mask);
        assert!(wrong.is_none(), "P3: {wrong:?}");
    }
    // The controls: readers that stop at the first bad line, and that know no checksums.
    let fails = |read| flips().step_by(7).filter(|(at, mask)| wrong(read, &lines, &good, *at, *mask).is_some()).count();
    let (until_bad, without_checksum) = (fails(naive_until_bad), fails(naive_without_checksum));
    assert!(until_bad > 0 && without_checksum > 0, "a control passed: {until_bad}, {without_checksum}");
    eprintln!(
        "P3 flips: {} flipped bytes, 0 other lines hidden, 0 not noticed; the controls: {until_bad} and {without_checksum} wrong of {}",
        flips().count(),
        flips().step_by(7).count()
    );
}

/// The seqs of web-1's events, as an operator gets them.
fn served(station: &Station) -> Vec<u64> {
    let events =
        ask(station.fleet.port, "GET", "/v1/events?host=web-1", &station.fleet.token(), "").expect("an answer");
    assert_eq!(events.status, 200, "{}", events.body);
    let lines = events.body.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.map(|event| event["seq"].as_u64().expect("a seq")).collect()
}

#[test]
fn p3_a_server_started_on_a_damaged_history_serves_the_rest_and_goes_on() {
    let (mut station, segment) = written_by_a_server();
    let good = fs::read(&segment).expect("read");
    let last = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("two lines") + 1;
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    // The first is the segment's own.
    let all: Vec<u64> = (2..=lines.len() as u64).collect();
    let tails = (last..good.len()).flat_map(|at| DAMAGES.map(|how| (at, how)));
    // The same counts always end within the last record, whatever its length.
    let every = ((good.len() - last) * DAMAGES.len() / count(9, 600)).max(1) | 1;
    let mut cases = 0;
    for (at, how) in tails.step_by(every) {
        begin_on(&mut station, &segment, &damaged(&good, at, how));
        assert_eq!(served(&station), all[..all.len() - 1], "{how} at {at}");
        // Its job ends once more, and one more job.
        assert!(
            ask(station.fleet.port, "GET", "/v1/hosts/web-1/jobs", &station.fleet.token(), "")
                .is_ok_and(|r| r.status == 200)
        );
        station.posters[0].greet();
        station.posters[0].post_one_job();
        station.checked_end(&format!("P3, {how} at {at}"));
        cases += 1;
    }
    let step = (good.len() / count(6, 200)) | 1;
    for at in (3..good.len()).step_by(step) {
        let hit = good[..at].iter().filter(|byte| **byte == b'\n').count();
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        begin_on(&mut station, &segment, &bytes);
        let rest: Vec<u64> = all
            .iter()
            .copied()
            .filter(|seq| *seq != hit as u64 + 1 && (good[at] != b'\n' || *seq != hit as u64 + 2))
            .collect();
        let served = served(&station);
        assert!(rest.iter().all(|seq| served.contains(seq)), "byte {at}: {served:?}");
        let reported = reported(&station.fleet.read("server.log"));
        assert!(good[at] == b'\n' || !reported.is_empty(), "byte {at}: it is told");
        // A byte that became a newline makes two of the line.
        assert!(
            reported.iter().all(|line| (hit + 1..=hit + 2).contains(line)),
            "byte {at} of line {}: {reported:?}",
            hit + 1
        );
        station.posters[0].greet();
        station.posters[0].post_one_job();
        station.kill();
        // What is good on the disk stays there byte by byte, and what came is behind it.
        let after = fs::read(&segment).expect("read");
        for (index, line) in lines.iter().enumerate().filter(|(index, _)| *index != hit && *index != hit + 1) {
            assert!(after.windows(line.len()).any(|window| window == *line), "byte {at}: line {} is gone", index + 1);
        }
        let appended = pieces(&after).iter().filter(|piece| matches!(piece, Piece::Line { .. })).count();
        assert!(appended >= lines.len() + 2, "byte {at}: {appended} lines");
        cases += 1;
    }
    eprintln!("P3 server: {cases} starts on damaged histories, every other line served, every next one intact");
}

/// The lines that a server has found damaged, by its log.
fn reported(log: &str) -> Vec<usize> {
    let damage = log.lines().filter(|line| line.contains("damage in the journal"));
    let number = |line: &str| {
        let (_, rest) = line.split_once(" line=")?;
        rest.split(' ').next()?.parse().ok()
    };
    damage.map(|line| number(line).expect("which line")).collect()
}

/// Starts the server on a host's history that is these bytes.
fn begin_on(station: &mut Station, segment: &Path, bytes: &[u8]) {
    station.kill();
    let journal = segment.parent().expect("a journal");
    for entry in fs::read_dir(journal).expect("a journal").flatten() {
        fs::remove_file(entry.path()).expect("remove");
    }
    fs::write(segment, bytes).expect("write");
    let _ = fs::remove_file(station.fleet.path("server.log"));
    station.posters[0].begin_anew_from(0);
    station.start();
}
