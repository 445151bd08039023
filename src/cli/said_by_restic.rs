//! Pure. What restic prints for programs, in words for people: the JSON of its summaries, and lines that count up to a hundred
//! percent. What is neither stays as it is.

use serde_json::{Map, Value};

use super::words::{count, size};

/// JSON that is longer than this is no text for a log.
const LONGEST_JSON_BYTES: usize = 2000;

/// A line of restic's standard output, where it is JSON that says something to people; `None`: it is to be shown as it is.
pub(super) fn summary_words(line: &str) -> Option<String> {
    let line = line.trim();
    if !line.starts_with(['{', '[']) {
        return None;
    }
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => match fields.get("message_type").and_then(Value::as_str)? {
            "summary" => of_summary(&fields),
            "initialized" => Some(format!("repository {} is made", short(fields.get("id")?.as_str()?))),
            _ => None,
        },
        Ok(Value::Array(groups)) if groups.iter().any(is_of_forget) => Some(of_forget(&groups)),
        // A list that was cut, or of a later restic.
        _ if line.len() > LONGEST_JSON_BYTES => Some(format!("[{} of JSON: --json has it]", size(line.len() as u64))),
        _ => None,
    }
}

fn of_summary(fields: &Map<String, Value>) -> Option<String> {
    let number = |name: &str| fields.get(name).and_then(Value::as_u64);
    let bytes = |name: &str| size(number(name).unwrap_or(0));
    if let Some(errors) = number("num_errors") {
        return Some(of_check(errors, fields));
    }
    if let Some(files) = number("total_files_processed") {
        let snapshot = fields.get("snapshot_id").and_then(Value::as_str);
        let snapshot = snapshot.map_or_else(|| "no snapshot".to_owned(), |id| format!("snapshot {}", short(id)));
        let [new, changed] = ["files_new", "files_changed"].map(|name| number(name).unwrap_or(0));
        let files = count(files, "file", "files");
        let (read, added) = (bytes("total_bytes_processed"), bytes("data_added"));
        return Some(format!("{snapshot}: {files} ({new} new, {changed} changed) of {read}, {added} added"));
    }
    let restored = number("files_restored")?;
    let of_all =
        number("total_files").filter(|total| *total != restored).map_or_else(String::new, |n| format!(" of {n}"));
    Some(format!("{}{of_all} restored, {}", count(restored, "file", "files"), bytes("bytes_restored")))
}

fn of_check(errors: u64, fields: &Map<String, Value>) -> String {
    let is_so = |name: &str| fields.get(name).and_then(Value::as_bool) == Some(true);
    let mut text = match errors {
        0 => "no errors were found".to_owned(),
        errors => format!("{} found", count(errors, "error was", "errors were")),
    };
    let broken = fields.get("broken_packs").and_then(Value::as_array).map_or(0, Vec::len);
    if broken > 0 {
        text.push_str(&format!(", {}", count(broken as u64, "damaged pack", "damaged packs")));
    }
    if is_so("suggest_repair_index") {
        text.push_str("; the index wants `restic repair index`");
    }
    if is_so("suggest_prune") {
        text.push_str("; there is data that nothing uses, which a prune removes");
    }
    text
}

fn is_of_forget(group: &Value) -> bool {
    group.get("keep").is_some() && group.get("remove").is_some()
}

fn of_forget(groups: &[Value]) -> String {
    let of = |name: &str| {
        let lists = groups.iter().filter_map(|group| group[name].as_array());
        count(lists.map(|list| list.len() as u64).sum(), "snapshot", "snapshots")
    };
    format!("{} kept, {} removed", of("keep"), of("remove"))
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// "[0:05] 33.33%  4 / 12 packs": how much of it is done, 0 to 1, and of what.
pub(super) fn counted(line: &str) -> Option<(f64, &str)> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let is_time = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    let (percent, what) = rest.split_once('%')?;
    let percent: f64 = percent.trim().parse().ok().filter(|_| is_time)?;
    Some((percent / 100.0, what.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn summaries_are_told_in_words_and_everything_else_as_it_is() {
        let id = "0123456789abcdef".repeat(4);
        for (line, words) in [
            (
                json!({"message_type": "summary", "files_new": 3, "files_changed": 0, "total_files_processed": 20,
                       "total_bytes_processed": 2048, "data_added": 100, "snapshot_id": id}),
                Some("snapshot 01234567: 20 files (3 new, 0 changed) of 2.0 KiB, 100 B added"),
            ),
            (
                json!({"message_type": "summary", "dry_run": true, "total_files_processed": 1}),
                Some("no snapshot: 1 file (0 new, 0 changed) of 0 B, 0 B added"),
            ),
            (
                json!({"message_type": "summary", "total_files": 3, "files_restored": 2, "bytes_restored": 7}),
                Some("2 files of 3 restored, 7 B"),
            ),
            (
                json!({"message_type": "summary", "num_errors": 0, "broken_packs": null, "suggest_repair_index": false, "suggest_prune": false}),
                Some("no errors were found"),
            ),
            (
                json!({"message_type": "summary", "num_errors": 1, "broken_packs": ["a"], "suggest_repair_index": true, "suggest_prune": true}),
                Some(
                    "1 error was found, 1 damaged pack; the index wants `restic repair index`; there is data that nothing uses, which a prune removes",
                ),
            ),
            (json!({"message_type": "initialized", "id": id, "repository": "/r"}), Some("repository 01234567 is made")),
            (
                json!([{"keep": [1, 2], "remove": null}, {"keep": [3], "remove": [4]}]),
                Some("3 snapshots kept, 1 snapshot removed"),
            ),
            (json!({"message_type": "novelty"}), None),
            (json!({"message_type": "summary", "novelty": 1}), None),
            (json!([1, 2]), None),
        ] {
            assert_eq!(summary_words(&line.to_string()).as_deref(), words, "{line}");
        }
        for line in ["", "no errors were found", "{not json", "[0:00] 100.00%  12 / 12 snapshots", "null"] {
            assert_eq!(summary_words(line), None);
        }
        let cut = format!("[{{\"keep\": [{}", "1,".repeat(2000));
        assert_eq!(summary_words(&cut).as_deref(), Some("[3.9 KiB of JSON: --json has it]"));
    }

    #[test]
    fn what_counts_up_to_a_hundred_percent_is_told_from_other_text() {
        assert_eq!(counted("[0:05] 33.50%  4 / 12 packs"), Some((0.335, "4 / 12 packs")));
        assert_eq!(counted("[1:00:00] 100.00%  12 / 12 snapshots"), Some((1.0, "12 / 12 snapshots")));
        for line in ["", "[a] 5% x", "[] 5% x", "[0:05] 4 / 12 packs", "33.33% done", "[0:05] x%"] {
            assert_eq!(counted(line), None, "{line}");
        }
    }
}
