//! Edge. The host's list of snapshots, reported to the server after a job that changed it, in pages that fit into events.

use std::time::Duration;

use restic_manager::file_error::chain;
use restic_manager::id::{JobId, ReportId};
use restic_manager::process::{Exit, run_to_end};
use restic_manager::protocol::agent_event::{AgentEvent, Snapshot, SnapshotsReport};

use crate::core::Agent;
use crate::restic_args::{ArgumentContext, snapshots_arguments};
use crate::restic_json::document;
use crate::restic_run::{masked, program};

/// Bytes of one page's snapshots; an event may have 64 KiB.
const PAGE_BYTES: usize = 48 * 1024;
const DEADLINE: Duration = Duration::from_secs(300);

/// Lists this host's snapshots and tells the server. A failure is told in the agent's log; the next backup reports again.
pub(crate) async fn report(agent: &Agent) {
    match list(agent).await {
        Ok(snapshots) => {
            let report_id = ReportId(uuid::Uuid::new_v4());
            let pages = paged(snapshots);
            let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
            for (page, snapshots) in (1..).zip(pages) {
                agent.tell(&AgentEvent::SnapshotsReport(SnapshotsReport { report_id, page, pages: count, snapshots }));
            }
        }
        Err(error) => tracing::warn!("the list of snapshots: {}", masked(agent, &error)),
    }
}

async fn list(agent: &Agent) -> Result<Vec<Snapshot>, String> {
    let version = agent.restic.borrow().clone()?;
    let context = ArgumentContext {
        host: &agent.host,
        job_id: JobId(uuid::Uuid::nil()),
        schedule_id: None,
        restic_version: version,
        limit_upload_kib: 0,
        limit_download_kib: 0,
        retry_lock: None,
        restore_target: None,
    };
    let access = agent.received.borrow().access(None)?;
    let program = program(agent, snapshots_arguments(&context), access).await?;
    let captured = run_to_end(&program, DEADLINE).await.map_err(|error| chain(&error))?;
    if captured.exit != Exit::Code(0) {
        return Err(format!("{}: {}", captured.exit, captured.stderr.trim()));
    }
    document::snapshots(captured.stdout.as_bytes()).ok_or_else(|| "restic printed no list".to_owned())
}

/// At least one page, also of nothing: an empty list is news too.
fn paged(snapshots: Vec<Snapshot>) -> Vec<Vec<Snapshot>> {
    let mut pages = vec![Vec::new()];
    let mut bytes = 0;
    for snapshot in snapshots {
        let size = serde_json::to_vec(&snapshot).map_or(0, |json| json.len() + 1);
        if bytes + size > PAGE_BYTES && bytes > 0 {
            pages.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(page) = pages.last_mut() {
            page.push(snapshot);
        }
    }
    pages
}
