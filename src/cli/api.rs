//! Edge. Requests of the operator's commands: paths and queries, lists page by page, answers that take a while, and changes that are
//! made once however often their answers get lost. Does not know what the answers mean.

use std::time::Duration;

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::failure::{CliFailure, is_answer_lost, is_passing};
use super::output::{Output, remark};
use super::table::{Cell, Table};
use crate::http_client::{ClientError, HttpClient};

/// For answers that take no time.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Entries of one page, as the server has them at most.
const PAGE: usize = 1000;
/// Seconds that a question's answer is waited for within one request.
const QUESTION_WAIT_SECS: u64 = 60;
/// How long a change is repeated whose answer was lost.
const REPEAT_FOR: Duration = Duration::from_secs(120);

/// A path with each part as one part, whatever is in it.
pub(super) fn path(parts: &[&str]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| encoded(part)).collect();
    format!("/v1/{}", parts.join("/"))
}

/// The parameters behind a path; those without a value are left out.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.0.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// The same for what is either said or not.
    #[must_use]
    pub(super) fn flag(self, name: &'static str, is_set: bool) -> Self {
        self.with(name, is_set.then_some(1))
    }

    /// `?a=b&c=d`, or nothing.
    pub(super) fn text(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        let joined = pairs.collect::<Vec<_>>().join("&");
        if joined.is_empty() { joined } else { format!("?{joined}") }
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// One object.
pub(super) async fn get(client: &HttpClient, path: &str) -> Result<Value, CliFailure> {
    client.get_json(path, DEADLINE).await.map_err(|error| CliFailure::of(&error))
}

/// What an answer says, as far as it is shown.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, CliFailure> {
    T::deserialize(value).map_err(|error| {
        format!("the server's answer is not as this version of restic-manager knows it: {error}").into()
    })
}

/// A list, page by page; a question's answer is one too, which may take a while.
pub(super) struct Pages<'c> {
    client: &'c HttpClient,
    path: String,
    query: Query,
    /// What the list is called in the answer, and the parameter that continues it.
    names: (&'static str, &'static str),
    /// Entries that are still wanted; `None`: all.
    left: Option<usize>,
    next: Option<String>,
    is_question: bool,
    has_limit: bool,
    is_over: bool,
    /// The newest page, with what it says beside the list.
    pub(super) page: Value,
}

impl<'c> Pages<'c> {
    pub(super) fn new(
        client: &'c HttpClient,
        path: String,
        query: Query,
        names: (&'static str, &'static str),
        most: Option<usize>,
    ) -> Self {
        let page = Value::Null;
        let (is_question, has_limit, is_over) = (false, true, false);
        Self { client, path, query, names, left: most, next: None, is_question, has_limit, is_over, page }
    }

    /// Of a list that comes whole: its path knows no `limit`.
    pub(super) fn unlimited(self) -> Self {
        Self { has_limit: false, ..self }
    }

    /// From this place on, as an earlier page has told it.
    pub(super) fn from(self, next: Option<impl ToString>) -> Self {
        Self { next: next.map(|next| next.to_string()), ..self }
    }

    /// A list that the host's agent has to make first.
    pub(super) fn of_question(client: &'c HttpClient, path: String, query: Query, list: &'static str) -> Self {
        Self { is_question: true, ..Self::new(client, path, query, (list, "after"), None) }
    }

    /// The entries of the next page; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Value>>, CliFailure> {
        if self.is_over || self.left == Some(0) {
            return Ok(None);
        }
        let (list, cursor) = self.names;
        let limit = self.has_limit.then(|| self.left.map_or(PAGE, |left| left.min(PAGE)));
        let query = self.query.clone().with("limit", limit).with(cursor, self.next.take());
        self.page = if self.is_question {
            answer_of_agent(self.client, &self.path, query).await?
        } else {
            get(self.client, &format!("{}{}", self.path, query.text())).await?
        };
        let Some(Value::Array(entries)) = self.page.get_mut(list).map(Value::take) else {
            return Err(format!("the server's answer has no {list}: does something else answer at its address?").into());
        };
        self.next = self.page["next"].as_str().map(str::to_owned);
        self.is_over = self.next.is_none();
        self.left = self.left.map(|left| left.saturating_sub(entries.len()));
        Ok(Some(entries))
    }

    /// Prints all of it: a table, or a line of JSON each. `none` is said where there is nothing.
    pub(super) async fn show<T: DeserializeOwned>(
        &mut self,
        output: &mut Output,
        mut table: Table,
        none: &str,
        row: impl Fn(&T) -> Vec<Cell>,
    ) -> Result<(), CliFailure> {
        let mut is_empty = true;
        while let Some(entries) = self.next().await? {
            is_empty &= entries.is_empty();
            if output.json {
                entries.iter().try_for_each(|entry| output.json(entry))?;
            } else if !entries.is_empty() {
                let rows: Result<Vec<_>, _> =
                    entries.iter().map(|entry| read::<T>(entry).map(|entry| row(&entry))).collect();
                output.lines(&table.part(&rows?, output.screen))?;
            }
            output.flush()?;
        }
        if is_empty && !output.json {
            remark(none);
        }
        Ok(())
    }
}

/// A question to a host's agent: asked once; while there is no answer yet, the same one is waited for.
pub(super) async fn answer_of_agent(client: &HttpClient, path: &str, query: Query) -> Result<Value, CliFailure> {
    let wait = QUESTION_WAIT_SECS;
    let mut asked = query.clone().with("wait", Some(wait));
    loop {
        let path = format!("{path}{}", asked.text());
        let answer = client.request(Method::GET, &path, &[], None, Duration::from_secs(wait) + DEADLINE).await;
        let answer = answer.map_err(|error| CliFailure::of(&error))?;
        let value: Value = answer.json().map_err(|error| CliFailure::of(&error))?;
        let (202, Some(job)) = (answer.status, value["job"]["id"].as_str()) else { return Ok(value) };
        remark(&format!("no answer yet: waiting for job {job}"));
        let limit = query.0.iter().find(|(name, _)| *name == "limit").map(|(_, limit)| limit.clone());
        asked = Query::default().with("job", Some(job)).with("limit", limit).with("wait", Some(wait));
    }
}

/// POST of something that makes a job. Where the answer is lost it is repeated with the same key, so that one job is made.
pub(super) async fn post_once(client: &HttpClient, path: &str, body: &Value) -> Result<Value, CliFailure> {
    let key = uuid::Uuid::new_v4().to_string();
    let until = Instant::now() + REPEAT_FOR;
    let mut pause = Duration::from_millis(500);
    let mut may_have_arrived = false;
    loop {
        let bytes = body.to_string().into_bytes();
        let headers = [("idempotency-key", key.as_str())];
        let answer = client.request(Method::POST, path, &headers, Some(("application/json", bytes)), DEADLINE).await;
        let error = match answer.and_then(|answer| answer.json()) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        may_have_arrived |= is_answer_lost(&error);
        let is_repeated = may_have_arrived && is_passing(&error) && Instant::now() < until;
        if !is_repeated {
            return Err(unsure(&error, may_have_arrived));
        }
        remark(&format!("{}: asking once more, for the same job", error.headline()));
        tokio::time::sleep(error.retry_after().unwrap_or(pause).min(Duration::from_secs(30))).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

fn unsure(error: &ClientError, may_have_arrived: bool) -> CliFailure {
    let mut failure = CliFailure::of(error);
    if may_have_arrived && is_passing(error) {
        failure.text.push_str("; whether the job was made is not known: `restic-manager jobs HOST` shows it");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_path_or_query_leaves_its_place() {
        assert_eq!(
            path(&["hosts", "web-1", "snapshots", "a/../b?c", "ls"]),
            "/v1/hosts/web-1/snapshots/a%2F..%2Fb%3Fc/ls"
        );
        let query =
            Query::default().with("path", Some("/a b&c=é+%")).with("since", None::<String>).flag("recursive", true);
        assert_eq!(query.text(), "?path=%2Fa%20b%26c%3D%C3%A9%2B%25&recursive=1");
        assert_eq!(Query::default().flag("x", false).text(), "");
    }
}
