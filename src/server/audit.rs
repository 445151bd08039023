//! Edge. Who changed what: lines of the fleet's journal, durable before the change is answered, and read newest first from its
//! end. Holds names, never a secret. Does not decide what may be changed.

use std::net::IpAddr;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::app::App;
use super::fleet_reload::append_fleet;
use super::slot::WriteError;
use crate::file_error::FileError;
use crate::id::{HostName, JobId};
use crate::journal::line;
use crate::journal::read::{self, Next};

/// The lines' type.
pub const TYPE: &str = "audit";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    #[serde(rename = "job.create")]
    JobCreate,
    #[serde(rename = "job.restore")]
    JobRestore,
    #[serde(rename = "job.cancel")]
    JobCancel,
    #[serde(rename = "job.abandon")]
    JobAbandon,
    #[serde(rename = "enrollment_token.create")]
    EnrollmentTokenCreate,
    #[serde(rename = "host.enroll")]
    HostEnroll,
    #[serde(rename = "credential.name_next")]
    CredentialName,
    #[serde(rename = "credential.rotate")]
    CredentialRotate,
    #[serde(rename = "credential.revoke")]
    CredentialRevoke,
    #[serde(rename = "alert.acknowledge")]
    AlertAcknowledge,
    #[serde(rename = "alert.test")]
    AlertTest,
    #[serde(rename = "config.reload")]
    ConfigReload,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The token's name, or the host's where its agent did it.
    pub by: String,
    /// The token's, or `agent`.
    pub role: String,
    pub action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Where it was done from.
    pub client: IpAddr,
}

/// A change as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub seq: u64,
    pub at: DateTime<Utc>,
    #[serde(flatten)]
    pub change: Change,
}

/// Returns when it is durable.
pub async fn record(app: &App, change: Change) -> Result<(), WriteError> {
    append_fleet(app, TYPE, change).await
}

/// A page of changes, newest first, of the lines up to a seq; and whether there may be more.
pub fn newest_first(journal: &Path, up_to_seq: u64, limit: usize) -> Result<(Vec<Entry>, bool), FileError> {
    let mut page = Vec::new();
    let mut more = false;
    read::newest_first_texts(journal, up_to_seq, |text| {
        if line::peek(text).is_none_or(|peek| peek.kind != TYPE) {
            return Next::Continue;
        }
        let Some(line) = line::decode(text) else { return Next::Continue };
        // Of a later version, perhaps.
        let Ok(change) = serde_json::from_str(line.payload.get()) else { return Next::Continue };
        more = page.len() == limit;
        if more {
            return Next::Stop;
        }
        page.push(Entry { seq: line.seq, at: line.received_at, change });
        Next::Continue
    })?;
    Ok((page, more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use crate::journal::line::NewLine;
    use crate::server::fleet_state::FleetState;
    use crate::server::folded::at;

    #[test]
    fn changes_are_paged_newest_first_among_other_lines_and_over_months() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal::<FleetState>::open(dir.path()).expect("open");
        for number in 0..6 {
            let time = at(&format!("2026-1{}-03T00:00:0{number}Z", number / 3));
            let change = Change {
                by: format!("ops-{number}"),
                role: "admin".to_owned(),
                action: Action::ConfigReload,
                host: None,
                job: None,
                client: [127, 0, 0, 1].into(),
            };
            let mut batch = journal.begin(time).expect("begin");
            for (kind, payload) in
                [(TYPE, serde_json::to_string(&change).expect("JSON")), ("config.rejected", "{}".to_owned())]
            {
                let payload = serde_json::value::RawValue::from_string(payload).expect("JSON");
                batch.append(time, &NewLine { kind: kind.to_owned(), ts: time, stream: None, payload });
            }
            batch.commit().expect("commit");
        }
        let mut up_to = u64::MAX;
        let mut pages = Vec::new();
        loop {
            let (page, more) = newest_first(dir.path(), up_to, 4).expect("read");
            up_to = page.last().map_or(0, |entry| entry.seq - 1);
            pages.push(page.into_iter().map(|entry| entry.change.by).collect::<Vec<_>>().join(" "));
            if !more {
                break;
            }
        }
        assert_eq!(pages, ["ops-5 ops-4 ops-3 ops-2", "ops-1 ops-0"]);
    }
}
