//! Edge. `restic-manager alerts channels` and `restic-manager alerts test`: where alerts are told, how each channel fares, and a
//! message to see that one works.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Pages, Query, path};
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::table::{Cell, Style, Table, cell, cut, number, styled, whole, whole_or_none};
use super::words::Times;
use crate::printable::printable;

/// The server tries for 31 s.
const TEST_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct ChannelsArguments {
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub(super) struct TestArguments {
    /// The channel, as server.toml's [alerts.channels] names it
    channel: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// A channel, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Channel {
    name: String,
    kind: String,
    waiting: u64,
    /// Attempts since the last one that succeeded.
    failures: u64,
    last_sent_at: Option<DateTime<Utc>>,
    last_failed_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    next_try_at: Option<DateTime<Utc>>,
}

impl Channel {
    /// Whether it works, as far as is known.
    fn state(&self) -> (&'static str, Style) {
        match self {
            Self { failures: 1.., .. } => ("failing", Style::Bad),
            Self { last_sent_at: Some(_), .. } => ("works", Style::Good),
            _ => ("not used yet", Style::Faint),
        }
    }

    fn row(&self, times: Times) -> Vec<Cell> {
        let (state, style) = self.state();
        let next = self.next_try_at.filter(|_| self.failures > 0);
        vec![
            cell(&self.name),
            cell(&self.kind),
            styled(state, style),
            cell(times.show_if(self.last_sent_at)),
            cell(times.show_if(self.last_failed_at)),
            cell(times.show_if(next)),
            cell(self.waiting.to_string()),
            cell(self.last_error.as_deref().unwrap_or_default()),
        ]
    }
}

/// `restic-manager alerts channels`.
pub(super) async fn list(arguments: &ChannelsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let columns = [
        whole("CHANNEL"),
        whole("KIND"),
        whole("STATE"),
        whole("LAST SENT"),
        whole_or_none("LAST FAILED", 2),
        whole_or_none("NEXT TRY", 3),
        number("WAITING"),
        cut("LAST ERROR", 1),
    ];
    let times = output.times;
    let path = path(&["alerts", "channels"]);
    let mut pages = Pages::new(&client, path, Query::default(), ("channels", "after"), None).unlimited();
    let none = "no channels: alerts are told to nobody; [alerts.channels] of server.toml lists them";
    pages.show(&mut output, Table::new(&columns), none, |channel: &Channel| channel.row(times)).await?;
    Ok(0)
}

/// `restic-manager alerts test`.
pub(super) async fn test(arguments: &TestArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let body = json!({ "channel": arguments.channel });
    let body = Some(("application/json", body.to_string().into_bytes()));
    let answer = client.request(Method::POST, &path(&["alerts", "test"]), &[], body, TEST_DEADLINE).await;
    let answer = answer.map_err(|error| CliFailure::of(&error))?;
    if let Some(why) = refused(answer.status, &answer.body) {
        return Err(format!("channel {} has not taken it: {why}", arguments.channel).into());
    }
    let value: Value = answer.json().map_err(|error| CliFailure::of(&error))?;
    if output.json {
        output.json(&value)?;
    } else {
        let said = value["said"].as_str().unwrap_or_default();
        output.line(&format!("channel {}: a test message was taken: {said}", arguments.channel))?;
    }
    output.flush()?;
    Ok(0)
}

/// Why the channel has not taken it. With that status proxies speak too, of a server that they cannot reach: the code is ours.
fn refused(status: u16, body: &[u8]) -> Option<String> {
    let problem: Value = serde_json::from_slice(body).ok()?;
    let is_ours = status == 502 && problem["code"] == "channel-failed";
    problem["detail"].as_str().filter(|_| is_ours).map(printable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::api::read;

    #[test]
    fn what_the_other_side_of_a_channel_said_is_told_from_what_a_proxy_says() {
        let ours = json!({"status": 502, "code": "channel-failed", "detail": "answered 401\u{1b}"}).to_string();
        assert_eq!(refused(502, ours.as_bytes()).as_deref(), Some("answered 401\\u{1b}"));
        assert_eq!(refused(200, ours.as_bytes()), None);
        for theirs in ["{\"detail\": \"bad gateway\"}", "<html>", ""] {
            assert_eq!(refused(502, theirs.as_bytes()), None, "{theirs}");
        }
    }

    #[test]
    fn a_channel_works_once_it_has_taken_something_and_fails_until_it_does_again() {
        let channel = |value: Value| -> Channel { read(&value).expect("a channel") };
        for (value, state) in [
            (json!({"failures": 0}), "not used yet"),
            (json!({"failures": 0, "last_sent_at": "2026-01-01T00:00:00Z", "last_error": "of before"}), "works"),
            (json!({"failures": 3, "last_sent_at": "2026-01-01T00:00:00Z"}), "failing"),
        ] {
            assert_eq!(channel(value.clone()).state().0, state, "{value}");
        }
    }
}
