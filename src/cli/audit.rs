//! Edge. `restic-manager audit`: who changed what, newest first.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;

use super::api::{Pages, Query, path};
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::table::{Cell, Table, cell, cut, whole, whole_or_none};
use super::words::Times;

#[derive(Debug, Args)]
pub struct AuditArguments {
    /// At most so many, the newest first; 0: all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Those before this one: the seq of an entry, as --json has it
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// A change, as far as it is shown. Actions of later servers are words like any other.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    at: Option<DateTime<Utc>>,
    by: String,
    role: String,
    action: String,
    host: Option<String>,
    job: Option<String>,
    client: String,
}

pub(super) async fn run(arguments: &AuditArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let most = Some(arguments.limit).filter(|limit| *limit > 0);
    let columns = [
        whole("WHEN"),
        whole("BY"),
        whole_or_none("ROLE", 4),
        whole("ACTION"),
        whole("HOST"),
        whole_or_none("FROM", 2),
        cut("JOB", 1),
    ];
    let times = output.times;
    let pages = Pages::new(&client, path(&["audit"]), Query::default(), ("audit", "before"), most);
    let mut pages = pages.from(arguments.before);
    pages.show(&mut output, Table::new(&columns), "no changes", |entry: &Entry| row(entry, times)).await?;
    Ok(0)
}

fn row(entry: &Entry, times: Times) -> Vec<Cell> {
    vec![
        cell(times.show_if(entry.at)),
        cell(&entry.by),
        cell(&entry.role),
        cell(&entry.action),
        cell(entry.host.as_deref().unwrap_or("(all)")),
        cell(&entry.client),
        cell(entry.job.as_deref().unwrap_or_default()),
    ]
}
