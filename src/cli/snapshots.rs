//! Edge. `restic-manager snapshots`: what a host can be restored from.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;

use super::api::{Pages, Query, path};
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::table::{Cell, Table, cell, cut, number, whole};
use super::words::{self, Times};

#[derive(Debug, Args)]
pub struct SnapshotsArguments {
    /// The host
    host: String,
    /// Have the agent look now, instead of what it has reported after its last backup
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Snapshot {
    id: String,
    short_id: String,
    time: Option<DateTime<Utc>>,
    hostname: String,
    paths: Vec<String>,
    tags: Vec<String>,
    size_bytes: Option<u64>,
    file_count: Option<u64>,
}

pub(super) async fn run(arguments: &SnapshotsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let times = output.times;
    let path = path(&["hosts", &arguments.host, "snapshots"]);
    let query = Query::default().flag("refresh", arguments.refresh);
    let pages = Pages::of_question(&client, path, query, "snapshots");
    let mut pages = pages.unlimited();
    let columns = [
        whole("SNAPSHOT"),
        whole("TIME"),
        number("SIZE"),
        number("FILES"),
        cut("PATHS", 1),
        cut("TAGS", 2),
        cut("MADE ON", 3),
    ];
    let none = "no snapshots: none was reported yet; --refresh has the agent look";
    pages.show(&mut output, Table::new(&columns), none, |snapshot: &Snapshot| row(snapshot, times)).await?;
    Ok(0)
}

fn row(snapshot: &Snapshot, times: Times) -> Vec<Cell> {
    let id = if snapshot.short_id.is_empty() { &snapshot.id } else { &snapshot.short_id };
    // The job's own tag is of no use to people.
    let tags: Vec<&str> = snapshot.tags.iter().map(String::as_str).filter(|tag| !tag.starts_with("job:")).collect();
    vec![
        cell(id),
        cell(times.show_if(snapshot.time)),
        cell(snapshot.size_bytes.map(words::size).unwrap_or_default()),
        cell(snapshot.file_count.map(|count| count.to_string()).unwrap_or_default()),
        cell(snapshot.paths.join(" ")),
        cell(tags.join(" ")),
        cell(&snapshot.hostname),
    ]
}
