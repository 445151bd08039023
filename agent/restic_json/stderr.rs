//! Pure. What one line of stderr is: an error about one file, restic's last word, or text. Does not judge the job.

use serde_json::{Map, Value};

use super::readable;

/// What one line of stderr is, as text for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StderrLine {
    /// About one file, or one thing that `check` found: "item: message".
    Item(String),
    /// The last line of a failed run, from 0.17 on; its stack trace is cut off.
    ExitError(String),
    Text(String),
    Nothing,
    /// JSON of a type that no known version prints here.
    Unknown(String),
}

impl StderrLine {
    /// For the log; `None`: nothing to show.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Item(text) | Self::ExitError(text) | Self::Text(text) | Self::Unknown(text) => Some(text),
            Self::Nothing => None,
        }
    }
}

/// Reads a line of stderr, without its line end.
pub(crate) fn stderr_line(line: &[u8]) -> StderrLine {
    let trimmed = line.trim_ascii();
    if trimmed.first() == Some(&b'{')
        && let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(trimmed)
    {
        return object(&fields).unwrap_or_else(|| StderrLine::Unknown(readable(trimmed)));
    }
    let text = readable(line);
    if text.is_empty() {
        return StderrLine::Nothing;
    }
    // 0.14's restore, and the backups of all versions before 0.19, tell of single files in text.
    if let Some(about) = text.strip_prefix("ignoring error for ") {
        return StderrLine::Item(about.to_owned());
    }
    if is_missing_source(&text) {
        return StderrLine::Item(text);
    }
    StderrLine::Text(text)
}

/// A source of a backup is not there; only from 0.19 on does the exit code say so too.
pub(crate) fn is_missing_source(text: &str) -> bool {
    text.ends_with(" does not exist, skipping")
}

fn object(fields: &Map<String, Value>) -> Option<StderrLine> {
    let text_of = |name: &str| fields.get(name).and_then(Value::as_str);
    match text_of("message_type")? {
        "exit_error" => {
            let message = readable(text_of("message")?.as_bytes());
            Some(StderrLine::ExitError(without_stack(&message)))
        }
        "error" => {
            let message = error_message(fields);
            let item = text_of("item").filter(|item| !item.is_empty());
            let text = item.map_or_else(|| message.clone(), |item| format!("{item}: {message}"));
            Some(StderrLine::Item(readable(text.as_bytes())))
        }
        _ => None,
    }
}

/// 0.14 prints Go's error value, whose text is lost but for an error number of the system.
fn error_message(fields: &Map<String, Value>) -> String {
    let error = fields.get("error");
    let message =
        error.and_then(|error| error.get("message")).or_else(|| fields.get("message")).and_then(Value::as_str);
    if let Some(message) = message {
        return message.to_owned();
    }
    let of_error = |name: &str| error.and_then(|error| error.get(name));
    match (of_error("Err").and_then(Value::as_i64), of_error("Op").and_then(Value::as_str)) {
        (Some(number), operation) => format!("{}: {}", operation.unwrap_or("failed"), system_error(number)),
        (None, Some(operation)) => format!("{operation} failed"),
        (None, None) => "could not be read (restic before 0.17 does not say why)".to_owned(),
    }
}

/// Linux's numbers: 0.14 on Windows is told by number.
fn system_error(number: i64) -> String {
    let known = match number {
        2 if !cfg!(windows) => "no such file or directory",
        5 if !cfg!(windows) => "input/output error",
        13 if !cfg!(windows) => "permission denied",
        28 if !cfg!(windows) => "no space left on device",
        _ => return format!("system error {number}"),
    };
    known.to_owned()
}

/// The lines before Go's stack trace.
fn without_stack(message: &str) -> String {
    let lines: Vec<&str> = message.lines().take_while(|line| !is_stack(line)).collect();
    if lines.is_empty() { message.to_owned() } else { lines.join("\n").trim().to_owned() }
}

/// A line of Go's stack trace: a function's name with its package, or a file after a tab.
pub(crate) fn is_stack(line: &str) -> bool {
    let packages = ["github.com/", "golang.org/", "main.", "runtime.", "net/", "os."];
    line.starts_with('\t') || (!line.contains(' ') && packages.iter().any(|package| line.starts_with(package)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> StderrLine {
        StderrLine::Item(text.to_owned())
    }

    #[test]
    fn errors_about_files_become_item_and_message() {
        for (line, expected) in [
            (
                r#"{"message_type":"error","error":{"message":"open x: permission denied"},"during":"scan","item":"/x"}"#,
                "/x: open x: permission denied",
            ),
            (
                r#"{"message_type":"error","error":{"Op":"open","Path":"/x","Err":13},"during":"archival","item":"/x"}"#,
                // Numbers are the host's own: Windows has no such 13.
                if cfg!(windows) { "/x: open: system error 13" } else { "/x: open: permission denied" },
            ),
            (
                r#"{"message_type":"error","error":{"Op":"open","Path":"/x","Err":99},"during":"archival","item":"/x"}"#,
                "/x: open: system error 99",
            ),
            (
                r#"{"message_type":"error","error":{},"during":"archival","item":"/x"}"#,
                "/x: could not be read (restic before 0.17 does not say why)",
            ),
            (r#"{"message_type":"error","message":"pack 1: does not exist"}"#, "pack 1: does not exist"),
            ("ignoring error for /x: mkdir /y: permission denied", "/x: mkdir /y: permission denied"),
            ("/data/nope does not exist, skipping", "/data/nope does not exist, skipping"),
        ] {
            assert_eq!(stderr_line(line.as_bytes()), item(expected));
        }
    }

    #[test]
    fn restics_last_word_is_told_without_its_stack() {
        let line = r#"{"message_type":"exit_error","code":3,"message":"failed to remove\nmain.init\n\tgithub.com/x.go:67\nruntime.goexit"}"#;
        assert_eq!(stderr_line(line.as_bytes()), StderrLine::ExitError("failed to remove".to_owned()));
    }

    #[test]
    fn what_is_neither_is_text_or_unknown() {
        assert_eq!(stderr_line(b"\x1b[2K"), StderrLine::Nothing);
        assert_eq!(stderr_line(b"unknown flag: --x"), StderrLine::Text("unknown flag: --x".to_owned()));
        assert!(matches!(stderr_line(b"{\"message_type\":\"novelty\"}"), StderrLine::Unknown(_)));
        assert!(matches!(stderr_line(b"{\"x\":1}"), StderrLine::Unknown(_)));
    }
}
