//! Edge. The host's list of snapshots, reported to the server after a job that changed it, in pages that fit into events.

use restic_manager::id::ReportId;
use restic_manager::protocol::agent_event::{AgentEvent, Snapshot, SnapshotsReport};

use crate::core::Agent;
use crate::named_snapshots::own;
use crate::restic_run::masked;

/// Bytes of one page's snapshots; an event may have 64 KiB.
const PAGE_BYTES: usize = 48 * 1024;

/// Lists this host's snapshots and tells the server. A failure is told in the agent's log; the next backup reports again.
pub(crate) async fn report(agent: &Agent) {
    match list(agent).await {
        Ok(snapshots) => tell(agent, snapshots),
        Err(error) => tracing::warn!("the list of snapshots: {}", masked(agent, &error)),
    }
}

/// Tells the server this list.
pub(crate) fn tell(agent: &Agent, snapshots: Vec<Snapshot>) {
    let report_id = ReportId(uuid::Uuid::new_v4());
    let pages = paged(snapshots);
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    for (page, snapshots) in (1..).zip(pages) {
        agent.tell(&AgentEvent::SnapshotsReport(SnapshotsReport { report_id, page, pages: count, snapshots }));
    }
}

async fn list(agent: &Agent) -> Result<Vec<Snapshot>, String> {
    let version = agent.restic.borrow().clone()?;
    own(agent, version).await.map_err(|trouble| trouble.text)
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
