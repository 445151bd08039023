//! An independent reader of a host's journal: what state.md and the glossary promise, checked on the bytes. Shares no code with
//! the journal. Every crash run ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What the files say, once they are found to be right.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) lines: usize,
    pub(crate) events: usize,
    pub(crate) streams: usize,
    pub(crate) jobs: usize,
    /// The jobs that each key made.
    pub(crate) keys: BTreeMap<String, Vec<String>>,
}

/// state.md's promises on a host's journal, and each job's life in it.
pub(crate) fn check_history(dir: &Path) -> History {
    let mut history = History::default();
    let mut streams: BTreeMap<String, u64> = BTreeMap::new();
    let mut lives: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut dues: BTreeSet<String> = BTreeSet::new();
    let mut received_at = String::new();
    for line in lines_that_count(dir) {
        let line = String::from_utf8(line).expect("a line is UTF-8");
        let parsed = checked_line(&line);
        history.lines += 1;
        assert_eq!(parsed["seq"], history.lines, "seq is contiguous: {line}");
        let at = parsed["received_at"].as_str().expect("received_at").to_owned();
        assert!(at > received_at, "received_at grows: {line}");
        received_at = at;
        if let Some(stream) = parsed["stream"].as_str() {
            let last = streams.entry(stream.to_owned()).or_default();
            assert_eq!(parsed["stream_seq"], *last + 1, "each event once and in order: {line}");
            *last += 1;
            history.events += 1;
        }
        let kind = parsed["type"].as_str().expect("type");
        let fired = (&parsed["payload"]["schedule_id"], parsed["payload"]["scheduled_at"].as_str());
        if let ("job.queued", (schedule, Some(due))) = (kind, fired) {
            assert!(dues.insert(format!("{schedule}@{due}")), "one job per due time: {line}");
        }
        if let (true, Some(id)) =
            (kind.starts_with("job.") || kind == "command.result", parsed["payload"]["job_id"].as_str())
        {
            if let Some(key) = parsed["payload"]["idempotency"]["key"].as_str() {
                history.keys.entry(key.to_owned()).or_default().push(id.to_owned());
            }
            lives.entry(id.to_owned()).or_default().push(parsed.clone());
        }
    }
    for (id, life) in &lives {
        check_life(id, life);
    }
    history.streams = streams.len();
    history.jobs = lives.len();
    history
}

/// By their names of before they were compressed.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).expect("a journal").map(|entry| entry.expect("an entry").path());
    let plain =
        |path: PathBuf| if path.extension().is_some_and(|e| e == "gz") { path.with_extension("") } else { path };
    let mut names: Vec<PathBuf> =
        names.map(plain).filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    // A month's first segment comes before its second: 2026-11, 2026-11-002.
    names.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
    names.dedup();
    names
}

/// A segment's bytes, by gzip's word where it was compressed.
fn bytes_of(segment: &Path) -> Vec<u8> {
    if segment.exists() {
        return fs::read(segment).expect("a segment");
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(segment.with_extension("jsonl.gz")).output().expect("gzip runs");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    unpacked.stdout
}

/// The lines of all segments, without their newlines. What is behind the place where the next segment's first line says
/// that its predecessor ended was acknowledged to nobody and does not count.
pub(crate) fn lines_that_count(dir: &Path) -> Vec<Vec<u8>> {
    let names = segments(dir);
    let mut lines = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let mut bytes = bytes_of(name);
        let is_meant =
            |previous: &Value| name.file_name().is_some_and(|file| previous["segment"] == *file.to_string_lossy());
        if let Some(previous) = names.get(at + 1).map(|next| previous_of(next)).filter(is_meant) {
            let end = usize::try_from(previous["bytes"].as_u64().expect("bytes")).expect("small");
            assert!(end <= bytes.len(), "{}: {previous} is behind its end", name.display());
            bytes.truncate(end);
        }
        // A line without its newline is none: the empty one, which is no line to anyone.
        let whole = |line: &[u8]| line.strip_suffix(b"\n").unwrap_or_default().to_vec();
        lines.extend(bytes.split_inclusive(|byte| *byte == b'\n').map(whole));
    }
    lines
}

/// What a segment's first line says of the segment before it.
fn previous_of(segment: &Path) -> Value {
    let bytes = bytes_of(segment);
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line: Value = serde_json::from_slice(first).unwrap_or_default();
    line["payload"]["previous"].clone()
}

pub(crate) fn checked_line(line: &str) -> Value {
    let at = line.rfind(",\"crc\"").expect("a checksum");
    let parsed: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(parsed["crc"], format!("{:08x}", crc32c::crc32c(&line.as_bytes()[..at])), "{line}");
    parsed
}

/// One job: queued once and first, started at most once, ended, and every telling of its end the same.
fn check_life(id: &str, life: &[Value]) {
    let of = |kind: &str| life.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("job.queued").len(), 1, "{id}: queued once: {life:?}");
    assert_eq!(life[0]["type"], "job.queued", "{id}: {life:?}");
    assert!(of("job.started").len() <= 1, "{id}: started at most once: {life:?}");
    let rejected = life.iter().filter(|line| line["type"] == "command.result" && line["payload"]["accepted"] == false);
    let others = of("job.expired").len() + of("job.abandoned").len() + rejected.count();
    let finished = of("job.finished");
    let ends: BTreeSet<String> = finished.iter().map(|line| line["payload"].to_string()).collect();
    assert_eq!(ends.len() + others, 1, "{id}: one end: {life:?}");
    let place = |kind: &str| life.iter().position(|line| line["type"] == kind);
    if let (Some(started), Some(ended)) = (place("job.started"), place("job.finished")) {
        assert!(started < ended, "{id}: {life:?}");
    }
}
