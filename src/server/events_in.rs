//! Edge. An agent's events into its host's journal: each once, in order, with what follows from it decided in the same batch.
//! Runs inside a batch, off the reactor. Does not answer.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::alert_rules::{Moment, decide_alerts};
use super::decide::decide_fire;
use super::fact::agent_line;
use super::history;
use super::host::{Host, append_facts};
use super::host_content::HostContent;
use super::host_state::HostState;
use super::http::answer::Problem;
use super::settle::{decide_finished, decide_started};
use super::slot::line_time;
use crate::atomic_file;
use crate::clock;
use crate::file_error::FileError;
use crate::id::{JobId, ReportId, StreamId};
use crate::journal::Batch;
use crate::protocol::Envelope;
use crate::protocol::agent_event::{AgentEvent, Snapshot, SnapshotsReport};
use crate::repository_target::KnownRepository;

/// Whose events they are, and what they are looked at with.
pub struct Source<'a> {
    pub host: &'a Host,
    /// `None`: the configuration does not have the host.
    pub content: Option<&'a HostContent>,
    pub stream: StreamId,
    /// The index of jobs counts where it is complete since then: the server's start.
    pub indexed_since: DateTime<Utc>,
    /// Whether another host has the job. Then it does not become this one's, whatever its agent says of it.
    pub is_of_another: &'a dyn Fn(JobId) -> bool,
}

/// Appends what is new of `envelopes`. Returns the seq up to which the stream is in the journal.
pub fn take(batch: &mut Batch<'_, HostState>, from: &Source<'_>, envelopes: &[Envelope]) -> Result<u64, Problem> {
    let mut acked = batch.state().streams.get(&from.stream).map_or(0, |mark| mark.seq);
    // Everything is checked before anything is appended: a request is taken whole or not at all.
    let mut news = Vec::new();
    for (expected, envelope) in (acked + 1..).zip(envelopes.iter().filter(|envelope| envelope.seq > acked)) {
        if envelope.seq != expected {
            return Err(Problem::event_gap(expected, envelope.seq));
        }
        let event = AgentEvent::from_envelope(envelope).map_err(|error| {
            let detail = format!("event {} is no {}: {error}", envelope.seq, envelope.kind);
            Problem::unprocessable("bad-event", detail)
        })?;
        news.push((envelope, event));
    }
    let mut may_end_a_job = false;
    for (envelope, event) in news {
        take_one(batch, from, envelope, event.as_ref())?;
        acked = envelope.seq;
        may_end_a_job |= matches!(event, Some(AgentEvent::JobFinished(_) | AgentEvent::CommandResult(_)));
    }
    if may_end_a_job {
        // Should power loss take these lines, the next look finds the same.
        let Source { host, content, .. } = *from;
        append_facts(batch, |state, now| decide_alerts(&host.name, state, content, Moment::heard(now)));
    }
    Ok(acked)
}

/// Whether an event of this type may make, begin or end a job.
pub fn concerns_jobs(kind: &str) -> bool {
    kind.starts_with("job.") || matches!(kind, "schedule.fire" | "command.result")
}

fn take_one(
    batch: &mut Batch<'_, HostState>,
    from: &Source<'_>,
    envelope: &Envelope,
    event: Option<&AgentEvent>,
) -> Result<(), Problem> {
    let Source { host, content, stream, .. } = *from;
    let mut line = agent_line(stream, envelope);
    let mut consequences = Vec::new();
    match event {
        Some(AgentEvent::ScheduleFire(fire)) => {
            let memory = batch.state().schedules.get(&fire.schedule_id);
            let forgotten = memory.is_some_and(|m| m.forgotten_until >= Some(fire.scheduled_at.timestamp()));
            // One job for each due time, whatever becomes of the index, which is never synced: the files have the last word.
            let known = forgotten && knows(batch, from, fire.job_id, None)?;
            consequences = decide_fire(&host.name, batch.state(), content, fire, clock::now(), known);
        }
        Some(AgentEvent::JobStarted(started)) if batch.state().job(started.job_id).is_none() => {
            let known =
                knows(batch, from, started.job_id, Some(from.indexed_since))? || (from.is_of_another)(started.job_id);
            append_facts(batch, |state, _| decide_started(state, started, known).into_iter().collect());
        }
        Some(AgentEvent::JobFinished(finished)) if batch.state().job(finished.job_id).is_none() => {
            let known =
                knows(batch, from, finished.job_id, Some(from.indexed_since))? || (from.is_of_another)(finished.job_id);
            append_facts(batch, |state, _| decide_finished(state, finished, known).into_iter().collect());
        }
        Some(AgentEvent::SnapshotsReport(report)) => {
            let of = batch.state().config_applied_repository.as_ref();
            keep_page(&host.dir, report, of, clock::now(), SNAPSHOTS_LIMIT_BYTES)?;
            // The list itself is in snapshots.json; the history says that it came, and not that it is empty.
            let (report_id, page, pages) = (report.report_id, report.page, report.pages);
            let count = report.snapshots.len();
            let short =
                serde_json::json!({"report_id": report_id, "page": page, "pages": pages, "snapshot_count": count});
            if let Ok(payload) = serde_json::value::to_raw_value(&short) {
                line.payload = payload;
            }
        }
        _ => {}
    }
    // What follows comes first: power loss may keep any beginning of the batch, and an event whose line is there is not sent
    // again. Without the event's line the agent repeats it, and what is there already is found.
    append_facts(batch, |_, _| consequences);
    batch.append(line_time(), &line);
    Ok(())
}

/// Whether the files have this job although memory has not. `trusted_since` as for `history::is_known`.
fn knows(
    batch: &Batch<'_, HostState>,
    from: &Source<'_>,
    job: JobId,
    trusted_since: Option<DateTime<Utc>>,
) -> Result<bool, FileError> {
    history::is_known(&from.host.journal_dir(), batch.head().seq, job, trusted_since)
}

/// `hosts/<host>/snapshots.json`, and `snapshots.next.json` while pages arrive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotsFile {
    pub report_id: ReportId,
    pub pages: u32,
    /// Pages that are in `snapshots`.
    pub have: u32,
    /// When the last page came. Absent: of a server before this was kept, as the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<DateTime<Utc>>,
    /// The repository that they are in, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<KnownRepository>,
    pub snapshots: Vec<Snapshot>,
}

/// The longest list of one host that is kept, in bytes: some forty thousand snapshots. Each page is read and written with all
/// before it, so a list without an end would take the disk, the memory and the time.
const SNAPSHOTS_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Adds a page; the last one makes the report the host's present one. A page that came before changes nothing, nor do those of
/// a list that is too long.
fn keep_page(
    host_dir: &Path,
    report: &SnapshotsReport,
    of: Option<&KnownRepository>,
    now: DateTime<Utc>,
    limit: usize,
) -> Result<(), FileError> {
    let next = host_dir.join("snapshots.next.json");
    // Damaged pages are as good as none: the next report begins anew.
    let mut file = match read_snapshots(&next).unwrap_or(None) {
        Some(file) if file.report_id == report.report_id => file,
        _ => SnapshotsFile {
            report_id: report.report_id,
            pages: report.pages,
            have: 0,
            reported_at: None,
            repository: of.cloned(),
            snapshots: Vec::new(),
        },
    };
    if report.page != file.have + 1 {
        return Ok(());
    }
    (file.have, file.reported_at) = (report.page, Some(now));
    file.snapshots.extend(report.snapshots.iter().cloned());
    let bytes = serde_json::to_vec(&file).unwrap_or_default();
    if bytes.len() > limit {
        tracing::warn!(host = %host_dir.display(), "the list of snapshots is longer than {limit} bytes: the one before stays");
        return atomic_file::remove(&next);
    }
    if file.have < file.pages {
        return atomic_file::replace(&next, &bytes);
    }
    atomic_file::replace(&host_dir.join("snapshots.json"), &bytes)?;
    atomic_file::remove(&next)
}

/// A snapshots file, if it is there. An error where it is damaged.
pub fn read_snapshots(path: &Path) -> Result<Option<SnapshotsFile>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| FileError::of("read", path)(error.into()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::folded::noon;

    #[test]
    fn a_damaged_list_of_snapshots_is_told_as_damaged_and_the_next_report_replaces_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("snapshots.json");
        assert!(read_snapshots(&path).expect("absent").is_none());
        for file in ["snapshots.json", "snapshots.next.json"] {
            std::fs::write(dir.path().join(file), "{x").expect("written");
        }
        assert!(read_snapshots(&path).is_err());
        let page = |page: u32| -> SnapshotsReport {
            let id = "00000000-0000-4000-8000-000000000001";
            serde_json::from_value(json!({"report_id": id, "page": page, "pages": 2, "snapshots": []})).expect("a page")
        };
        keep_page(dir.path(), &page(1), None, noon(), 1000).expect("kept");
        keep_page(dir.path(), &page(2), None, noon(), 1000).expect("kept");
        assert_eq!(read_snapshots(&path).expect("whole").expect("there").have, 2);
    }

    #[test]
    fn a_list_without_an_end_is_not_kept_and_the_one_before_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let page = |report: u8, page: u32, pages: u32| -> SnapshotsReport {
            let id = format!("00000000-0000-4000-8000-00000000000{report}");
            let one = json!({"id": "a".repeat(64), "short_id": "a", "time": "2026-01-01T00:00:00Z", "hostname": "h", "paths": []});
            serde_json::from_value(json!({"report_id": id, "page": page, "pages": pages, "snapshots": [one]}))
                .expect("a page")
        };
        keep_page(dir.path(), &page(1, 1, 1), None, noon(), 1000).expect("kept");
        for number in (1..=1_000).chain([u32::MAX, 0]) {
            keep_page(dir.path(), &page(2, number, 1_000_000), None, noon(), 1000).expect("kept or not");
            let next = std::fs::metadata(dir.path().join("snapshots.next.json")).map_or(0, |metadata| metadata.len());
            assert!(next <= 1000, "{next} bytes at page {number}");
        }
        let kept = read_snapshots(&dir.path().join("snapshots.json")).expect("whole").expect("there");
        assert_eq!((kept.have, kept.snapshots.len()), (1, 1));
        keep_page(dir.path(), &page(3, 1, 1), None, noon(), 1000).expect("the next one is kept again");
    }
}
