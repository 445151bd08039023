//! Edge. An agent changes its credential by itself: it names the next one, which counts beside the present one, and from its first
//! use on is the only one. Does not let agents in for the first time, or out: `agent` and `enrollment` do.

use std::sync::Arc;

use serde::Deserialize;

use super::agent::{EnrollAnswer, check_hash};
use super::answer::{Answer, Problem, ok};
use super::audit;
use super::gate::{Agent, not_authorized};
use super::request::{ContentType, Request};
use crate::clock;
use crate::file_error::FileError;
use crate::server::access::sha256_hex;
use crate::server::app::App;
use crate::server::audit::Action;
use crate::server::credentials::{self, Named, Standing};
use crate::server::fact::{CredentialRotated, Fact, RotationStage};
use crate::server::host::{Host, append_facts};

#[derive(Debug, Deserialize)]
struct RotationRequest {
    credential_sha256: String,
}

/// `POST /v1/agents/{host}/credential`: the next credential's hash. Repeating it is idempotent; another one replaces it.
pub async fn rotate(app: &Arc<App>, mut request: Request, agent: Agent) -> Result<Answer, Problem> {
    let host = agent.host;
    let (body, _) = request.json::<RotationRequest>(ContentType::Any).await?;
    check_hash(&body.credential_sha256)?;
    let presented = sha256_hex(request.token().unwrap_or_default().as_bytes());
    let (dir, next) = (host.dir.clone(), body.credential_sha256);
    // Within the host's batch: whoever else changes the file, at whichever server, comes before or after.
    let named = host.slot.write(move |batch| {
        let named = credentials::name_next(&dir, &presented, &next)?;
        if named == Named::New {
            append_facts(batch, |_, _| vec![rotated(next, RotationStage::Named)]);
        }
        Ok::<_, FileError>(named)
    });
    match named.await?? {
        Named::NotAllowed => return Err(not_authorized(&host.name)),
        Named::Before => {}
        Named::New => {
            audit::changed_by_agent(app, request.client, &host.name, Action::CredentialName).await?;
            tracing::info!(host = %host.name, client = %request.client, "the agent has named its next credential");
        }
    }
    Ok(ok(&EnrollAnswer { host: host.name.clone(), server_time: clock::now() }))
}

/// The next credential, with this hash, is used for the first time: the one before is forgotten.
pub(super) async fn use_next(
    app: &Arc<App>,
    request: &Request,
    host: &Arc<Host>,
    sha256: String,
) -> Result<(), Problem> {
    let dir = host.dir.clone();
    let used = host.slot.write(move |batch| {
        let is_first = credentials::use_next(&dir, &sha256)?;
        // Another request of the agent may have been the first.
        let counts = credentials::standing(&dir, &sha256)? == Some(Standing::Present);
        if is_first {
            append_facts(batch, |_, _| vec![rotated(sha256, RotationStage::Used)]);
        }
        Ok::<_, FileError>((is_first, counts))
    });
    let (is_first, counts) = used.await??;
    host.forget_credential();
    if is_first {
        audit::changed_by_agent(app, request.client, &host.name, Action::CredentialRotate).await?;
        tracing::info!(host = %host.name, client = %request.client, "the agent uses its next credential: the one before counts no more");
    }
    if counts { Ok(()) } else { Err(not_authorized(&host.name)) }
}

fn rotated(credential_sha256: String, stage: RotationStage) -> Fact {
    Fact::CredentialRotated(CredentialRotated { credential_sha256, stage })
}
