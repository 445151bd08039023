//! Edge. `restic-manager plan`: what a configuration would change if it were deployed, host by host. Runs without a server, unless
//! it is asked to compare with one. Reads no file of a secret, and changes nothing.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::check::{compiler_line, severity_word};
use super::client::{CliFailure, Credentials};
use super::plan_side::{self, From, Side};
use super::plan_text;
use crate::problem::{Problem, Severity};
use crate::server::fleet::difference::difference;
use crate::server::fleet::load::{has_errors, load_again};
use crate::server::fleet::read_tree::with_unread;
use crate::server::fleet::remembered::Remembered;

/// Something changes (cli.md "Exit codes").
const CHANGES: u8 = 3;

/// Shows what a configuration would change, host by host. Exit code: 0 nothing, 3 something, 1 a side has errors.
#[derive(Debug, Clone, Args)]
pub struct PlanArguments {
    /// The configuration directory that would be deployed
    #[arg(value_name = "DIR", default_value = "config")]
    pub directory: PathBuf,
    /// What it is compared with: a directory, a running server's URL, or a revision of the git work tree that DIR is in, such as
    /// HEAD~1, a tag, or origin/main; a directory goes before a revision of its name [default: HEAD]
    #[arg(long, value_name = "DIR|URL|REV")]
    pub from: Option<String>,
    /// One JSON object, with every host
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub credentials: Credentials,
}

/// Both sides, as texts.
#[derive(Debug)]
pub struct Sides {
    old: Side,
    new: Side,
}

/// Reads both sides.
pub async fn read(arguments: &PlanArguments) -> Result<Sides, CliFailure> {
    let new = plan_side::of_directory(&arguments.directory);
    let old = match From::of(arguments.from.as_deref()) {
        From::Directory(directory) => plan_side::of_directory(&directory),
        From::Server(url) => plan_side::of_server(&url, &arguments.credentials).await?,
        From::Revision(revision) => {
            let given = arguments.from.is_some();
            plan_side::of_revision(&arguments.directory, &revision, given).await?
        }
    };
    Ok(Sides { old, new })
}

/// Compares and prints. Answers the exit code; an error is one of printing.
pub fn run(arguments: &PlanArguments, sides: &Sides, color: bool, out: &mut impl Write) -> io::Result<u8> {
    // What the first load makes is the second one's where nothing changed, so that only changes cost.
    let mut memory = Remembered::default();
    let mut load = |side: &Side| {
        let (fleet, problems) = load_again(&side.files, &mut memory);
        (fleet, with_unread(problems, side.unread.clone()))
    };
    let (old, old_problems) = load(&sides.old);
    let (new, new_problems) = load(&sides.new);
    let both = [(&sides.old, &old_problems), (&sides.new, &new_problems)];
    if both.iter().any(|(_, problems)| has_errors(problems)) {
        return tell_errors(arguments.json, &both, color, out);
    }
    let difference = difference(&old, &new);
    if arguments.json {
        writeln!(out, "{}", plan_text::json(&sides.old, &sides.new, &difference))?;
    } else {
        plan_text::write(&sides.old, &sides.new, &difference, color, out)?;
    }
    Ok(if difference.is_empty() { 0 } else { CHANGES })
}

/// A side, and what is wrong with it.
type Told<'a> = (&'a Side, &'a Vec<Problem>);

fn tell_errors(as_json: bool, sides: &[Told<'_>; 2], color: bool, out: &mut impl Write) -> io::Result<u8> {
    let errors = |problems: &Vec<Problem>| -> Vec<Problem> {
        problems.iter().filter(|problem| problem.severity == Severity::Error).cloned().collect()
    };
    if as_json {
        let listed = sides.iter().zip(["from", "to"]).flat_map(|((_, problems), which)| {
            errors(problems).into_iter().map(move |p| {
                let severity = severity_word(p.severity);
                json!({"side": which, "file": p.file, "line": p.line, "column": p.column, "severity": severity,
                       "message": p.message})
            })
        });
        let [(old, _), (new, _)] = sides;
        let object = json!({"from": old.json(), "to": new.json(), "problems": listed.collect::<Vec<_>>()});
        writeln!(out, "{object}")?;
        return Ok(1);
    }
    for (side, problems) in sides {
        let errors = errors(problems);
        for problem in &errors {
            writeln!(out, "{}", compiler_line(problem, color))?;
        }
        if !errors.is_empty() {
            let many = if errors.len() == 1 { "1 error".to_owned() } else { format!("{} errors", errors.len()) };
            writeln!(out, "{} has {many}, so there is nothing to plan", side.shown())?;
        }
    }
    Ok(1)
}

#[cfg(test)]
mod tests;
