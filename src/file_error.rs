//! Pure. An I/O error with the file and the deed it belongs to, for errors that say what failed where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Display`: `cannot DEED PATH`; the cause is `source`.
#[derive(Debug)]
pub struct FileError {
    /// A verb: "read", "append to", "make durable".
    pub deed: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub fn of(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { deed, path: path.to_owned(), source }
    }

    /// No space or quota left: nothing can be acknowledged until there is some.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.deed, self.path.display())
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// An error and all its causes on one line: "a: b: c".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
