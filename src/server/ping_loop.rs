//! Edge. Pings for schedules that have an address for that: looks for what is due, sends a few at a time, and writes down what was
//! taken. Of several servers one does. An address that does not answer is left alone for ever longer times, and keeps back no other.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::app::{App, blocking, stopped};
use super::channel_send;
use super::fact::Fact;
use super::fleet::secret_text::SecretText;
use super::host::Host;
use super::ping_rules::{PingSent, due_ping};
use crate::atomic_file;
use crate::clock;
use crate::file_error::chain;
use crate::id::{HostName, ScheduleId};
use crate::job::JobStatus;

const LOOK: Duration = Duration::from_secs(15);
const QUIET: Duration = Duration::from_millis(500);
/// Addresses that are asked at once.
const AT_ONCE: usize = 16;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Where a ping goes, and of what.
struct Due {
    host: Arc<Host>,
    url: SecretText,
    ping: PingSent,
}

/// Schedules whose address did not take the last ping: how often, and when it may be tried again.
type Waiting = HashMap<(HostName, ScheduleId), (u32, Instant)>;

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    let (mut changed, mut telling) = (app.shared.any_changed.subscribe(), app.telling.subscribe());
    let (mut lock, mut waiting) = (None, Waiting::new());
    loop {
        changed.mark_unchanged();
        telling.mark_unchanged();
        if has_pings(&app) {
            if lock.is_none() {
                lock = try_lock(&app).await;
            }
            if lock.is_some() {
                send_all(&app, &mut waiting).await;
                app.pings.set_waiting(waiting.len());
            }
        }
        let next = waiting.values().map(|(_, at)| *at).min();
        let next = next.unwrap_or_else(|| Instant::now() + LOOK).min(Instant::now() + LOOK);
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep_until(next) => {}
            _ = changed.changed() => {}
            _ = telling.changed() => {}
        }
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(QUIET) => {}
        }
    }
}

fn has_pings(app: &App) -> bool {
    let fleet = Arc::clone(&app.telling.borrow().fleet);
    fleet.hosts.values().any(|host| host.schedules.iter().any(|held| held.ping_url.is_some()))
}

async fn try_lock(app: &App) -> Option<File> {
    let path = app.state_dir.path.join(".pings.lock");
    blocking(move || atomic_file::try_lock(&path)).await.unwrap_or_else(|error| {
        tracing::warn!("pings wait for the next look: {}", chain(&error));
        None
    })
}

/// Until nothing is due, or what is has to wait.
async fn send_all(app: &Arc<App>, waiting: &mut Waiting) {
    let mut due = all_due(app);
    waiting.retain(|(host, schedule), _| due.iter().any(|d| d.host.name == *host && d.ping.schedule_id == *schedule));
    due.retain(|due| {
        let key = (due.host.name.clone(), due.ping.schedule_id.clone());
        waiting.get(&key).is_none_or(|(_, at)| *at <= Instant::now())
    });
    let mut sending = JoinSet::new();
    let mut due = due.into_iter();
    loop {
        for due in due.by_ref().take(AT_ONCE.saturating_sub(sending.len())) {
            sending.spawn(send(Arc::clone(app), due));
        }
        // A task that panicked has said so itself.
        let Some(done) = sending.join_next().await else { return };
        let Ok((host, schedule, taken)) = done else { continue };
        let key = (host, schedule);
        if taken {
            waiting.remove(&key);
            continue;
        }
        let failures = waiting.get(&key).map_or(0, |(failures, _)| *failures);
        let wait = (FIRST_WAIT * 2_u32.pow(failures.min(16))).min(LONGEST_WAIT);
        waiting.insert(key, (failures + 1, Instant::now() + wait));
    }
}

fn all_due(app: &App) -> Vec<Due> {
    let now = clock::now();
    let mut all = Vec::new();
    for host in app.hosts() {
        let Some(content) = host.content().filter(|content| !content.pings.is_empty()) else { continue };
        let state = host.slot.durable().state;
        for (schedule, url) in content.pings.iter() {
            let runs =
                |job: &&crate::job::Job| job.status == JobStatus::Running && job.schedule_id.as_ref() == Some(schedule);
            let running = state.jobs.values().filter(runs).max_by_key(|job| job.queued_seq).map(|job| job.id);
            if let Some(ping) = due_ping(schedule, state.schedules.get(schedule), running, content.adopted_at, now) {
                all.push(Due { host: Arc::clone(&host), url: url.clone(), ping });
            }
        }
    }
    all
}

/// Whether it was taken, and that is written down.
async fn send(app: Arc<App>, due: Due) -> (HostName, ScheduleId, bool) {
    let Due { host, url, ping } = due;
    let schedule = ping.schedule_id.clone();
    let answered = channel_send::ping(&app, &url, &host.name, ping.stage.suffix()).await;
    app.pings.count(answered.is_ok(), clock::now());
    let taken = match answered {
        Ok(()) => {
            let written = host.append(move |_, _| vec![Fact::PingSent(ping)]).await;
            written.inspect_err(|error| tracing::warn!(host = %host.name, %error, "a ping is sent again")).is_ok()
        }
        Err(error) => {
            tracing::warn!(host = %host.name, %schedule, "the ping was not taken, and is tried again: {error}");
            false
        }
    };
    (host.name.clone(), schedule, taken)
}
