//! Pure. What the fleet's page says of the configuration: which runs, whether the newest files were refused, and what is wrong with them. Does not
//! read them.

use chrono::{DateTime, Utc};

use super::html::{Content, El, Link, all, el};
use super::layout::{Mood, facts, mood, notice};
use super::shown;
use super::table::{Row, Table};
use crate::problem::{Problem, Severity};
use crate::server::alert::Alert;

/// Problems of each severity that are listed.
const MOST_PROBLEMS: usize = 20;

/// What of the configuration is told to those who may see all of the fleet.
#[derive(Debug, Clone, Default)]
pub struct ConfigState {
    pub version: u64,
    pub commit: Option<String>,
    pub dirty: Option<bool>,
    pub hosts: usize,
    pub adopted_at: Option<DateTime<Utc>>,
    /// Errors first; not all where there are very many.
    pub problems: Vec<Problem>,
    pub problem_count: usize,
    /// Open while the newest files are refused.
    pub refused: Option<Alert>,
}

/// What of the configuration must be seen at once.
pub fn config_trouble(config: &ConfigState) -> Option<El> {
    let errors = config.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    if config.refused.is_none() && errors == 0 {
        return None;
    }
    let text = "The newest configuration was refused, and the last good one runs:";
    let errors = format!("{errors} error{}", if errors == 1 { "" } else { "s" });
    let link = el("a").link("href", &Link::here("config")).with(errors);
    Some(notice(Mood::Bad, el("p").with(mood(Mood::Bad, text)).with(" ").with(link)))
}

/// The version that runs, and what is wrong with the files as they are now.
pub fn config_facts(config: &ConfigState, now: DateTime<Utc>) -> impl Content {
    let commit = config.commit.as_ref().map(|commit| {
        let dirty = if config.dirty == Some(true) { ", with changes that are not committed" } else { "" };
        all([(el("code").attr("title", commit).with(shown::commit(commit)), dirty)])
    });
    let list = facts(vec![
        ("Version", Some(all([config.version.to_string()]))),
        ("Commit", commit),
        ("Adopted", config.adopted_at.map(|at| all([shown::instant(at, now)]))),
        ("Hosts", Some(all([shown::count(config.hosts as u64)]))),
    ]);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        config.problems.iter().partition(|problem| problem.severity == Severity::Error);
    let rest = config.problem_count.saturating_sub(errors.len().min(MOST_PROBLEMS) + warnings.len().min(MOST_PROBLEMS));
    let more = Some(el("p").with(format!("{rest} more: see GET /v1/config"))).filter(|_| rest > 0);
    let mild_count = config.problem_count.saturating_sub(errors.len());
    let mild = el("details")
        .attr("id", "warnings")
        .with(el("summary").with(format!("{mild_count} warning{}", if mild_count == 1 { "" } else { "s" })))
        .with(problem_table("What works, but hardly as meant", &warnings));
    let errors = (!errors.is_empty()).then(|| problem_table("Errors of the files as they are now", &errors));
    let none = (config.problem_count == 0).then(|| el("p").class("nothing").with("No problems."));
    (list, errors, Some(mild).filter(|_| !warnings.is_empty()), more, none)
}

fn problem_table(caption: &str, problems: &[&Problem]) -> El {
    let mut table = Table::new(caption, &["Where", "What"]);
    for problem in problems.iter().take(MOST_PROBLEMS) {
        let line = if problem.line > 0 { format!("{}:{}", problem.file, problem.line) } else { problem.file.clone() };
        table.row(Row::new().cell(el("code").with(line)).cell(&problem.message));
    }
    table.or("None.")
}
