//! Pure. Output that is one JSON document: the list of snapshots, and what forget kept and removed.
//! Does not know which of it fits into one event: whoever sends the list pages it.

use chrono::{DateTime, Utc};
use restic_manager::protocol::agent_event::Snapshot;
use serde::Deserialize;
use serde_json::Value;

use super::Summary;

/// So many removed snapshots are named in a job's statistics; the count is always exact.
const MOST_REMOVED_NAMED: usize = 100;

/// Fields that are empty are absent or null, by version.
#[derive(Deserialize)]
struct ResticSnapshot {
    id: String,
    short_id: Option<String>,
    time: DateTime<Utc>,
    hostname: Option<String>,
    paths: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    summary: Option<SnapshotSummary>,
}

/// From 0.17 on.
#[derive(Deserialize)]
struct SnapshotSummary {
    total_bytes_processed: Option<u64>,
    total_files_processed: Option<u64>,
}

impl From<ResticSnapshot> for Snapshot {
    fn from(snapshot: ResticSnapshot) -> Self {
        let summary = snapshot.summary.as_ref();
        Self {
            short_id: snapshot.short_id.unwrap_or_else(|| snapshot.id.chars().take(8).collect()),
            id: snapshot.id,
            time: snapshot.time,
            hostname: snapshot.hostname.unwrap_or_default(),
            paths: snapshot.paths.unwrap_or_default(),
            tags: snapshot.tags.unwrap_or_default(),
            size_bytes: summary.and_then(|summary| summary.total_bytes_processed),
            file_count: summary.and_then(|summary| summary.total_files_processed),
        }
    }
}

/// The snapshots in the whole stdout of `restic snapshots --json`, in restic's order. Text around the document is skipped,
/// and so is an entry that is no snapshot. `None`: there is no document, which is not the same as no snapshots.
pub(crate) fn snapshots(stdout: &[u8]) -> Option<Vec<Snapshot>> {
    let entries = stdout.split(|byte| *byte == b'\n').find_map(|line| match serde_json::from_slice(line) {
        Ok(Value::Array(entries)) => Some(entries),
        Ok(Value::Null) => Some(Vec::new()),
        _ => None,
    })?;
    let read = |entry| serde_json::from_value::<ResticSnapshot>(entry).ok().map(Snapshot::from);
    Some(entries.into_iter().filter_map(read).collect())
}

/// forget's document as statistics. restic prints none where nothing matched: that is `forget(&[])`.
pub(crate) fn forget(groups: &[Value]) -> Summary {
    let list = |group: &Value, name: &str| group.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let kept: usize = groups.iter().map(|group| list(group, "keep").len()).sum();
    let removed: Vec<Value> = groups.iter().flat_map(|group| list(group, "remove")).collect();
    let named: Vec<Value> =
        removed.iter().filter_map(|snapshot| snapshot.get("short_id").cloned()).take(MOST_REMOVED_NAMED).collect();
    let mut summary = Summary::new();
    summary.insert("snapshots_kept".to_owned(), kept.into());
    summary.insert("snapshots_removed".to_owned(), removed.len().into());
    if !named.is_empty() {
        summary.insert("removed".to_owned(), named.into());
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_snapshot_of_any_version_is_read() {
        let old = json!({"id": "abcdef0123456789", "time": "2026-01-02T03:04:05.123456789+01:00", "paths": null, "tree": "x"});
        let new = json!({"id": "b", "short_id": "b", "time": "2026-01-02T03:04:05Z", "hostname": "web-1", "paths": ["/a"],
            "tags": ["t"], "summary": {"total_bytes_processed": 5, "total_files_processed": 2}});
        let read =
            snapshots(format!("a warning\n{}\n", json!([old, {"group_key": {}}, new])).as_bytes()).expect("a document");
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].short_id.as_str(), read[0].size_bytes), ("abcdef01", None));
        assert_eq!((read[1].size_bytes, read[1].file_count, read[1].tags.len()), (Some(5), Some(2), 1));
    }

    #[test]
    fn no_document_is_not_an_empty_one() {
        assert_eq!(snapshots(b""), None);
        assert_eq!(snapshots(b"Fatal: something\n"), None);
        assert_eq!(snapshots(b"null\n"), Some(vec![]));
        assert_eq!(snapshots(b"[]\n"), Some(vec![]));
    }

    #[test]
    fn forget_counts_all_groups_and_names_a_bounded_number() {
        let removed: Vec<Value> = (0..300).map(|n| json!({"short_id": format!("{n:08}")})).collect();
        let groups = [json!({"keep": [{}, {}], "remove": removed}), json!({"keep": [{}], "remove": null})];
        let summary = forget(&groups);
        assert_eq!((&summary["snapshots_kept"], &summary["snapshots_removed"]), (&json!(3), &json!(300)));
        assert_eq!(summary["removed"].as_array().map(Vec::len), Some(MOST_REMOVED_NAMED));
        assert_eq!(json!(forget(&[])), json!({"snapshots_kept": 0, "snapshots_removed": 0}));
    }
}
