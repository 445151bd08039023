//! Pure. What is wrong with something that a person wrote: where, what, and what to write instead.
//! Does not read files or print: `check`, the server and the agent do.

use std::fmt;

/// Whether a problem stops what was written from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Refused as a whole until it is mended.
    Error,
    /// Works, but hardly as meant.
    Warning,
}

/// One problem. Problems sort by file, then by place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Relative to the directory that was read, with `/`.
    pub file: String,
    /// From 1; 0 where the whole file is meant.
    pub line: u32,
    /// From 1, in characters; 0 where the whole file is meant.
    pub column: u32,
    pub severity: Severity,
    /// One sentence, in lower case, without a full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: {}", self.message)
    }
}

/// The line and column (both from 1) of a byte offset.
pub fn line_and_column(text: &str, offset: usize) -> (u32, u32) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "a = 1\né = 2\n";
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, text.find('=').expect("an =")), (1, 3));
        assert_eq!(line_and_column(text, text.rfind('=').expect("an =")), (2, 3));
        assert_eq!(line_and_column(text, 999), (3, 1));
    }
}
