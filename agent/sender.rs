//! Edge. Sends what the spools hold: events in order, then job logs. Only what the server acknowledges is dropped.
//! Does not make events.

use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::http_client::ClientError;
use restic_manager::id::JobId;
use restic_manager::protocol::{Acknowledged, BODY_LIMIT_BYTES, agent_log_path, agent_path};
use tokio::sync::Notify;

use crate::backoff::Backoff;
use crate::commands;
use crate::core::Agent;
use crate::identity;
use crate::log_spool;

const POST_DEADLINE: Duration = Duration::from_secs(45);
/// Log lines are looked for this often while a job runs, and at every bell.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
const SUPERSEDED_PAUSE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(3600);
const SMALLEST_BATCH: usize = 1024;

/// Sends until the agent stops.
pub(crate) async fn run(agent: Rc<Agent>) {
    let mut backoff = Backoff::default();
    let mut batch_bytes = BODY_LIMIT_BYTES;
    loop {
        // The server takes events of the newest instance only: hello comes first.
        while agent.hello_due.get() {
            agent.greeted.notified().await;
        }
        let acked = agent.spool.borrow().acked();
        match send_all(&agent, batch_bytes).await {
            Ok(()) => {
                backoff = Backoff::default();
                batch_bytes = BODY_LIMIT_BYTES;
                let busy = !agent.running.borrow().is_empty();
                let pause = if busy { LOG_INTERVAL } else { IDLE };
                tokio::select! {
                    () = agent.send_bell.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(ClientError::Problem { status: 413, .. }) if batch_bytes > SMALLEST_BATCH => batch_bytes /= 2,
            // The poll learns the same, and says hello when its time has come.
            Err(error) if error.code() == Some("superseded") => {
                let _ = tokio::time::timeout(SUPERSEDED_PAUSE, agent.greeted.notified()).await;
            }
            Err(error) if matches!(error.code(), Some("not-current" | "hello-first")) => {
                agent.hello_due.set(true);
                agent.hello_bell.notify_one();
            }
            Err(error) => {
                if agent.spool.borrow().acked() > acked {
                    // Something went through: this is not one more failure in a row, however much still waits.
                    backoff = Backoff::default();
                }
                let pause = backoff.next(error.retry_after(), identity::random_unit());
                agent.note_error(&format!(
                    "events wait in the spool: {}; next try in {} s",
                    chain(&error),
                    pause.as_secs()
                ));
                wait_for_next_try(&agent.greeted, pause).await;
            }
        }
    }
}

/// The pause after a failure. A server that greets us meanwhile is there again: that ends it.
async fn wait_for_next_try(greeted: &Notify, pause: Duration) {
    let _ = tokio::time::timeout(pause, greeted.notified()).await;
}

async fn send_all(agent: &Agent, batch_bytes: usize) -> Result<(), ClientError> {
    while send_events(agent, batch_bytes).await? {}
    send_logs(agent, batch_bytes).await
}

/// Sends one batch of events. `false`: there was none.
async fn send_events(agent: &Agent, batch_bytes: usize) -> Result<bool, ClientError> {
    let (stream, batch) = {
        let mut spool = agent.spool.borrow_mut();
        let batch = match spool.next_batch(batch_bytes) {
            Ok(batch) => batch,
            Err(error) => {
                agent.note_error(&format!("the spool: {}", chain(&error)));
                None
            }
        };
        (spool.stream(), batch)
    };
    let Some(batch) = batch else { return Ok(false) };
    let path = format!("{}?stream={stream}&instance={}", agent_path(&agent.host, "events"), agent.instance);
    let posted =
        agent.client.request(Method::POST, &path, &[], Some(("application/x-ndjson", batch.bytes)), POST_DEADLINE);
    match posted.await.and_then(|answer| answer.json::<Acknowledged>()) {
        Ok(acknowledged) => {
            agent.last_contact.set(Some(clock::now()));
            commands::acknowledged(agent, acknowledged.acked);
            Ok(true)
        }
        Err(ClientError::Problem { body, .. }) if body.code == "event-gap" => {
            let expected = body.expected.unwrap_or(0);
            commands::begin_stream(agent, &format!("the server expects event {expected} next"));
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

async fn send_logs(agent: &Agent, batch_bytes: usize) -> Result<(), ClientError> {
    let jobs = match log_spool::list(&agent.dir) {
        Ok(jobs) => jobs,
        Err(error) => {
            agent.note_error(&format!("job logs: {}", chain(&error)));
            return Ok(());
        }
    };
    for job in jobs {
        let sent = send_log(agent, job, batch_bytes).await;
        if sent.is_ok() {
            agent.close_log(job);
        }
        if let Err(error) = sent {
            match error {
                // The server has lost the job (its state is older than this log): nobody will ever want these lines.
                ClientError::Problem { status: 404, .. } if !agent.running.borrow().contains_key(&job) => {
                    agent.remove_log(job);
                }
                // The server has less of it than it had: what is still here is sent again, now or at the next look.
                ClientError::Problem { body, .. } if body.code == "event-gap" && rewind(agent, job, body.expected) => {}
                error => return Err(error),
            }
        }
    }
    Ok(())
}

/// False: it cannot go back, so that the error stays one.
fn rewind(agent: &Agent, job: JobId, expected: Option<u64>) -> bool {
    let rewound = agent.log(job).and_then(|log| log.borrow_mut().rewind(expected.unwrap_or(1)));
    agent.send_bell.notify_one();
    rewound.unwrap_or(false)
}

async fn send_log(agent: &Agent, job: JobId, batch_bytes: usize) -> Result<(), ClientError> {
    let Ok(log) = agent.log(job) else { return Ok(()) };
    loop {
        let batch = {
            let mut log = log.borrow_mut();
            let after = log.acked();
            log.next_batch(after, batch_bytes)
        };
        let Ok(Some(batch)) = batch else {
            let ended = agent.ledger.borrow().job(job).is_none_or(crate::ledger::LedgerJob::has_ended);
            if ended && !agent.running.borrow().contains_key(&job) {
                agent.remove_log(job);
            }
            return Ok(());
        };
        let path = agent_log_path(&agent.host, job);
        let posted =
            agent.client.request(Method::POST, &path, &[], Some(("application/x-ndjson", batch.bytes)), POST_DEADLINE);
        let acknowledged: Acknowledged = posted.await?.json()?;
        if let Err(error) = log.borrow_mut().acknowledge(acknowledged.acked) {
            tracing::warn!(%job, "the log: {}", chain(&error));
        }
        if acknowledged.acked < batch.first_seq {
            return Ok(());
        }
    }
}

/// The last line that a job's log got, for the end of a job that the agent did not see through.
pub(crate) fn last_log_seq(agent: &Agent, job: JobId) -> u64 {
    agent.log(job).map_or(0, |log| log.borrow().last_seq())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_greeting_ends_the_pause_between_tries_and_nothing_else_does() {
        let greeted = Notify::new();
        let long = tokio::time::timeout(Duration::from_millis(200), wait_for_next_try(&greeted, IDLE));
        assert!(long.await.is_err(), "the server is not there");
        greeted.notify_one();
        tokio::time::timeout(Duration::from_secs(5), wait_for_next_try(&greeted, IDLE)).await.expect("it is greeted");
        tokio::time::timeout(Duration::from_secs(5), wait_for_next_try(&greeted, Duration::from_millis(1)))
            .await
            .expect("the pause is over");
    }
}
