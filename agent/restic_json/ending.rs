//! Pure. How a job ended: from restic's exit code, its version and what it said. The exit code decides, but for what old
//! versions only tell in text, and for two runs in which 0.18 says 0 and has not done what it was asked.
//! Does not know of cancelling: whether a job was cancelled is what the agent did, not what restic says.

use std::collections::VecDeque;

use restic_manager::protocol::agent_event::JobOutcome;
use restic_manager::protocol::job_options::{IncompleteMeans, JobKind};
use serde_json::Value;

use super::cause::{Cause, cause_in_old_text, cause_in_text};
use super::stderr::{StderrLine, is_missing_source, is_stack, stderr_line};
use super::{StdoutLine, Summary, document, stdout_line};
use crate::restic_version::ResticVersion;

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    /// Unix only.
    Signal(i32),
}

/// How a job ended, as far as restic says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobEnd {
    pub(crate) outcome: JobOutcome,
    /// A snapshot was made, without some of the sources.
    pub(crate) incomplete: bool,
    /// Absent: a signal ended it.
    pub(crate) exit_code: Option<i32>,
    /// Errors about single files and the like; the first ones, and how many more.
    pub(crate) warnings: Vec<String>,
    pub(crate) cause: Option<Cause>,
    /// For a person; there whenever the job failed.
    pub(crate) error: Option<String>,
    /// restic's summary.
    pub(crate) stats: Option<Summary>,
}

impl JobEnd {
    /// What an incomplete backup means for this schedule.
    pub(crate) fn with_incomplete_as(mut self, means: IncompleteMeans) -> Self {
        if self.incomplete && self.outcome == JobOutcome::Succeeded && means == IncompleteMeans::Fail {
            self.outcome = JobOutcome::Failed;
            self.error = Some("some sources could not be read, which this schedule counts as a failure".to_owned());
        }
        self
    }

    /// Everything that restic wrote goes through `mask`, before anyone sees it.
    pub(crate) fn masked(mut self, mask: impl Fn(&str) -> String) -> Self {
        self.warnings.iter_mut().for_each(|warning| *warning = mask(warning));
        self.error = self.error.as_deref().map(&mask);
        for value in self.stats.iter_mut().flat_map(Summary::values_mut) {
            if let Value::String(text) = value {
                *text = mask(text);
            }
        }
        self
    }
}

/// So many errors about single files are kept; all are counted.
const MOST_WARNINGS: usize = 20;
/// So many lines of stderr are kept for the error's text: 0.14's stack traces need some.
const TAIL_LINES: usize = 60;
const LONGEST_WARNING_BYTES: usize = 1024;
/// Of the first of many errors, in the error's text.
const LONGEST_FIRST_BYTES: usize = 300;
const LONGEST_ERROR_BYTES: usize = 4096;

/// What restic has said so far in one run.
#[derive(Debug)]
pub(crate) struct Transcript {
    kind: Option<JobKind>,
    summary: Option<Summary>,
    exit_error: Option<String>,
    warnings: Vec<String>,
    warning_count: usize,
    missing_source: bool,
    /// A snapshot that forget should remove is still there.
    removal_refused: bool,
    tail: VecDeque<String>,
    /// What restic was still trying when it said so last.
    last_retry: Option<String>,
    unknown_lines: u64,
    /// Snapshots that copy made.
    copied: u64,
}

impl Transcript {
    /// Of a job, or of a query (`None`).
    pub(crate) fn new(kind: Option<JobKind>) -> Self {
        Self {
            kind,
            summary: None,
            exit_error: None,
            warnings: Vec::new(),
            warning_count: 0,
            missing_source: false,
            removal_refused: false,
            tail: VecDeque::new(),
            last_retry: None,
            unknown_lines: 0,
            copied: 0,
        }
    }

    /// Takes a line of stdout, without its line end, and says what it is.
    pub(crate) fn stdout(&mut self, line: &[u8]) -> StdoutLine {
        let line = stdout_line(self.kind, line);
        match &line {
            StdoutLine::Summary(summary) => self.summary = Some(summary.clone()),
            StdoutLine::Fact { name, value, .. } => {
                self.summary.get_or_insert_default().insert((*name).to_owned(), value.clone().into());
            }
            StdoutLine::Unknown(_) => self.unknown_lines += 1,
            StdoutLine::Text(text) if self.kind == Some(JobKind::Copy) && is_copied(text) => self.copied += 1,
            StdoutLine::Progress(_) | StdoutLine::Text(_) | StdoutLine::Snapshots | StdoutLine::Nothing => {}
        }
        line
    }

    /// Takes a line of stderr, without its line end, and says what it is.
    pub(crate) fn stderr(&mut self, line: &[u8]) -> StderrLine {
        let line = stderr_line(line);
        match &line {
            StderrLine::Item(text) => {
                self.missing_source |= self.kind == Some(JobKind::Backup) && is_missing_source(text);
                self.warn(text);
            }
            StderrLine::ExitError(message) => self.exit_error = Some(message.clone()),
            StderrLine::Text(text) => {
                self.removal_refused |=
                    self.kind == Some(JobKind::Forget) && text.starts_with("unable to remove snapshot/");
                // What check finds is told in text, and is more than "the repository contains errors".
                if self.kind == Some(JobKind::Check) && !text.starts_with("Fatal: ") && is_telling(text) {
                    self.warn(text);
                }
                if is_retry(text) {
                    self.last_retry = Some(cut(text, LONGEST_WARNING_BYTES));
                }
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(cut(text, LONGEST_ERROR_BYTES));
            }
            StderrLine::Unknown(_) => self.unknown_lines += 1,
            StderrLine::Nothing => {}
        }
        line
    }

    fn warn(&mut self, text: &str) {
        self.warning_count += 1;
        if self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(cut(text, LONGEST_WARNING_BYTES));
        }
    }

    /// The last line in which restic said that it tries something again; it does so for 15 minutes.
    pub(crate) fn last_retry(&self) -> Option<&str> {
        self.last_retry.as_deref()
    }

    /// Lines of JSON that no known version prints: a sign of a restic newer than this agent.
    pub(crate) fn unknown_lines(&self) -> u64 {
        self.unknown_lines
    }

    /// How the job ended, once both streams have ended too.
    pub(crate) fn end(self, exit: Exit, version: ResticVersion) -> JobEnd {
        let backup = self.kind == Some(JobKind::Backup);
        let ok = match exit {
            Exit::Code(0) => !self.removal_refused,
            // restic's "a snapshot was made" is backup's alone: forget says 3 for snapshots that it could not remove.
            Exit::Code(3) => backup,
            Exit::Code(_) | Exit::Signal(_) => false,
        };
        let incomplete = ok && backup && (exit == Exit::Code(3) || self.missing_source);
        let cause = if ok { None } else { self.cause(exit, version) };
        let error = (!ok).then(|| self.error_text(exit, cause));
        // A check that found it locked has found nothing else, and its summary has an error all the same.
        let checked_nothing = self.kind == Some(JobKind::Check) && cause == Some(Cause::Locked);
        let mut warnings = if checked_nothing { Vec::new() } else { self.warnings.clone() };
        if !checked_nothing && self.warning_count > warnings.len() {
            warnings.push(format!("and {} more", self.warning_count - warnings.len()));
        }
        if incomplete && warnings.is_empty() {
            warnings.push("restic could not read all sources and does not say which".to_owned());
        }
        let stats = match self.summary {
            // It lists what should have been removed.
            Some(_) if self.removal_refused => None,
            _ if checked_nothing => None,
            // There is no summary in any version.
            _ if self.kind == Some(JobKind::Copy) => {
                Some(Summary::from_iter([("snapshots_copied".to_owned(), self.copied.into())]))
            }
            // Nothing matched, and restic said nothing.
            None if ok && self.kind == Some(JobKind::Forget) => Some(document::forget(&[])),
            summary => summary,
        };
        let outcome = if ok { JobOutcome::Succeeded } else { JobOutcome::Failed };
        let exit_code = match exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        };
        JobEnd { outcome, incomplete, exit_code, warnings, cause, error, stats }
    }

    fn cause(&self, exit: Exit, version: ResticVersion) -> Option<Cause> {
        let Exit::Code(code) = exit else { return None };
        let said = self.last_words();
        if version.has_distinct_exit_codes() {
            match code {
                10 => return Some(Cause::NoRepository),
                11 => return Some(Cause::Locked),
                12 => return Some(Cause::WrongPassword),
                _ => {}
            }
        } else if code == 1
            && let Some(cause) = cause_in_old_text(&said)
        {
            return Some(cause);
        }
        if code == 130 {
            return None;
        }
        // What forget says last is only that it failed; why stands with each snapshot.
        let everything = || self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let single = || is_summing_up(&said).then(|| cause_in_text(&self.warnings.join("\n"))).flatten();
        let cause = single()
            .or_else(|| cause_in_text(&said))
            .or_else(|| self.removal_refused.then(everything).and_then(|text| cause_in_text(&text)));
        // Who may not read is told 401 or stops before anything is removed.
        let removes = matches!(self.kind, Some(JobKind::Forget | JobKind::Prune));
        let refused = || everything().lines().any(|line| line.contains("Remove(<") && line.contains("403"));
        cause.map(|cause| if removes && cause == Cause::AccessDenied && refused() { Cause::AppendOnly } else { cause })
    }

    /// The lines in which restic says why it failed.
    fn last_words(&self) -> String {
        if let Some(message) = &self.exit_error {
            return joined(message.lines());
        }
        let fatal = self.tail.iter().rposition(|line| line.starts_with("Fatal: "));
        if let Some(at) = fatal {
            return joined(self.tail.range(at..=at).map(String::as_str));
        }
        let telling: Vec<&str> = self.tail.iter().map(String::as_str).filter(|line| is_telling(line)).collect();
        joined(telling[telling.len().saturating_sub(4)..].iter().copied())
    }

    fn error_text(&self, exit: Exit, cause: Option<Cause>) -> String {
        let ending = match exit {
            Exit::Signal(signal) => return died_of(signal),
            Exit::Code(0) => "restic could not remove snapshots, and exited with 0 all the same".to_owned(),
            Exit::Code(code) => format!("restic exited with {code}"),
        };
        let said = cut(&self.last_words(), LONGEST_ERROR_BYTES);
        let said = match self.warnings.first() {
            _ if said.is_empty() => ending,
            Some(first) if is_summing_up(&said) => format!("{said}, the first: {}", cut(first, LONGEST_FIRST_BYTES)),
            _ => said,
        };
        match cause {
            None => said,
            // restic's own words begin with what it was about, and end with the reason: a table has no room for both.
            Some(Cause::Unreachable) => format!("{}: {said}", Cause::Unreachable),
            Some(cause) => format!("{said} ({cause})"),
        }
    }
}

/// A last word that tells neither what went wrong nor where, but only that something did: what, was told before.
fn is_summing_up(said: &str) -> bool {
    let counts = said.strip_prefix("There were ").is_some_and(|rest| rest.ends_with(" errors"));
    counts || ["repository contains errors", "LoadIndex returned errors"].contains(&said)
}

/// "snapshot 0123abcd saved", in later versions followed by what it was copied from.
fn is_copied(text: &str) -> bool {
    text.strip_prefix("snapshot ")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(_, rest)| rest.starts_with("saved"))
}

/// The signals that people send, and those that the system does.
fn died_of(signal: i32) -> String {
    let name = match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL: by somebody, or by the kernel when memory ran out)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE: its output was read no longer)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU: a limit on processor time)",
        25 => " (SIGXFSZ: a limit on file sizes)",
        _ => "",
    };
    format!("restic died of signal {signal}{name}")
}

/// Where the lines of one message become one line, without restic's advice for someone at a terminal.
fn joined<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = Vec::new();
    for line in lines.filter(|line| is_telling(line)) {
        let mut line = line.trim();
        while let Some(rest) = line.strip_prefix("Fatal: ") {
            line = rest;
        }
        words.push(line);
    }
    words.join("; ")
}

/// "Save(<data/ff4835>) returned error, retrying after 1s: ...": an outage that may pass.
pub(crate) fn is_retry(line: &str) -> bool {
    line.contains(" returned error, retrying after ")
}

/// Neither a stack trace, nor a retry, nor advice.
fn is_telling(line: &str) -> bool {
    let noise = ["Is there a repository at the following location?", "the `unlock` command can be used", "storage ID "];
    let interrupted = line.starts_with("signal ") && line.contains(" received, cleaning up");
    let empty = line.trim().is_empty();
    !(empty || interrupted || is_retry(line) || is_stack(line) || noise.iter().any(|noise| line.starts_with(noise)))
}

pub(crate) fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ...", &text[..end])
}

#[cfg(test)]
mod tests;
