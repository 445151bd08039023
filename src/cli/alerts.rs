//! Edge. `restic-manager alerts`: what needs a person, and the word that somebody has seen to it.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::api::{DEADLINE, Pages, Query, path, read};
use super::channels;
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::table::{Cell, Column, Style, Table, cell, cut, styled, whole, whole_or_none};
use super::words::Times;
use crate::http_client::HttpClient;

/// Characters of a whole id, and of the shortest beginning that stands for one (as with jobs).
const WHOLE_ID: usize = 36;
const SHORTEST_BEGINNING: usize = 8;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AlertsArguments {
    #[command(subcommand)]
    deed: Option<Deed>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// Say that an alert is seen to; it ends with its cause
    Ack(AckArguments),
    /// List where alerts are told, and how each channel fares
    Channels(channels::ChannelsArguments),
    /// Send a test message on a channel now, and say what was said there
    Test(channels::TestArguments),
}

#[derive(Debug, Args)]
struct AckArguments {
    /// The alert's id, or eight of its first characters and more
    alert: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// An open alert, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Alert {
    id: String,
    /// Absent: the fleet's own.
    host: Option<String>,
    kind: String,
    /// Absent: the server is older than it.
    severity: Option<String>,
    schedule_id: Option<String>,
    text: String,
    raised_at: Option<DateTime<Utc>>,
    pub(super) acknowledged_by: Option<String>,
}

impl Alert {
    pub(super) const COLUMNS: [Column; 8] = [
        whole("ALERT"),
        whole("HOST"),
        whole("KIND"),
        whole_or_none("SEVERITY", 5),
        cut("SCHEDULE", 3),
        whole_or_none("SINCE", 2),
        cut("SEEN TO BY", 4),
        cut("WHAT", 1),
    ];

    pub(super) fn row(&self, times: Times) -> Vec<Cell> {
        let style = match self.severity.as_deref() {
            _ if self.acknowledged_by.is_some() => Style::Faint,
            Some("warning") => Style::Doubtful,
            _ => Style::Bad,
        };
        vec![
            cell(&self.id),
            cell(self.host.as_deref().unwrap_or("(all)")),
            styled(&self.kind, style),
            styled(self.severity.as_deref().unwrap_or_default(), style),
            cell(self.schedule_id.as_deref().unwrap_or_default()),
            cell(times.show_if(self.raised_at)),
            cell(self.acknowledged_by.as_deref().unwrap_or_default()),
            cell(&self.text),
        ]
    }
}

pub(super) async fn run(arguments: &AlertsArguments) -> Result<u8, CliFailure> {
    match &arguments.deed {
        Some(Deed::Ack(arguments)) => return acknowledge(arguments).await,
        Some(Deed::Channels(arguments)) => return channels::list(arguments).await,
        Some(Deed::Test(arguments)) => return channels::test(arguments).await,
        None => {}
    }
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let times = output.times;
    let mut pages = Pages::new(&client, path(&["alerts"]), Query::default(), ("alerts", "after"), None);
    let table = Table::new(&Alert::COLUMNS);
    pages.show(&mut output, table, "no open alerts", |alert: &Alert| alert.row(times)).await?;
    Ok(0)
}

async fn acknowledge(arguments: &AckArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let id = whole_id(&client, &arguments.alert).await?;
    let answer = client.post_json(&path(&["alerts", &id, "ack"]), &serde_json::json!({}), DEADLINE).await;
    let value: Value = answer.map_err(|error| CliFailure::of(&error))?;
    if output.json {
        output.json(&value)?;
    } else {
        let alert: Alert = read(&value)?;
        let (host, by) = (alert.host.as_deref().unwrap_or("(all)"), alert.acknowledged_by.unwrap_or_default());
        output.line(&format!("alert {}, {} of {host}: seen to by {by}", alert.id, alert.kind))?;
    }
    output.flush()?;
    Ok(0)
}

/// The id of the only open alert whose id begins so. Where none does it stays as it is: the server says what is wrong with it.
async fn whole_id(client: &HttpClient, beginning: &str) -> Result<String, CliFailure> {
    if !(SHORTEST_BEGINNING..WHOLE_ID).contains(&beginning.len()) {
        return Ok(beginning.to_owned());
    }
    let mut pages = Pages::new(client, path(&["alerts"]), Query::default(), ("alerts", "after"), None);
    let mut found = Vec::new();
    while let Some(page) = pages.next().await? {
        let ids = page.iter().filter_map(|alert| alert["id"].as_str());
        found.extend(ids.filter(|id| id.starts_with(beginning)).map(str::to_owned));
    }
    if found.len() > 1 {
        return Err(CliFailure::usage(format!("several alerts' ids begin with {beginning}: {}", found.join(", "))));
    }
    Ok(found.pop().unwrap_or_else(|| beginning.to_owned()))
}
