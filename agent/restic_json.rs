//! Pure. What restic says: each line of its output becomes progress, a summary or text for the log, for every version from
//! 0.14 on. Text stands between the JSON, fields that are zero are left out, and a line may be of any length, so nothing
//! in here fails: what is not understood is text. Does not read pipes; how a job ended is `ending`'s.

use restic_manager::id::JobId;
use restic_manager::protocol::agent_event::JobProgress;
use restic_manager::protocol::job_options::JobKind;
use serde_json::{Map, Value};

pub(crate) mod cause;
pub(crate) mod document;
pub(crate) mod ending;
pub(crate) mod query;
pub(crate) mod stderr;
mod text;

pub(crate) use ending::is_retry;
pub(crate) use text::readable;

/// restic's summary of a job, with its own field names.
pub(crate) type Summary = Map<String, Value>;

/// How far restic is; absent is unknown.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Progress {
    /// 0 to 1. It is 1 while the last packs are still uploaded.
    pub(crate) percent_done: Option<f64>,
    pub(crate) files_done: Option<u64>,
    pub(crate) total_files: Option<u64>,
    pub(crate) bytes_done: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
    pub(crate) eta_seconds: Option<u64>,
    /// Bytes per second since the job began; absent in the first second.
    pub(crate) throughput_bps: Option<u64>,
}

impl Progress {
    /// The progress as the server is told it.
    pub(crate) fn of_job(self, job_id: JobId) -> JobProgress {
        let Self { percent_done, files_done, total_files, bytes_done, total_bytes, eta_seconds, throughput_bps } = self;
        JobProgress {
            job_id,
            percent_done,
            files_done,
            total_files,
            bytes_done,
            total_bytes,
            eta_seconds,
            throughput_bps,
        }
    }
}

/// What one line of stdout is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StdoutLine {
    Progress(Progress),
    /// The job's statistics; the last one counts.
    Summary(Summary),
    /// A line of the log that is one of the job's statistics too.
    Fact {
        name: &'static str,
        value: String,
        text: String,
    },
    /// For the log: readable and of bounded length.
    Text(String),
    /// A list of snapshots, which `document::snapshots` reads from the whole output.
    Snapshots,
    /// Says nothing that is kept: an empty line, or one per file.
    Nothing,
    /// JSON of a type that no known version prints here; for the log, as it is.
    Unknown(String),
}

/// Reads a line of stdout (without its line end) of a job; `None` as kind: of a query, such as `snapshots`.
pub(crate) fn stdout_line(kind: Option<JobKind>, line: &[u8]) -> StdoutLine {
    let trimmed = line.trim_ascii();
    // Most text is told from JSON by its first byte; what then does not parse is text all the same.
    let value = match trimmed.first() {
        Some(b'{' | b'[') => serde_json::from_slice(trimmed).ok(),
        Some(b'n') if trimmed == b"null" => Some(Value::Null),
        _ => None,
    };
    match value {
        Some(Value::Object(fields)) => object(kind, fields, trimmed),
        Some(Value::Array(_) | Value::Null) if kind.is_none_or(JobKind::is_query) => StdoutLine::Snapshots,
        Some(Value::Array(groups)) if kind == Some(JobKind::Forget) => StdoutLine::Summary(document::forget(&groups)),
        Some(Value::Null) if kind == Some(JobKind::Forget) => StdoutLine::Summary(document::forget(&[])),
        Some(Value::Array(items)) if items.iter().any(Value::is_object) => StdoutLine::Unknown(readable(trimmed)),
        _ => text_line(kind, trimmed),
    }
}

fn object(kind: Option<JobKind>, mut fields: Summary, line: &[u8]) -> StdoutLine {
    let message_type = fields.remove("message_type");
    match (message_type.as_ref().and_then(Value::as_str), kind) {
        (Some("verbose_status"), _) => StdoutLine::Nothing,
        // 0.14 calls its line per file a status.
        (Some("status"), _) if fields.contains_key("action") => StdoutLine::Nothing,
        (Some("status"), Some(JobKind::Backup | JobKind::Restore)) => StdoutLine::Progress(progress(&fields)),
        (Some("summary"), Some(JobKind::Backup)) => StdoutLine::Summary(backup_summary(fields)),
        (Some("summary"), Some(JobKind::Restore)) => StdoutLine::Summary(restore_summary(fields)),
        (Some("summary"), Some(JobKind::Check)) | (Some("initialized"), Some(JobKind::Init)) => {
            StdoutLine::Summary(fields)
        }
        (Some("version"), None) => StdoutLine::Text(readable(line)),
        _ => StdoutLine::Unknown(readable(line)),
    }
}

/// prune tells what it removes (or would, in a dry run) in text only, alike in all versions: "to delete: 12 blobs / 1.234 KiB".
fn prune_fact(text: &str) -> Option<(&'static str, String)> {
    let (what, value) = text.split_once(':')?;
    let names = [
        ("to repack", "to_repack"),
        ("this removes", "repacking_removes"),
        ("to delete", "to_delete"),
        ("total prune", "total_prune"),
        ("remaining", "remaining"),
        ("unused size after prune", "unused_after_prune"),
    ];
    let (_, name) = names.into_iter().find(|(said, _)| *said == what)?;
    Some((name, value.trim().to_owned()))
}

/// Versions before 0.17 tell some facts in text only.
fn text_line(kind: Option<JobKind>, line: &[u8]) -> StdoutLine {
    let text = readable(line);
    if text.is_empty() {
        return StdoutLine::Nothing;
    }
    if kind == Some(JobKind::Prune)
        && let Some(fact) = prune_fact(&text)
    {
        return StdoutLine::Fact { name: fact.0, value: fact.1, text };
    }
    if kind == Some(JobKind::Init)
        && let Some((id, repository)) =
            text.strip_prefix("created restic repository ").and_then(|rest| rest.split_once(" at "))
    {
        let fields = [("id", id), ("repository", repository)];
        return StdoutLine::Summary(fields.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect());
    }
    StdoutLine::Text(text)
}

fn number(fields: &Summary, name: &str) -> Option<u64> {
    fields.get(name).and_then(Value::as_u64)
}

/// What is counted is zero when it is left out; a total that is left out is not known yet.
fn progress(fields: &Summary) -> Progress {
    let counted = |names: [&str; 3]| names.iter().filter_map(|name| number(fields, name)).sum();
    // A restore has restored and skipped where a backup has done.
    let files: u64 = counted(["files_done", "files_restored", "files_skipped"]);
    let bytes: u64 = counted(["bytes_done", "bytes_restored", "bytes_skipped"]);
    let elapsed = number(fields, "seconds_elapsed");
    Progress {
        percent_done: fields.get("percent_done").and_then(Value::as_f64).map(|share| share.clamp(0.0, 1.0)),
        files_done: Some(files),
        total_files: number(fields, "total_files"),
        bytes_done: Some(bytes),
        total_bytes: number(fields, "total_bytes"),
        eta_seconds: number(fields, "seconds_remaining"),
        throughput_bps: elapsed.and_then(|seconds| bytes.checked_div(seconds)),
    }
}

/// A dry run names a snapshot that does not exist.
fn backup_summary(mut fields: Summary) -> Summary {
    if fields.get("dry_run").and_then(Value::as_bool) == Some(true) {
        fields.remove("snapshot_id");
    }
    fields
}

/// Zero fields are left out; with them the summary says by itself that nothing was restored.
fn restore_summary(mut fields: Summary) -> Summary {
    for name in ["total_files", "files_restored", "total_bytes", "bytes_restored"] {
        fields.entry(name).or_insert_with(|| 0.into());
    }
    fields
}

#[cfg(test)]
mod captured;
#[cfg(test)]
mod outcomes;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn backup(line: &str) -> StdoutLine {
        stdout_line(Some(JobKind::Backup), line.as_bytes())
    }

    #[test]
    fn what_is_left_out_of_progress_is_zero_or_unknown() {
        let line = json!({"message_type": "status", "seconds_elapsed": 4, "percent_done": 0.5, "total_files": 9, "bytes_done": 400});
        let expected = Progress {
            percent_done: Some(0.5),
            files_done: Some(0),
            total_files: Some(9),
            bytes_done: Some(400),
            throughput_bps: Some(100),
            ..Progress::default()
        };
        assert_eq!(backup(&line.to_string()), StdoutLine::Progress(expected));
    }

    #[test]
    fn a_restore_counts_what_it_skipped_as_done() {
        let line = json!({"message_type": "status", "percent_done": 2.5, "files_restored": 2, "files_skipped": 3, "seconds_elapsed": 0});
        let StdoutLine::Progress(progress) = stdout_line(Some(JobKind::Restore), line.to_string().as_bytes()) else {
            unreachable!();
        };
        assert_eq!((progress.files_done, progress.percent_done, progress.throughput_bps), (Some(5), Some(1.0), None));
    }

    #[test]
    fn a_dry_runs_snapshot_is_not_told() {
        let StdoutLine::Summary(summary) =
            backup("{\"message_type\":\"summary\",\"dry_run\":true,\"snapshot_id\":\"x\"}")
        else {
            unreachable!();
        };
        assert!(!summary.contains_key("snapshot_id") && !summary.contains_key("message_type"));
    }

    #[test]
    fn a_message_of_a_later_version_is_kept_as_text_and_counted() {
        let line = "{\"message_type\":\"novelty\",\"x\":1}";
        assert_eq!(backup(line), StdoutLine::Unknown(line.to_owned()));
    }

    #[test]
    fn lines_longer_than_64_kib_are_read() {
        let files: Vec<String> = (0..20_000).map(|n| format!("/data/file-{n}")).collect();
        let line = json!({"message_type": "status", "percent_done": 0.5, "current_files": files}).to_string();
        assert!(line.len() > 64 * 1024 && matches!(backup(&line), StdoutLine::Progress(_)));
        let StdoutLine::Text(shown) = backup(&"x".repeat(100_000)) else { unreachable!() };
        assert!(shown.len() < text::TEXT_LIMIT_BYTES + 100 && shown.contains("bytes more"), "{}", shown.len());
    }

    #[test]
    fn text_that_looks_like_json_stays_text() {
        for line in ["{not json", "[0:00] 100.00%  12 / 12 snapshots", "{\"message_type\":\"status\""] {
            assert_eq!(backup(line), StdoutLine::Text(line.to_owned()));
        }
        assert_eq!(backup("  "), StdoutLine::Nothing);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..8usize) {
            let kind = JobKind::ALL.get(kind).copied();
            let _ = stdout_line(kind, &bytes);
            let _ = stderr::stderr_line(&bytes);
            let _ = document::snapshots(&bytes);
        }
    }
}
