//! What a host's journal says of the commands of a row: that each was queued, started and finished once and that there are no others,
//! and how long each took from its POST to its start. Shares no code with the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A job's facts, of which each is told once.
const FACTS: [&str; 3] = ["job.queued", "job.started", "job.finished"];

/// What is wrong, in a line each.
pub(crate) fn complaints(journal: &[Value], ids: &[String]) -> Vec<String> {
    let mut told: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in journal {
        let kind = line["type"].as_str().unwrap_or_default();
        if let (true, Some(id)) = (FACTS.contains(&kind), line["payload"]["job_id"].as_str()) {
            *told.entry((id, kind)).or_default() += 1;
        }
    }
    let mut complaints = Vec::new();
    for id in ids {
        for fact in FACTS {
            let times = told.remove(&(id, fact)).unwrap_or_default();
            if times != 1 {
                complaints.push(format!("{id}: {fact} {times} times"));
            }
        }
    }
    complaints.extend(told.keys().map(|(id, fact)| format!("{id}: {fact}, and nobody asked for it")));
    complaints
}

/// From each job's POST to the server's knowledge of its start.
pub(crate) fn delays(journal: &[Value], ids: &[String]) -> Vec<Duration> {
    let at = |id: &str, kind: &str, time: &str| -> DateTime<Utc> {
        let line = journal.iter().find(|line| line["type"] == kind && line["payload"]["job_id"] == id);
        let text = line.unwrap_or_else(|| unreachable!("{id}: no {kind}"))[time].as_str().unwrap_or_default();
        text.parse().expect("a time")
    };
    let delay = |id: &String| at(id, "job.started", "received_at") - at(id, "job.queued", "ts");
    ids.iter().map(|id| delay(id).to_std().unwrap_or_default()).collect()
}

/// What the journal has of a job, in short: when it was told, and when that was received.
pub(crate) fn lines_of(journal: &[Value], id: &str) -> Vec<String> {
    let lines = journal.iter().filter(|line| line["payload"]["job_id"] == id);
    lines.map(|line| format!("{id} {} {} {}", line["type"], line["ts"], line["received_at"])).collect()
}
