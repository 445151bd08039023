//! Pure. A job as the server shows it, and what people and shells are told of it: words, and an exit code. Does not ask for it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::table::Style;
use super::words;
use crate::protocol::agent_event::JobProgress;

/// What is shown of a job. Kinds and statuses of later servers are words like any other.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) incomplete: bool,
    pub(super) warnings: Vec<String>,
    pub(super) actor: Actor,
    pub(super) schedule_id: Option<String>,
    pub(super) queued_at: Option<DateTime<Utc>>,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) error: Option<String>,
    pub(super) waiting_for: Option<String>,
    pub(super) cancel_requested: bool,
    pub(super) contact: Option<String>,
    pub(super) progress: Option<JobProgress>,
    pub(super) stats: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    pub(super) kind: String,
    pub(super) name: String,
}

impl Job {
    pub(super) fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "cancelled")
    }

    fn has_warnings(&self) -> bool {
        self.incomplete || !self.warnings.is_empty()
    }

    /// cli.md "Exit codes", of a job that has ended: 0 done, 3 done with warnings, 1 everything else.
    pub(super) fn exit_code(&self) -> u8 {
        match self.status.as_str() {
            "succeeded" if self.has_warnings() => 3,
            "succeeded" => 0,
            _ => 1,
        }
    }

    /// The status in a word or two.
    pub(super) fn status_words(&self) -> &str {
        match self.status.as_str() {
            "succeeded" if self.incomplete => "incomplete",
            "succeeded" if self.has_warnings() => "warnings",
            "running" | "queued" if self.contact.as_deref() == Some("lost") => "out of contact",
            "running" | "queued" if self.cancel_requested => "cancelling",
            status => status,
        }
    }

    pub(super) fn style(&self) -> Style {
        match self.status.as_str() {
            "succeeded" if self.has_warnings() => Style::Doubtful,
            "succeeded" => Style::Good,
            "failed" => Style::Bad,
            "running" | "queued" if self.contact.as_deref() == Some("lost") => Style::Doubtful,
            _ => Style::Plain,
        }
    }

    /// What it is: "backup system on web-1".
    pub(super) fn name(&self) -> String {
        let schedule = self.schedule_id.as_ref().map_or_else(String::new, |id| format!(" {id}"));
        format!("{}{schedule} on {}", self.kind, self.host)
    }

    /// How long it ran, or has run until now.
    pub(super) fn took(&self, now: DateTime<Utc>) -> Option<String> {
        let end = self.finished_at.or_else(|| (!self.is_final()).then_some(now))?;
        Some(words::span(end - self.started_at?))
    }

    /// Why, in one line: an error, what it waits for, the first warning, or what came of it.
    pub(super) fn detail(&self) -> String {
        let waiting = self.waiting_for.as_ref().map(|what| waits(what));
        let progress = self.progress.as_ref().filter(|_| !self.is_final()).map(progress_words);
        let found = self.error.clone().or(waiting).or_else(|| self.warnings.first().cloned()).or(progress);
        found.unwrap_or_else(|| self.result())
    }

    /// What came of it, by restic's own numbers; empty: it has none that people look for.
    pub(super) fn result(&self) -> String {
        let number = |name: &str| self.stats.get(name).and_then(Value::as_u64);
        let text = |name: &str| self.stats.get(name).and_then(Value::as_str);
        let mut parts = Vec::new();
        if let Some(snapshot) = text("snapshot_id") {
            parts.push(format!("snapshot {}", snapshot.chars().take(8).collect::<String>()));
        }
        if let Some(files) = number("total_files_processed") {
            parts.push(words::count(files, "file", "files"));
        }
        parts.extend(number("total_bytes_processed").map(words::size));
        parts.extend(number("data_added").map(|bytes| format!("{} added", words::size(bytes))));
        if let Some(files) = number("files_restored") {
            parts.push(words::count(files, "file restored", "files restored"));
        }
        parts.extend(text("target").map(|target| format!("in {target}")));
        parts.join(", ")
    }

    /// The end, for whoever has waited for it: one line, and one for each warning.
    pub(super) fn outcome(&self) -> Vec<String> {
        let mut first = format!("job {}, {}: {}", self.id, self.name(), self.status_words());
        if let (Some(from), Some(to)) = (self.started_at, self.finished_at) {
            first.push_str(&format!(" after {}", words::span(to - from)));
        }
        let why = self.error.clone().unwrap_or_else(|| self.result());
        if !why.is_empty() {
            first.push_str(": ");
            first.push_str(&why);
        }
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}"));
        std::iter::once(first).chain(warnings).collect()
    }
}

/// "42 %, 1.2 GiB of 3.0 GiB, 120 of 300 files, 12.0 MiB/s, 3 min left": what is known of it.
pub(super) fn progress_words(progress: &JobProgress) -> String {
    let bytes = match (progress.bytes_done.map(words::size), progress.total_bytes.map(words::size)) {
        (Some(done), Some(total)) => Some(format!("{done} of {total}")),
        (done, _) => done,
    };
    let files = match (progress.files_done, progress.total_files) {
        (Some(done), Some(total)) => Some(format!("{done} of {}", words::count(total, "file", "files"))),
        (done, _) => done.map(|done| words::count(done, "file", "files")),
    };
    let parts = [
        progress.percent_done.map(|part| format!("{} %", words::percent(part))),
        bytes,
        files,
        progress.throughput_bps.map(|speed| format!("{}/s", words::size(speed))),
        progress.eta_seconds.and_then(|left| {
            Some(format!("{} left", words::span(chrono::TimeDelta::try_seconds(i64::try_from(left).ok()?)?)))
        }),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What a job waits for, as the server says it: "for job ..." or "a prune of ...".
pub(super) fn waits(what: &str) -> String {
    format!("waits for {}", what.strip_prefix("for ").unwrap_or(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(value: &Value) -> Job {
        Job::deserialize(value).expect("a job")
    }

    #[test]
    fn exit_codes_are_the_jobs_outcomes() {
        for (value, code, words) in [
            (json!({"status": "succeeded"}), 0, "succeeded"),
            (json!({"status": "succeeded", "incomplete": true, "warnings": ["a"]}), 3, "incomplete"),
            (json!({"status": "succeeded", "warnings": ["a"]}), 3, "warnings"),
            (json!({"status": "failed", "incomplete": true}), 1, "failed"),
            (json!({"status": "cancelled"}), 1, "cancelled"),
            (json!({"status": "running", "contact": "lost"}), 1, "out of contact"),
            (json!({"status": "running", "cancel_requested": true}), 1, "cancelling"),
            (json!({"status": "of-a-later-version"}), 1, "of-a-later-version"),
        ] {
            let job = job(&value);
            assert_eq!((job.exit_code(), job.status_words()), (code, words), "{value}");
        }
    }

    #[test]
    fn the_outcome_says_what_came_of_it_and_every_warning() {
        let backup = job(&json!({
            "id": "j", "host": "web-1", "kind": "backup", "schedule_id": "system", "status": "succeeded",
            "warnings": ["cannot read /a", "b"], "incomplete": true,
            "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:03:10Z",
            "stats": {"snapshot_id": "0123456789abcdef", "total_files_processed": 1, "total_bytes_processed": 1536, "data_added": 100},
        }));
        let expected = [
            "job j, backup system on web-1: incomplete after 3 min: snapshot 01234567, 1 file, 1.5 KiB, 100 B added",
            "warning: cannot read /a",
            "warning: b",
        ];
        assert_eq!(backup.outcome(), expected);
        let failed = job(&json!({"id": "j", "host": "h", "kind": "check", "status": "failed", "error": "locked"}));
        assert_eq!(failed.outcome(), ["job j, check on h: failed: locked"]);
        assert_eq!(failed.detail(), "locked");
    }

    #[test]
    fn progress_tells_what_is_known_and_no_more() {
        let progress = |value: Value| progress_words(&serde_json::from_value(value).expect("progress"));
        let id = "0190b5a2-7c1e-4c3a-9f00-0123456789ab";
        let full = json!({"job_id": id, "percent_done": 0.425, "files_done": 120, "total_files": 300, "bytes_done": 1024,
                          "total_bytes": 4096, "eta_seconds": 200, "throughput_bps": 2048});
        assert_eq!(progress(full), "42 %, 1.0 KiB of 4.0 KiB, 120 of 300 files, 2.0 KiB/s, 3 min left");
        assert_eq!(progress(json!({"job_id": id, "bytes_done": 7})), "7 B");
        assert_eq!(progress(json!({"job_id": id, "eta_seconds": u64::MAX})), "");
    }
}
