//! Edge. Connections on which nobody has shown a valid token or credential yet: how many there may be, and that the oldest is
//! closed for one more. Does not know what happens on them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// All of them.
#[derive(Debug)]
pub struct Strangers {
    /// How many there may be.
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// By age. Only the newest may still be without its task.
    open: BTreeMap<u64, Option<AbortHandle>>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub struct Stranger {
    all: Arc<Strangers>,
    number: u64,
}

impl Strangers {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), inner: Mutex::default() })
    }

    /// One more, whose task `start` starts. Returns whether the oldest had to go.
    pub fn admit(self: &Arc<Self>, start: impl FnOnce(Stranger) -> AbortHandle) -> bool {
        let (number, is_full) = {
            let mut inner = self.lock();
            let is_full = inner.open.len() >= self.limit;
            if is_full {
                inner.close_oldest();
            }
            inner.last += 1;
            let number = inner.last;
            inner.open.insert(number, None);
            (number, is_full)
        };
        let task = start(Stranger { all: Arc::clone(self), number });
        // It may have been let in, or have ended, by now.
        if let Some(place) = self.lock().open.get_mut(&number) {
            *place = Some(task);
        }
        is_full
    }

    /// Closes the oldest; `false` when there is none.
    pub fn close_oldest(&self) -> bool {
        self.lock().close_oldest()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn close_oldest(&mut self) -> bool {
        let Some((_, task)) = self.open.pop_first() else { return false };
        // While the lock is held, so that one who is let in at this moment is either not here or not let in. The task itself
        // is dropped by its own thread.
        if let Some(task) = task {
            task.abort();
        }
        true
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let gone = self.all.lock().open.remove(&self.number);
        drop(gone);
    }
}

/// How many strangers may be there at once: all agents are that for a moment when they come back after a restart.
pub fn fair_share() -> usize {
    most_connections() / 4 * 3
}

/// How many connections there may be in all: some descriptors are left for files, without which nobody on them is served.
pub fn most_connections() -> usize {
    let all = usize::try_from(descriptors()).unwrap_or(usize::MAX);
    all.saturating_sub((all / 8).clamp(32, 512)).max(8)
}

#[cfg(unix)]
fn descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Windows has no such limit; memory is one.
#[cfg(not(unix))]
fn descriptors() -> u64 {
    20_000
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;

    /// A connection that never ends by itself; what it holds comes back when it does.
    fn connection(strangers: &Arc<Strangers>) -> (JoinHandle<()>, mpsc::Receiver<Stranger>, bool) {
        let (sender, receiver) = mpsc::channel(1);
        let mut task = None;
        let is_full = strangers.admit(|stranger| {
            sender.try_send(stranger).expect("room");
            let started = tokio::spawn(async move {
                let _sender = sender;
                pending::<()>().await;
            });
            let handle = started.abort_handle();
            task = Some(started);
            handle
        });
        (task.expect("it was started"), receiver, is_full)
    }

    async fn is_closed(task: JoinHandle<()>) -> bool {
        let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
        matches!(ended, Ok(Err(error)) if error.is_cancelled())
    }

    #[tokio::test]
    async fn the_oldest_stranger_goes_for_one_more_and_whoever_was_let_in_stays() {
        let strangers = Strangers::new(2);
        let (first, mut of_first, full) = connection(&strangers);
        let (second, _of_second, _) = connection(&strangers);
        assert!(!full);
        // The first is let in: there is room again.
        drop(of_first.recv().await.expect("a stranger"));
        let (third, _of_third, full) = connection(&strangers);
        assert!(!full);
        let (fourth, _of_fourth, full) = connection(&strangers);
        assert!(full && is_closed(second).await);
        assert!(strangers.close_oldest() && is_closed(third).await);
        assert!(strangers.close_oldest() && is_closed(fourth).await);
        assert!(!strangers.close_oldest() && !first.is_finished());
        first.abort();
    }
}
