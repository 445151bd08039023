//! Pure. Places in a text, and the collecting of one file's problems. Does not know what the text means.

use std::cell::RefCell;

use crate::problem::{Problem, Severity};

/// Problems told per file; more of them help no one, and a hostile file could have a million.
pub(super) const PROBLEMS_PER_FILE: usize = 100;

/// Where in a file something stands: line and column from 1, or 0 where the whole file is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    pub const FILE: Self = Self { line: 0, column: 0 };

    pub fn error(self, file: &str, message: impl Into<String>) -> Problem {
        self.problem(file, Severity::Error, message.into())
    }

    pub fn warning(self, file: &str, message: impl Into<String>) -> Problem {
        self.problem(file, Severity::Warning, message.into())
    }

    fn problem(self, file: &str, severity: Severity, message: String) -> Problem {
        Problem { file: file.to_owned(), line: self.line, column: self.column, severity, message }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Placed<T> {
    /// Another value at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Placed<U> {
        Placed { value: change(self.value), place: self.place }
    }
}

/// One file while it is read.
pub(super) struct Document<'d> {
    pub(super) file: &'d str,
    text: &'d str,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
    pub(super) problems: RefCell<Vec<Problem>>,
}

impl<'d> Document<'d> {
    pub(super) fn new(file: &'d str, text: &'d str) -> Self {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { file, text, lines, problems: RefCell::default() }
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.lines[line - 1]..offset.min(self.text.len())).unwrap_or_default();
        let column = before.chars().count() + 1;
        Place { line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
    }

    pub(super) fn add(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_PER_FILE {
            problems.push(problem);
        } else if problems.len() == PROBLEMS_PER_FILE {
            problems.push(Place::FILE.error(self.file, "has more problems; mend these first"));
        }
    }
}
