//! Edge. Where the operator's commands print: tables and lines for people, the API's own JSON for scripts. Knows the terminal; does
//! not know what is printed.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use clap::Args;
use serde_json::Value;

use super::failure::CliFailure;
use super::table::Screen;
use super::words::Times;
use crate::clock;
use crate::printable::{json_line, printable};

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArguments {
    /// The server's own JSON, one object a line
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
    /// Times in UTC instead of "3 h ago"
    #[arg(long, help_heading = "Output")]
    pub(super) utc: bool,
}

/// Standard output, and how to write to it.
pub(super) struct Output {
    out: BufWriter<Stdout>,
    pub(super) json: bool,
    pub(super) times: Times,
    pub(super) screen: Screen,
}

impl Output {
    pub(super) fn new(arguments: OutputArguments) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let wants_color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        Self {
            out: BufWriter::new(io::stdout()),
            json: arguments.json,
            times: if arguments.utc { Times::Utc } else { Times::From(clock::now()) },
            screen: Screen {
                width: width.filter(|width| is_terminal && *width > 0),
                has_color: is_terminal && wants_color,
            },
        }
    }

    /// Lines that are safe and styled already: a table's.
    pub(super) fn lines(&mut self, lines: &str) -> Result<(), CliFailure> {
        self.out.write_all(lines.as_bytes()).map_err(|error| failed(&error))
    }

    /// One line of anybody's text.
    pub(super) fn line(&mut self, text: &str) -> Result<(), CliFailure> {
        self.lines(&format!("{}\n", printable(text)))
    }

    pub(super) fn json(&mut self, value: &Value) -> Result<(), CliFailure> {
        self.lines(&format!("{}\n", json_line(value)))
    }

    /// Shows what was printed: at the end, and before waiting.
    pub(super) fn flush(&mut self) -> Result<(), CliFailure> {
        self.out.flush().map_err(|error| failed(&error))
    }
}

/// A remark beside the output, on standard error.
pub(super) fn remark(text: &str) {
    // Nobody is there to be told that nobody is there.
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

fn failed(error: &io::Error) -> CliFailure {
    match error.kind() {
        // Whoever read the output went away, as `head` does.
        io::ErrorKind::BrokenPipe => CliFailure::silent(1),
        _ => CliFailure::from(format!("cannot print: {error}")),
    }
}
