//! Pure. What ls, find, diff and stats print, in one shape for all versions: the README's "Getting data back" has it. Fields of
//! restic that only some versions print are left out. Does not read pipes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A file, directory or other node of a snapshot, as ls and find tell it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub(crate) struct Entry {
    /// find: in which snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<String>,
    /// find: that snapshot's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot_time: Option<String>,
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) path: String,
    /// file, dir, symlink, dev, chardev, fifo, socket.
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// Of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) permissions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtime: Option<String>,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
}

impl Entry {
    fn completed(mut self) -> Self {
        if self.name.is_empty() {
            self.name = self.path.rsplit('/').next().unwrap_or_default().to_owned();
        }
        // Zero is left out, and a directory has none.
        self.size = (self.kind == "file").then(|| self.size.unwrap_or(0));
        self
    }
}

/// A line of `ls --json`; `None`: it is not about a node.
pub(crate) fn ls_line(line: &str) -> Option<Entry> {
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    // 0.14 has struct_type only.
    let is_node = ["message_type", "struct_type"].iter().any(|key| fields.get(*key).is_some_and(|kind| kind == "node"));
    if !is_node {
        return None;
    }
    serde_json::from_value::<Entry>(Value::Object(fields)).ok().map(Entry::completed)
}

/// A line of `diff --json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DiffLine {
    Change(Change),
    Statistics(Map<String, Value>),
}

/// `modifier` is restic's: `+` added, `-` removed, `M` other content, `T` other type, `U` other metadata, `?` same metadata and other
/// content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Change {
    pub(crate) path: String,
    pub(crate) modifier: String,
}

pub(crate) fn diff_line(line: &str) -> Option<DiffLine> {
    let mut fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    let kind = fields.remove("message_type")?;
    match kind.as_str()? {
        "change" => serde_json::from_value(Value::Object(fields)).ok().map(DiffLine::Change),
        "statistics" => Some(DiffLine::Statistics(fields)),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Found {
    snapshot: String,
    matches: Option<Vec<Entry>>,
}

/// find's document: what was found, snapshot by snapshot as restic goes through them. `None`: there is no document.
pub(crate) fn find(stdout: &[u8]) -> Option<Vec<Entry>> {
    let found: Vec<Found> = stdout.split(|byte| *byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())?;
    let entries = found.into_iter().flat_map(|found| {
        let snapshot = found.snapshot;
        let of_one = move |entry: Entry| Entry { snapshot: Some(snapshot.clone()), ..entry.completed() };
        found.matches.unwrap_or_default().into_iter().map(of_one)
    });
    Some(entries.collect())
}

/// The counts of stats' document that every version knows, zeros included, and what 0.17 and later say of compression.
pub(crate) fn stats(line: &str) -> Option<Map<String, Value>> {
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    fields.get("total_size")?;
    let mut counts = Map::new();
    for name in ["snapshots_count", "total_size", "total_file_count", "total_blob_count"] {
        counts.insert(name.to_owned(), fields.get(name).cloned().unwrap_or_else(|| 0.into()));
    }
    for name in ["total_uncompressed_size", "compression_ratio", "compression_space_saving"] {
        if let Some(value) = fields.get(name) {
            counts.insert(name.to_owned(), value.clone());
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CAPTURED: [&str; 3] = ["0.14.0", "0.18.0", "0.19.1"];

    fn stdout(version: &str, case: &str) -> String {
        let runs = include_str!("../../tests/restic-json/others.jsonl").lines();
        let mut runs = runs.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let run = runs.find(|run| run["version"] == version && run["case"] == case).expect("a captured run");
        run["stdout"].as_str().expect("text").to_owned()
    }

    #[test]
    fn a_directory_is_listed_alike_by_all_versions() {
        let lists = CAPTURED.map(|version| {
            let lines: Vec<Entry> = stdout(version, "ls-json-path").lines().filter_map(ls_line).collect();
            lines.into_iter().map(|entry| json!(entry)).collect::<Vec<_>>()
        });
        assert_eq!(lists[0].len(), 3);
        assert_eq!(lists[0], lists[1]);
        assert_eq!(lists[1], lists[2]);
        assert_eq!(lists[0][1]["path"], "/data/home/alice");
    }

    #[test]
    fn what_was_found_is_told_alike_by_all_versions() {
        let found = CAPTURED.map(|version| {
            let mut entries = find(stdout(version, "find-one-snapshot-json").as_bytes()).expect("a document");
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].snapshot.take().expect("which").len(), 64);
            json!(entries)
        });
        assert_eq!(found[0], found[1]);
        assert_eq!(found[1], found[2]);
        assert_eq!((&found[0][0]["name"], &found[0][0]["size"]), (&json!("big.bin"), &json!(25_165_824)));
        for version in CAPTURED {
            assert_eq!(find(stdout(version, "find-none-json").as_bytes()), Some(Vec::new()));
        }
        assert_eq!(find(b"Fatal: no\n"), None);
    }

    #[test]
    fn changes_and_their_statistics_are_told_alike_by_all_versions() {
        let diffs = CAPTURED.map(|version| {
            let lines: Vec<DiffLine> = stdout(version, "diff-json").lines().filter_map(diff_line).collect();
            let Some(DiffLine::Statistics(statistics)) = lines.last().cloned() else { unreachable!() };
            assert_eq!(statistics["changed_files"], 1);
            lines[..lines.len() - 1].to_vec()
        });
        assert_eq!(diffs[0].len(), 5);
        assert!(diffs[0] == diffs[1] && diffs[1] == diffs[2]);
    }

    #[test]
    fn counts_have_one_shape_zeros_included() {
        for version in CAPTURED {
            let empty = stats(stdout(version, "stats-empty-json").trim()).expect("counts");
            assert_eq!((&empty["total_file_count"], &empty["snapshots_count"]), (&json!(0), &json!(0)));
            assert!(stats(stdout(version, "stats-raw-data-json").trim()).expect("counts")["total_blob_count"] != 0);
        }
        assert_eq!(stats("scanning..."), None);
    }
}
