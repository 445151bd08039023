//! Edge. One task for each channel: of several servers one sends, what is due is sent, and that is written down. A channel that is out of
//! order keeps nothing back but itself. A message is sent before its line is durable: a crash between the two, and an answer that
//! was lost, mean that it is sent once more, under the same id.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinHandle;

use super::alert::Alert;
use super::alert_channels_state::{ChannelState, channel_states};
use super::alert_sends::{
    Due, Message, digest_of, digest_since, due_digest, due_of, next_message, next_try, sort_digest,
};
use super::alert_told::{AlertSendFailed, AlertSent, ChannelHealth, EndedAlerts, Told};
use super::app::{App, blocking, stopped};
use super::channel_send;
use super::fact::Fact;
use super::fleet::channels::Channel;
use super::fleet_reload::append_fleet;
use super::fleet_state::{FleetState, rejection_alert};
use super::host::Host;
use super::slot::WriteError;
use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::id::{ChannelName, HostName};

/// What is due is looked for this often whatever was noticed.
const LOOK: Duration = Duration::from_secs(15);
/// At least so long between two looks: changes come in crowds.
const QUIET: Duration = Duration::from_millis(500);
/// Where another server sends, or nothing can be written.
const LATER: Duration = Duration::from_secs(2);

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    let mut telling = app.telling.subscribe();
    let mut tasks: BTreeMap<ChannelName, JoinHandle<()>> = BTreeMap::new();
    loop {
        tasks.retain(|_, task| !task.is_finished());
        let fleet = Arc::clone(&telling.borrow_and_update().fleet);
        for channel in &fleet.settings.channels {
            let run = || tokio::spawn(tell(Arc::clone(&app), channel.name.clone()));
            tasks.entry(channel.name.clone()).or_insert_with(run);
        }
        tokio::select! {
            () = stopped(&mut stopping) => return,
            _ = telling.changed() => {}
            // A task may have ended just when its channel came back.
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The channel as the configuration that runs has it.
pub fn channel_of(app: &App, name: &ChannelName) -> Option<Channel> {
    app.telling.borrow().fleet.settings.channels.iter().find(|channel| channel.name == *name).cloned()
}

/// What a task has in memory.
#[derive(Default)]
struct Task {
    /// Held as long as this server is the one that sends.
    lock: Option<File>,
    /// What was sent and could not be written down yet.
    unwritten: Vec<Message>,
}

/// Until the channel is gone or the server stops.
async fn tell(app: Arc<App>, name: ChannelName) {
    let mut stopping = app.stopping.subscribe();
    let (mut changed, mut telling) = (app.shared.any_changed.subscribe(), app.telling.subscribe());
    let mut task = Task::default();
    while let Some(channel) = channel_of(&app, &name) {
        changed.mark_unchanged();
        telling.mark_unchanged();
        // Not cut short by the server's stop: what was sent is to be written down.
        let wait = step(&app, &channel, &mut task).await.unwrap_or_else(|error| {
            tracing::warn!(channel = %name, "alerts wait for the next look: {error}");
            LATER
        });
        if wait.is_zero() && !*stopping.borrow() {
            continue;
        }
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(wait) => continue,
            _ = changed.changed() => {}
            _ = telling.changed() => {}
        }
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(QUIET) => {}
        }
    }
}

/// Sends at most one message. Returns when there may be more to do.
async fn step(app: &Arc<App>, channel: &Channel, task: &mut Task) -> Result<Duration, String> {
    if task.lock.is_none() {
        task.lock = lock(app, &channel.name).await.map_err(|error| chain(&error))?;
    }
    if task.lock.is_none() {
        return Ok(LATER);
    }
    write_all(app, channel, task).await?;
    // What another server wrote that sent before.
    app.fleet.refresh().await;
    let state = app.fleet.durable().state;
    let health = state.channels.get(&channel.name).cloned().unwrap_or_default();
    let now = clock::now();
    if let Some(at) = next_try(&health).filter(|at| *at > now) {
        return Ok((at - now).to_std().unwrap_or_default().max(QUIET));
    }
    let Some(message) = due_message(app, channel, &health, now).await else { return Ok(LOOK) };
    let message = match (message.what, message.dues.is_empty()) {
        (Told::Digest, true) => {
            task.unwritten.push(message);
            return Ok(Duration::ZERO);
        }
        (Told::Digest, false) => message,
        // Of its hosts the newest counts: another server may have told, an operator may have seen to it.
        _ => match still_due(app, channel, message).await {
            Some(message) => message,
            None => return Ok(Duration::ZERO),
        },
    };
    match channel_send::send(app, channel, &message).await {
        Ok(said) => {
            tracing::info!(channel = %channel.name, what = message.what.as_str(), alerts = message.dues.len(), said, "told");
            task.unwritten.push(message);
            write_all(app, channel, task).await?;
        }
        Err(error) => {
            tracing::warn!(channel = %channel.name, attempt = health.failures + 1, "not told, and tried again: {error}");
            failed(app, channel, &message, health.failures, error).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(Duration::ZERO)
}

/// What cannot be written down is not sent again while this server lives.
async fn write_all(app: &App, channel: &Channel, task: &mut Task) -> Result<(), String> {
    while let Some(message) = task.unwritten.first() {
        write(app, channel, message).await.map_err(|error| error.to_string())?;
        task.unwritten.remove(0);
    }
    Ok(())
}

async fn lock(app: &App, name: &ChannelName) -> Result<Option<File>, FileError> {
    let path = app.state_dir.path.join(format!(".channel.{name}.lock"));
    blocking(move || atomic_file::try_lock(&path)).await
}

/// How every channel of the configuration fares.
pub fn all_channels(app: &App, now: DateTime<Utc>) -> Vec<ChannelState> {
    let (fleet, healths) = (Arc::clone(&app.telling.borrow().fleet), &app.fleet.durable().state.channels);
    channel_states(&fleet.settings.channels, healths, |channel, health| all_due(app, channel, health, now))
}

/// Everything that this channel has to be told of, by the states as they are.
fn all_due(app: &App, channel: &Channel, health: Option<&ChannelHealth>, now: DateTime<Utc>) -> Vec<(Told, Due)> {
    let known_since = health.and_then(|health| health.known_since);
    let mut due = due_of_fleet(&app.fleet.durable().state, channel, known_since, now);
    for host in app.hosts() {
        due.extend(due_of_host(&host, channel, known_since, now));
    }
    due
}

fn due_of_fleet(
    state: &FleetState,
    channel: &Channel,
    known_since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<(Told, Due)> {
    due_of(channel, known_since, None, rejection_alert(state).iter(), &state.ended_alerts, now)
}

fn due_of_host(
    host: &Host,
    channel: &Channel,
    known_since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<(Told, Due)> {
    let state = host.slot.durable().state;
    due_of(channel, known_since, Some(&host.name), state.alerts.iter(), &state.ended_alerts, now)
}

async fn due_message(app: &Arc<App>, channel: &Channel, health: &ChannelHealth, now: DateTime<Utc>) -> Option<Message> {
    let (app, channel, health) = (Arc::clone(app), channel.clone(), health.clone());
    let find = move || {
        if let Some(digest) = channel.digest {
            // Its first day begins when it is first seen, and is written down as one of which nothing had to be said.
            if health.known_since.is_none() {
                return Some(Message::new(Told::Digest, Vec::new()));
            }
            due_digest(digest, &health, now)?;
            return Some(Message::new(Told::Digest, all_of_digest(&app, &channel, &health, now)));
        }
        next_message(all_due(&app, &channel, Some(&health), now), &health)
    };
    blocking(find).await
}

fn all_of_digest(app: &App, channel: &Channel, health: &ChannelHealth, now: DateTime<Utc>) -> Vec<Due> {
    let since = digest_since(health, now);
    let of = |host: Option<&HostName>, open: &mut dyn Iterator<Item = &Alert>, ended: &EndedAlerts| {
        digest_of(channel, host, open, ended, since)
    };
    let state = app.fleet.durable().state;
    let mut dues = of(None, &mut rejection_alert(&state).iter(), &state.ended_alerts);
    for host in app.hosts() {
        let state = host.slot.durable().state;
        dues.extend(of(Some(&host.name), &mut state.alerts.iter(), &state.ended_alerts));
    }
    sort_digest(&mut dues);
    dues
}

/// The message without what is due no more.
async fn still_due(app: &App, channel: &Channel, message: Message) -> Option<Message> {
    let mut kept = Vec::new();
    let known_since = app.fleet.durable().state.channels.get(&channel.name).and_then(|health| health.known_since);
    let mut names: Vec<Option<HostName>> = message.dues.iter().map(|due| due.host.clone()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let now = clock::now();
        let due = match name.as_ref().and_then(|name| app.host(name)) {
            Some(host) => {
                host.slot.refresh().await;
                due_of_host(&host, channel, known_since, now)
            }
            None => due_of_fleet(&app.fleet.durable().state, channel, known_since, now),
        };
        let is_due = |of: &Due| {
            of.host == name && due.iter().any(|(what, due)| (*what, due.alert.id) == (message.what, of.alert.id))
        };
        kept.extend(message.dues.iter().filter(|of| is_due(of)).cloned());
    }
    (!kept.is_empty()).then(|| Message::new(message.what, kept))
}

/// Writes down that it was sent: in the journals of its hosts, then in the fleet's. Repeating it changes nothing.
async fn write(app: &App, channel: &Channel, message: &Message) -> Result<(), WriteError> {
    let state = app.fleet.durable().state;
    let attempt = state.channels.get(&channel.name).map_or(0, |health| health.failures) + 1;
    let sent = |host: Option<&HostName>, count| AlertSent {
        channel: channel.name.clone(),
        what: message.what,
        alerts: if message.what == Told::Digest { Vec::new() } else { message.alerts_of(host) },
        count,
        attempt,
    };
    let mut hosts: Vec<&HostName> = message.dues.iter().filter_map(|due| due.host.as_ref()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    for name in hosts.into_iter().filter(|_| message.what != Told::Digest) {
        let Some(host) = app.host(name) else { continue };
        let fact = Fact::AlertSent(sent(Some(name), None));
        host.append(move |_, _| vec![fact]).await?;
    }
    append_fleet(app, AlertSent::TYPE, sent(None, Some(message.dues.len()))).await
}

async fn failed(
    app: &App,
    channel: &Channel,
    message: &Message,
    failures: u32,
    error: String,
) -> Result<(), WriteError> {
    let first = message.dues.first();
    let fact = AlertSendFailed {
        channel: channel.name.clone(),
        what: message.what,
        alert_id: first.map(|due| due.alert.id),
        host: first.and_then(|due| due.host.clone()),
        attempt: failures + 1,
        error,
    };
    append_fleet(app, AlertSendFailed::TYPE, fact).await
}

/// Sends a test at once, whichever server usually sends. `Ok`: what the other side said.
pub async fn test(app: &App, channel: &Channel, id: String) -> Result<Result<String, String>, WriteError> {
    let message = Message { what: Told::Test, dues: Vec::new(), id };
    let said = channel_send::send(app, channel, &message).await;
    if said.is_ok() {
        // The channel works: what waits for its next try is tried now.
        let (channel, alerts) = (channel.name.clone(), Vec::new());
        append_fleet(app, AlertSent::TYPE, AlertSent { channel, what: Told::Test, alerts, count: Some(1), attempt: 1 })
            .await?;
    }
    Ok(said)
}
