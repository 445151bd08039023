//! Edge. What is in a host's snapshots: `restic-manager ls`, `find`, `diff` and `stats`. The host's agent answers, so it must be
//! online.

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Pages, Query, answer_of_agent, path};
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments, remark};
use super::table::{Cell, Style, Table, cell, facts, number, styled, whole, whole_or_none};
use super::words::{self, Times};

#[derive(Debug, Args)]
pub struct LsArguments {
    /// The host
    host: String,
    /// The snapshot: an id, or latest
    snapshot: String,
    /// A folder or file, as the snapshot has it (/etc, /C/Users)
    #[arg(default_value = "/")]
    path: String,
    /// Everything below it too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct FindArguments {
    /// The host
    host: String,
    /// A name or a path, with restic's wildcards, such as '*.ods'
    pattern: String,
    /// In this snapshot only
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
    /// In snapshots of this time or later, such as 2026-11-16T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// In snapshots before this time
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    /// Capitals or not
    #[arg(short, long)]
    ignore_case: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct DiffArguments {
    /// The host
    host: String,
    /// The older snapshot: an id, or latest
    from: String,
    /// The newer one
    to: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct StatsArguments {
    /// The host
    host: String,
    /// One snapshot, or latest [default: all of the host's]
    snapshot: Option<String>,
    /// What is counted
    #[arg(long, value_enum, default_value_t = Mode::RestoreSize)]
    mode: Mode,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// What a restore would write
    RestoreSize,
    FilesByContents,
    BlobsPerFile,
    /// What the repository holds of it
    RawData,
}

/// A file, folder or other node of a snapshot.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    snapshot: String,
    snapshot_time: Option<DateTime<Utc>>,
    name: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
    size: Option<u64>,
    permissions: Option<String>,
    mtime: Option<DateTime<Utc>>,
    uid: u32,
    gid: u32,
}

impl Entry {
    /// Folders are told by a slash.
    fn shown(&self, text: &str) -> Cell {
        if self.kind == "dir" { styled(format!("{text}/"), Style::Heading) } else { cell(text) }
    }

    fn size(&self) -> Cell {
        cell(self.size.map(words::size).unwrap_or_default())
    }
}

pub(super) async fn ls(arguments: &LsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let times = output.times;
    let query = Query::default().with("path", Some(&arguments.path)).flag("recursive", arguments.recursive);
    let path = path(&["hosts", &arguments.host, "snapshots", &arguments.snapshot, "ls"]);
    let mut pages = Pages::of_question(&client, path, query, "entries");
    let name = if arguments.recursive { "PATH" } else { "NAME" };
    let columns = [
        whole_or_none("RIGHTS", 3),
        number("UID"),
        number("GID"),
        number("SIZE"),
        whole_or_none("CHANGED", 2),
        whole(name),
    ];
    let row = |entry: &Entry| {
        vec![
            cell(entry.permissions.as_deref().unwrap_or_default()),
            cell(entry.uid.to_string()),
            cell(entry.gid.to_string()),
            entry.size(),
            cell(times.show_if(entry.mtime)),
            entry.shown(if arguments.recursive { &entry.path } else { &entry.name }),
        ]
    };
    pages.show(&mut output, Table::new(&columns), "nothing is in there", row).await?;
    tell_if_cut(&pages.page);
    Ok(0)
}

pub(super) async fn find(arguments: &FindArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let times = output.times;
    let query = Query::default()
        .with("pattern", Some(&arguments.pattern))
        .with("snapshot", arguments.snapshot.as_ref())
        .with("since", arguments.since.map(words::utc))
        .with("until", arguments.until.map(words::utc))
        .flag("ignore_case", arguments.ignore_case);
    let mut pages = Pages::of_question(&client, path(&["hosts", &arguments.host, "find"]), query, "matches");
    let columns =
        [whole("SNAPSHOT"), whole_or_none("MADE", 1), number("SIZE"), whole_or_none("CHANGED", 2), whole("PATH")];
    pages.show(&mut output, Table::new(&columns), "nothing was found", |entry: &Entry| match_row(entry, times)).await?;
    tell_if_cut(&pages.page);
    Ok(0)
}

fn match_row(entry: &Entry, times: Times) -> Vec<Cell> {
    vec![
        cell(entry.snapshot.chars().take(8).collect::<String>()),
        cell(times.show_if(entry.snapshot_time)),
        entry.size(),
        cell(times.show_if(entry.mtime)),
        entry.shown(&entry.path),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Change {
    path: String,
    modifier: String,
}

pub(super) async fn diff(arguments: &DiffArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let path = path(&["hosts", &arguments.host, "snapshots", &arguments.from, "diff", &arguments.to]);
    let mut pages = Pages::of_question(&client, path, Query::default(), "changes");
    let row = |change: &Change| {
        let style = match change.modifier.as_str() {
            "+" => Style::Good,
            "-" => Style::Bad,
            _ => Style::Doubtful,
        };
        vec![styled(&change.modifier, style), cell(&change.path)]
    };
    pages.show(&mut output, Table::new(&[whole(""), whole("PATH")]), "nothing has changed", row).await?;
    let statistics = pages.page["statistics"].take();
    if output.json {
        output.json(&json!({"statistics": statistics}))?;
    } else if statistics.is_object() {
        let count = |side: &str, name: &str| statistics[side][name].as_u64().unwrap_or(0);
        let told = |side| {
            format!("{}, {}", words::count(count(side, "files"), "file", "files"), words::size(count(side, "bytes")))
        };
        output.line(&format!("added {}; removed {}", told("added"), told("removed")))?;
    }
    output.flush()?;
    tell_if_cut(&pages.page);
    Ok(0)
}

pub(super) async fn stats(arguments: &StatsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let mode = arguments.mode.to_possible_value().map(|mode| mode.get_name().to_owned());
    let query = Query::default().with("snapshot", arguments.snapshot.as_ref()).with("mode", mode);
    let value = answer_of_agent(&client, &path(&["hosts", &arguments.host, "stats"]), query).await?;
    if output.json {
        output.json(&value)?;
    } else {
        output.lines(&facts(&counted(&value["stats"]), output.screen))?;
    }
    output.flush()?;
    Ok(0)
}

/// What was counted; zero blobs and files are those of a mode that does not count them.
fn counted(stats: &Value) -> Vec<(&'static str, Cell)> {
    let number = |name: &str| stats[name].as_u64();
    let mut facts = vec![("snapshots", cell(number("snapshots_count").unwrap_or(0).to_string()))];
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, cell(value))));
    add("size", number("total_size").map(words::size));
    add("uncompressed", number("total_uncompressed_size").map(words::size));
    add("compression", stats["compression_ratio"].as_f64().map(|ratio| format!("1 : {ratio:.1}")));
    add("files", number("total_file_count").filter(|count| *count > 0).map(|count| count.to_string()));
    add("blobs", number("total_blob_count").filter(|count| *count > 0).map(|count| count.to_string()));
    facts
}

fn tell_if_cut(page: &Value) {
    if page["truncated"] == true {
        remark("there is more than the server keeps of one answer: ask for less, such as one folder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Screen;

    #[test]
    fn hostile_names_are_shown_as_what_they_are() {
        let entry = Entry { path: "/a\u{1b}[2J\n".to_owned(), kind: "dir".to_owned(), ..Entry::default() };
        let table = Table::new(&[whole("A"), whole("B"), number("C"), whole("D"), whole("E")])
            .part(&[match_row(&entry, Times::Utc)], Screen::default());
        assert!(table.ends_with("/a\\u{1b}[2J\\u{a}/\n"), "{table:?}");
    }

    #[test]
    fn what_a_mode_does_not_count_is_not_told() {
        let shown = |stats: Value| facts(&counted(&stats), Screen::default());
        let raw = json!({"snapshots_count": 2, "total_size": 1024, "total_file_count": 0, "total_blob_count": 7, "compression_ratio": 1.04});
        assert_eq!(shown(raw), "snapshots    2\nsize         1.0 KiB\ncompression  1 : 1.0\nblobs        7\n");
    }
}
