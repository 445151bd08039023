//! Pure. One line of a job's log, as it is shown to people.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::said_by_restic::{counted, summary_words};
use super::words::utc;
use crate::printable::printable;
use crate::protocol::agent_event::{JobProgress, LogDropped, LogSource, LogStream};

/// What a line of a log is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LogLine {
    /// Printable, with its time.
    Text(String),
    Progress(JobProgress),
    /// The same of a job of which restic tells it in text: the part that is done, 0 to 1, and of what.
    Counted {
        part: f64,
        what: String,
        /// Printable, with its time.
        text: String,
    },
}

#[derive(Deserialize)]
struct Envelope {
    ts: DateTime<Utc>,
    #[serde(rename = "type")]
    kind: String,
    payload: Value,
}

/// Reads an envelope of a log; `None`: it is none.
pub(super) fn log_line(envelope: &Value) -> Option<LogLine> {
    let Envelope { ts, kind, payload } = Envelope::deserialize(envelope).ok()?;
    let text = match kind.as_str() {
        JobProgress::TYPE => return JobProgress::deserialize(payload).ok().map(LogLine::Progress),
        LogStream::TYPE => {
            let line = LogStream::deserialize(payload).ok()?;
            if line.stream == LogSource::Stdout
                && let Some((part, what)) = counted(&line.payload)
            {
                let text = format!("{} {}", utc(ts), printable(&line.payload));
                return Some(LogLine::Counted { part, what: printable(what), text });
            }
            let words = if line.stream == LogSource::Stdout { summary_words(&line.payload) } else { None };
            // A tab is a control character too, and an ordinary one in what programs print.
            let text = printable(&words.unwrap_or(line.payload).replace('\t', "    "));
            if line.stream == LogSource::Event { format!("[{text}]") } else { text }
        }
        LogDropped::TYPE => {
            let LogDropped { from, to } = LogDropped::deserialize(payload).ok()?;
            format!("[lines {from} to {to} were dropped on the host: there was no room for them]")
        }
        other => format!("[{}]", printable(other)),
    };
    Some(LogLine::Text(format!("{} {text}", utc(ts))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "0190b5a2-7c1e-4c3a-9f00-0123456789ab";

    fn text(kind: &str, payload: &Value) -> String {
        let line = json!({"seq": 1, "ts": "2026-01-01T00:00:00.5Z", "type": kind, "payload": payload});
        match log_line(&line).expect("a line") {
            LogLine::Text(text) => text,
            LogLine::Progress(_) | LogLine::Counted { .. } => unreachable!("no progress"),
        }
    }

    #[test]
    fn what_a_host_prints_drives_no_terminal() {
        let stream = |stream, payload: &str| {
            text(
                "log.stream",
                &json!({"job_id": ID, "seq": 1, "ts": "2026-01-01T00:00:00Z", "stream": stream, "payload": payload}),
            )
        };
        assert_eq!(stream("stdout", "a\tb\u{1b}[2J\u{202e}"), "2026-01-01T00:00:00Z a    b\\u{1b}[2J\\u{202e}");
        assert_eq!(stream("event", "restic ended"), "2026-01-01T00:00:00Z [restic ended]");
        assert_eq!(text("of.later\u{7}", &json!({})), "2026-01-01T00:00:00Z [of.later\\u{7}]");
        let dropped = text("log.dropped", &json!({"from": 2, "to": 9}));
        assert!(dropped.contains("lines 2 to 9 were dropped"), "{dropped}");
    }

    #[test]
    fn what_restic_prints_for_programs_is_told_in_words_and_only_from_its_standard_output() {
        let line = |stream: &str, payload: &str| {
            let payload =
                json!({"job_id": ID, "seq": 1, "ts": "2026-01-01T00:00:00Z", "stream": stream, "payload": payload});
            log_line(&json!({"seq": 1, "ts": "2026-01-01T00:00:00Z", "type": "log.stream", "payload": payload}))
        };
        let summary = r#"{"message_type":"summary","num_errors":0}"#;
        let text = |text: &str| Some(LogLine::Text(format!("2026-01-01T00:00:00Z {text}")));
        assert_eq!(line("stdout", summary), text("no errors were found"));
        assert_eq!(line("stderr", summary), text(summary));
        let packs = "[0:05] 50.00%  6 / 12 packs\u{7}";
        let shown = "2026-01-01T00:00:00Z [0:05] 50.00%  6 / 12 packs\\u{7}".to_owned();
        let counted = LogLine::Counted { part: 0.5, what: "6 / 12 packs\\u{7}".to_owned(), text: shown };
        assert_eq!(line("stdout", packs), Some(counted));
    }

    #[test]
    fn progress_is_no_text_and_what_is_no_envelope_is_nothing() {
        let line = json!({"seq": 1, "ts": "2026-01-01T00:00:00Z", "type": "job.progress", "payload": {"job_id": ID, "percent_done": 0.5}});
        assert!(matches!(log_line(&line), Some(LogLine::Progress(progress)) if progress.percent_done == Some(0.5)));
        assert_eq!(log_line(&json!({"ts": 1})), None);
    }
}
