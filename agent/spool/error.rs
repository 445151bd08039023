//! Pure. Why the spool did not do what was asked.

use std::fmt;

use restic_manager::file_error::FileError;

#[derive(Debug)]
pub(crate) enum SpoolError {
    /// There is no room until the server acknowledges something.
    Full,
    /// One event is larger than the protocol allows; its maker has to page it.
    TooLarge {
        kind: &'static str,
        len: usize,
    },
    /// The server claims events that were never written here: a clone's, or ones that this disk has lost.
    AcknowledgedTooMuch {
        up_to: u64,
        last: u64,
    },
    /// An event has no JSON form.
    Json(serde_json::Error),
    File(FileError),
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the spool is full: the server has to acknowledge events first"),
            Self::TooLarge { kind, len } => {
                write!(f, "an event {kind} of {len} bytes is larger than the protocol allows")
            }
            Self::AcknowledgedTooMuch { up_to, last } => {
                write!(f, "the server acknowledges event {up_to}, but the last one is {last}")
            }
            Self::Json(_) => f.write_str("an event cannot be written as JSON"),
            Self::File(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SpoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::File(error) => error.source(),
            _ => None,
        }
    }
}

impl From<FileError> for SpoolError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}
