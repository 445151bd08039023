//! Pure. Output that is one JSON document: the list of snapshots, and what forget kept and removed.
//! Does not know which of it fits into one event: whoever sends the list pages it.

use chrono::{DateTime, Utc};
use restic_manager::protocol::agent_event::Snapshot;
use serde::Deserialize;
use serde_json::Value;

use super::Summary;

/// So many snapshots are named in each list of a job's statistics; the counts are always exact.
const MOST_NAMED: usize = 100;
/// So many of the rules that keep a snapshot: with these bounds a job's end fits into one event.
const MOST_REASONS: usize = 6;

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
    let list =
        |group: &'_ Value, name: &str| group.get(name).and_then(Value::as_array).map_or(Vec::new(), Clone::clone);
    let (mut kept, mut removed) = (Vec::new(), Vec::new());
    for group in groups {
        // For each kept snapshot, in the same order, the rules that keep it.
        let reasons = list(group, "reasons");
        let keep = list(group, "keep");
        kept.extend(keep.iter().enumerate().map(|(n, snapshot)| named(snapshot, reasons.get(n))));
        removed.extend(list(group, "remove").iter().map(|snapshot| named(snapshot, None)));
    }
    let mut summary = Summary::new();
    for (count, names, mut snapshots) in [("snapshots_kept", "kept", kept), ("snapshots_removed", "removed", removed)] {
        summary.insert(count.to_owned(), snapshots.len().into());
        snapshots.truncate(MOST_NAMED);
        if !snapshots.is_empty() {
            summary.insert(names.to_owned(), snapshots.into());
        }
    }
    summary
}

/// What a forget that was no preview says of itself: what it kept is in the list of snapshots anyway.
pub(crate) fn without_kept(summary: &mut Summary) {
    summary.remove("kept");
}

/// `{"snapshot", "time", "host", "reasons"}`.
fn named(snapshot: &Value, reason: Option<&Value>) -> Value {
    let mut named = Summary::new();
    for (name, field) in [("snapshot", "short_id"), ("time", "time"), ("host", "hostname")] {
        if let Some(text) = snapshot.get(field).and_then(Value::as_str) {
            // A host's name may be any text of the repository's.
            named.insert(name.to_owned(), text.chars().take(64).collect::<String>().into());
        }
    }
    if let Some(matches) = reason.and_then(|reason| reason.get("matches")).and_then(Value::as_array) {
        named.insert("reasons".to_owned(), matches.iter().take(MOST_REASONS).cloned().collect::<Vec<_>>().into());
    }
    named.into()
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
        assert_eq!(summary["removed"].as_array().map(Vec::len), Some(MOST_NAMED));
        let group = json!({"keep": [{"short_id": "a", "time": "t", "hostname": "h"}], "reasons": [{"matches": ["last snapshot"]}]});
        let expected = json!([{"snapshot": "a", "time": "t", "host": "h", "reasons": ["last snapshot"]}]);
        assert_eq!(forget(&[group])["kept"], expected);
        assert_eq!(json!(forget(&[])), json!({"snapshots_kept": 0, "snapshots_removed": 0}));
    }
}
