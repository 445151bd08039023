//! Edge. `restic-manager status`: whether everything that should have succeeded has done so lately, for cron, monitoring plugins and
//! people. The server decides that; here it is asked and told.

use chrono::{DateTime, Utc};
use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::api::{DEADLINE, Query, path, read};
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::table::{Cell, Style, Table, cell, styled, whole};
use super::words::{Times, count};
use crate::http_client::{Answer, ClientError};

#[derive(Debug, Args)]
pub struct StatusArguments {
    /// How old each backup schedule's newest success may be, such as 26h [default: what each schedule's own max_age says]
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// Only this host's
    #[arg(long)]
    host: Option<String>,
    /// Say nothing while all is well: for cron, which mails what is said
    #[arg(short, long, conflicts_with = "nagios")]
    quiet: bool,
    /// One line and the exit codes of monitoring plugins: 0 OK, 2 CRITICAL, 3 UNKNOWN
    #[arg(long, conflicts_with = "json")]
    nagios: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// What the server says; as a problem where something is late.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    ok: bool,
    checked: u64,
    /// The words, where something is late.
    detail: String,
    hosts: Vec<LateHost>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LateHost {
    name: String,
    enrolled: bool,
    schedules: Vec<Late>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Late {
    id: String,
    kind: String,
    last_success: Option<DateTime<Utc>>,
    max_age: String,
}

/// Something is late.
const LATE: u8 = 1;
/// What monitoring plugins call it.
const CRITICAL: u8 = 2;
const UNKNOWN: u8 = 3;

pub(super) async fn run(arguments: &StatusArguments) -> Result<u8, CliFailure> {
    let mut output = Output::new(arguments.output);
    let asked = ask(arguments).await;
    if arguments.nagios {
        let (line, code) = plugin_line(asked.and_then(|value| read(&value)));
        output.line(&line)?;
        output.flush()?;
        return Ok(code);
    }
    let value = asked?;
    let status: Status = read(&value)?;
    let is_said = !(arguments.quiet && status.ok);
    if output.json && is_said {
        output.json(&value)?;
    } else if is_said {
        output.line(&status.summary())?;
        let rows = status.rows(output.times);
        if !rows.is_empty() {
            let columns = [whole("HOST"), whole("SCHEDULE"), whole("KIND"), whole("LAST SUCCESS"), whole("LIMIT")];
            output.lines(&Table::new(&columns).part(&rows, output.screen))?;
        }
    }
    output.flush()?;
    Ok(if status.ok { 0 } else { LATE })
}

/// What the server answers, well or late; the error is that it does not.
async fn ask(arguments: &StatusArguments) -> Result<Value, CliFailure> {
    let client = arguments.server.reach()?.client;
    let query =
        Query::default().with("max_age", arguments.max_age.as_ref()).with("host", arguments.host.as_ref()).text();
    let answer = client.request(Method::GET, &format!("{}{query}", path(&["status"])), &[], None, DEADLINE).await;
    answer.and_then(|answer| said(&answer)).map_err(|error| CliFailure::of(&error))
}

/// That something is late is a problem by its code; a server that is busy or going down has the same status.
fn said(answer: &Answer) -> Result<Value, ClientError> {
    answer.json().or_else(|error| match (error.code(), serde_json::from_slice(&answer.body)) {
        (Some("late"), Ok(late)) => Ok(late),
        _ => Err(error),
    })
}

/// The line of a monitoring plugin, and its exit code. Nothing but an answer that all is well is OK.
fn plugin_line(asked: Result<Status, CliFailure>) -> (String, u8) {
    match asked {
        Ok(status) if status.ok => (format!("OK - {}", status.summary()), 0),
        Ok(status) => (format!("CRITICAL - {}", status.summary()), CRITICAL),
        // Behind a bar a plugin's line goes on with figures.
        Err(failure) => (format!("UNKNOWN - {}", failure.text.replace(['|', '\n'], " ")), UNKNOWN),
    }
}

impl Status {
    fn summary(&self) -> String {
        match self.ok {
            true if self.checked == 1 => "the one schedule is not late".to_owned(),
            true => format!("none of {} is late", count(self.checked, "schedule", "schedules")),
            false => self.detail.clone(),
        }
    }

    fn rows(&self, times: Times) -> Vec<Vec<Cell>> {
        let row = |host: &LateHost, late: &Late| {
            let never = if host.enrolled { "never" } else { "never: no agent" };
            let last = late.last_success.map_or_else(|| never.to_owned(), |at| times.show(at));
            vec![cell(&host.name), cell(&late.id), cell(&late.kind), styled(last, Style::Bad), cell(&late.max_age)]
        };
        self.hosts.iter().flat_map(|host| host.schedules.iter().map(|late| row(host, late))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: &Value) -> Status {
        read(value).expect("a status")
    }

    fn late() -> Status {
        status(&json!({"ok": false, "checked": 2, "late": 1, "status": 503, "code": "late",
            "detail": "1 of 2 schedules has not succeeded in time: system of web-1",
            "hosts": [{"name": "web-1", "enrolled": false, "schedules": [{"id": "system", "kind": "backup", "max_age": "26h"}]}]}))
    }

    #[test]
    fn only_an_answer_that_all_is_well_is_ok_to_a_monitor() {
        let well = || status(&json!({"ok": true, "checked": 2, "late": 0, "hosts": []}));
        assert_eq!(plugin_line(Ok(well())), ("OK - none of 2 schedules is late".to_owned(), 0));
        let (line, code) = plugin_line(Ok(late()));
        assert_eq!(
            (line.as_str(), code),
            ("CRITICAL - 1 of 2 schedules has not succeeded in time: system of web-1", 2)
        );
        let failed = CliFailure::from("cannot connect: a|b\nc".to_owned());
        assert_eq!(plugin_line(Err(failed)), ("UNKNOWN - cannot connect: a b c".to_owned(), 3));
        assert_eq!(plugin_line(Ok(Status::default())).1, 2, "nothing was looked at");
    }

    #[test]
    fn what_is_late_is_a_row_with_the_reason_why_it_never_was() {
        let rows = late().rows(Times::Utc);
        let columns = ["HOST", "SCHEDULE", "KIND", "LAST SUCCESS", "LIMIT"].map(whole);
        let text = Table::new(&columns).part(&rows, super::super::table::Screen::default());
        assert!(text.ends_with("\nweb-1  system    backup  never: no agent  26h\n"), "{text}");
    }
}
