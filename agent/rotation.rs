//! Edge. Replaces the agent's credential when it is old (protocol.md "Agent endpoints"): the new one is on disk before the server
//! hears of it, and in use only after the server has it, so that a crash or a lost answer at any point locks nobody out.
//! Does not decide when: agent.toml does.

use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::protocol::agent_path;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::core::Agent;
use crate::identity::{self, Identity, secret_sha256};

const DEADLINE: Duration = Duration::from_secs(30);
/// After a failure, the next try is as far away.
const RETRY: Duration = Duration::from_secs(3600);

/// Replaces the credential if it is older than agent.toml allows. A failure is told and tried again later: the present one goes on.
pub(crate) async fn rotate_if_due(agent: &Agent) {
    let Some(after) = agent.settings.rotate_after else { return };
    let since = agent.identity.borrow().credential_since;
    let is_due = match since {
        None => return keep(agent, |identity| identity.credential_since = Some(clock::now())),
        Some(since) => (clock::now() - since).to_std().is_ok_and(|age| age >= after.duration()),
    };
    let failed_lately = agent.rotation_failed.get().is_some_and(|at| at.elapsed() < RETRY);
    if !is_due || failed_lately {
        return;
    }
    let rotated = rotate(agent).await;
    if let Err(error) = &rotated {
        agent.note_error(&format!("the credential could not be replaced, and stays in use: {error}"));
    }
    agent.rotation_failed.set(rotated.is_err().then(tokio::time::Instant::now));
}

async fn rotate(agent: &Agent) -> Result<(), String> {
    let mut identity = agent.identity.borrow().clone();
    let next = match identity.next_credential.take() {
        // The server may have heard of it: the same again.
        Some(next) => next,
        None => identity::new_credential().map_err(|error| chain(&error))?,
    };
    identity.next_credential = Some(next.clone());
    identity.keep(&agent.dir).map_err(|error| chain(&error))?;
    agent.identity.replace(identity.clone());
    let body = json!({"credential_sha256": secret_sha256(&next)});
    let path = agent_path(&agent.host, "credential");
    let _: IgnoredAny = agent.client.post_json(&path, &body, DEADLINE).await.map_err(|error| chain(&error))?;
    let rotated = Identity {
        credential_since: Some(clock::now()),
        next_credential: None,
        previous_credential: Some(identity.credential),
        credential: next,
        ..identity
    };
    rotated.keep(&agent.dir).map_err(|error| chain(&error))?;
    agent.client.set_token(&rotated.credential).map_err(|error| chain(&error))?;
    agent.identity.replace(rotated);
    tracing::info!("the agent's credential was replaced");
    Ok(())
}

/// The server does not know the credential: its state may be older than the last rotation. The next request shows the one before.
pub(crate) fn try_the_other(agent: &Agent) {
    let mut identity = agent.identity.borrow_mut();
    if let Some(previous) = identity.previous_credential.take() {
        let refused = std::mem::replace(&mut identity.credential, previous);
        identity.previous_credential = Some(refused);
        if let Err(error) = agent.client.set_token(&identity.credential) {
            tracing::error!("{}", chain(&error));
        }
    }
}

/// The server knows the credential in use. If that is not the one on disk, it is from now on.
pub(crate) fn greeted(agent: &Agent) {
    let kept = Identity::read(&agent.dir).ok().flatten();
    let in_use = agent.identity.borrow().credential.clone();
    if kept.is_some_and(|kept| kept.credential != in_use) {
        tracing::warn!("the server knows the credential before the last rotation only: that one is in use again");
        keep(agent, |_| {});
    }
}

fn keep(agent: &Agent, change: impl FnOnce(&mut Identity)) {
    let mut identity = agent.identity.borrow_mut();
    change(&mut identity);
    if let Err(error) = identity.keep(&agent.dir) {
        tracing::warn!("identity.json: {}", chain(&error));
    }
}
