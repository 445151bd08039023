//! Edge. Looks at every host now and then for alerts that time raises and ends, and tells and acknowledges those that are open. Of
//! several servers one looks. Does not decide which alerts there are: `alert_rules` does.

use std::sync::Arc;
use std::time::Duration;

use super::alert::{Alert, AlertAcknowledged};
use super::alert_rules::{Moment, decide_alerts};
use super::app::{App, blocking, stopped};
use super::fact::Fact;
use super::host::Host;
use super::silence::silent_since;
use super::slot::WriteError;
use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::id::AlertId;

const EVERY: Duration = Duration::from_secs(10);

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = look(&app).await {
            tracing::warn!("alerts wait for the next look: {}", chain(&error));
        }
    }
}

async fn look(app: &Arc<App>) -> Result<(), FileError> {
    let path = app.state_dir.path.join(".alerts.lock");
    // Another server is at it.
    let Some(lock) = blocking(move || atomic_file::try_lock(&path)).await? else { return Ok(()) };
    for host in app.hosts() {
        if *app.stopping.borrow() {
            break;
        }
        host.catch_up().await;
        let moment = moment(app, &host);
        let content = host.content();
        if decide_alerts(&host.name, &host.slot.durable().state, content.as_deref(), moment).is_empty() {
            continue;
        }
        let name = host.name.clone();
        let decide = move |state: &_, _| decide_alerts(&name, state, content.as_deref(), moment);
        if let Err(error) = host.append(decide).await {
            tracing::warn!(host = %host.name, %error, "alerts wait for the next look");
        }
    }
    drop(lock);
    Ok(())
}

fn moment(app: &App, host: &Host) -> Moment {
    let now = clock::now();
    let silence = Some(now - silent_since(host.last_seen(), app.outage));
    Moment { now, silence, heard_for: host.heard_for(now) }
}

/// The host that has this alert open, and the alert.
pub fn find(app: &App, id: AlertId) -> Option<(Arc<Host>, Alert)> {
    app.hosts().into_iter().find_map(|host| {
        let alert = host.slot.durable().state.alerts.get(id).cloned()?;
        Some((host, alert))
    })
}

/// An operator has seen to it. Saying so again changes nothing.
pub async fn acknowledge(host: &Host, id: AlertId, by: String) -> Result<(), WriteError> {
    let decide = move |state: &super::host_state::HostState, _| {
        let is_new = state.alerts.get(id).is_some_and(|alert| alert.acknowledged_by.is_none());
        is_new.then_some(Fact::AlertAcknowledged(AlertAcknowledged { alert_id: id, by })).into_iter().collect()
    };
    host.append(decide).await
}
