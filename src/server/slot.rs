//! Edge. One journal with its waiters: whoever writes brings a piece of work, the first to come runs all that wait as one
//! batch (one lock, one write, one fdatasync), then everybody is answered and woken. No lock of this process is held over I/O:
//! the journal itself moves to the thread that runs the batch. In company of other servers readers look first whether the files
//! have gone on. Does not know what is written.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::{oneshot, watch};

use super::app::blocking;
use super::in_flight::{InFlight, Ticket};
use super::servers::Servers;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::journal::{Batch, Fold, Head, Journal, Place};

/// Requests that may wait for one journal; more are told to come back.
const QUEUE_LIMIT: usize = 1024;

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// No space left: 507.
    DiskFull(String),
    /// Any other failure, with the chain of causes: 503.
    Failed(String),
    /// Too many requests wait for this journal: 503.
    Busy,
}

impl From<&FileError> for WriteError {
    fn from(error: &FileError) -> Self {
        if error.is_disk_full() { Self::DiskFull(chain(error)) } else { Self::Failed(chain(error)) }
    }
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DiskFull(text) => write!(f, "the server's disk is full: {text}"),
            Self::Failed(text) => write!(f, "the server could not write its state: {text}"),
            Self::Busy => f.write_str("too many requests wait for this host's journal"),
        }
    }
}

impl std::error::Error for WriteError {}

type Answer = Box<dyn FnOnce(Result<(), WriteError>) + Send>;
/// Told the batch, it does its part and returns what to call when the batch ended; told that there is no batch, it says so at once.
type Work<S> = Box<dyn FnOnce(Result<&mut Batch<'_, S>, WriteError>) -> Option<Answer> + Send>;

/// What readers see: only what is durable.
#[derive(Debug)]
pub struct Durable<S> {
    pub state: Arc<S>,
    pub head: Head,
    /// How far into the files that is.
    pub place: Place,
}

impl<S> Clone for Durable<S> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), head: self.head, place: self.place }
    }
}

impl<S: Fold> Durable<S> {
    fn of(journal: &Journal<S>) -> Self {
        Self { state: Arc::new(journal.state().clone()), head: journal.head(), place: journal.place() }
    }
}

/// What all journals of a server share.
pub struct Shared {
    /// The bell of those who wait for any journal.
    pub any_changed: watch::Sender<u64>,
    pub in_flight: Arc<InFlight>,
    pub servers: Arc<Servers>,
    /// Batches that are durable, and such that are not.
    pub writes: AtomicU64,
    pub failed_writes: AtomicU64,
    /// Changes that the other servers could not be told of yet; their batches count as on their way until then.
    untold: Mutex<Vec<(String, Ticket)>>,
}

impl Shared {
    pub fn new(servers: Arc<Servers>) -> Self {
        let in_flight = Arc::new(InFlight::new(Arc::clone(&servers)));
        Self {
            any_changed: watch::Sender::new(0),
            in_flight,
            servers,
            writes: AtomicU64::new(0),
            failed_writes: AtomicU64::new(0),
            untold: Mutex::default(),
        }
    }

    /// Tells the other servers that a journal, or a file beside it, has changed. The batch ends with that.
    fn tell(&self, name: &str, ticket: Ticket) {
        if self.servers.in_company()
            && let Err(error) = self.servers.bell.ring(name)
        {
            tracing::warn!(journal = name, "other servers are told later: {}", chain(&error));
            self.untold.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), ticket));
        }
    }

    /// Tries again to tell what could not be told.
    pub fn tell_again(&self) {
        let untold = std::mem::take(&mut *self.untold.lock().unwrap_or_else(PoisonError::into_inner));
        untold.into_iter().for_each(|(name, ticket)| self.tell(&name, ticket));
    }
}

struct Inner<S> {
    /// Absent while a batch runs.
    journal: Option<Box<Journal<S>>>,
    queue: Vec<Work<S>>,
    durable: Durable<S>,
}

/// A journal that many tasks write to and wait on.
pub struct Slot<S> {
    inner: Mutex<Inner<S>>,
    /// Counts changes; the waiters' bell.
    changed: watch::Sender<u64>,
    shared: Arc<Shared>,
    name: String,
    dir: PathBuf,
}

impl<S: Fold + Send + Sync + 'static> Slot<S> {
    /// Opens the journal. Blocks.
    pub fn open(name: &str, dir: &Path, shared: Arc<Shared>) -> Result<Arc<Self>, FileError> {
        Ok(Self::of(name, dir, shared, Journal::open(dir)?))
    }

    /// Around a journal that was opened.
    pub fn of(name: &str, dir: &Path, shared: Arc<Shared>, mut journal: Journal<S>) -> Arc<Self> {
        report_damage(name, &mut journal);
        if let Some(at) = journal.head().at {
            clock::not_before(at);
        }
        let durable = Durable::of(&journal);
        let inner = Mutex::new(Inner { journal: Some(Box::new(journal)), queue: Vec::new(), durable });
        let (name, dir) = (name.to_owned(), dir.to_owned());
        Arc::new(Self { inner, changed: watch::Sender::new(0), shared, name, dir })
    }

    /// The state as of the last durable line.
    pub fn durable(&self) -> Durable<S> {
        self.lock().durable.clone()
    }

    /// As other servers are told of it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rings at every change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes whoever waits on this journal, for a change that is not in it (a new content, a log line).
    pub fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// As `wake`, for waiters at other servers too.
    pub fn wake_everywhere(&self) {
        self.wake();
        self.shared.tell(&self.name, self.shared.in_flight.enter());
    }

    /// Whether other servers may append to the files.
    pub fn is_in_company(&self) -> bool {
        self.shared.servers.in_company()
    }

    /// Takes in what other servers have appended: afterwards `durable` is as new as the files were at this call. A file that
    /// cannot be read leaves what is known.
    pub async fn refresh(self: &Arc<Self>) {
        let (place, slot) = (self.durable().place, Arc::clone(self));
        let is_behind = blocking(move || place.is_behind(&slot.dir, clock::now())).await;
        if is_behind.unwrap_or(true)
            && let Err(error) = self.write(|_| ()).await
        {
            tracing::warn!(journal = %self.name, %error, "what other servers wrote cannot be read");
        }
    }

    /// Runs `work` in the next batch and returns its result when the batch is durable. `work` runs on a blocking thread.
    pub async fn write<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Batch<'_, S>) -> R + Send + 'static,
    ) -> Result<R, WriteError> {
        let (journal, receiver) = self.enqueue(work)?;
        if let Some(journal) = journal {
            let slot = Arc::clone(self);
            tokio::task::spawn_blocking(move || slot.run(journal));
        }
        receiver.await.unwrap_or_else(|_| Err(stopped_writer()))
    }

    /// As `write`, on this thread. Blocks: for one who writes to many journals from a thread of his own.
    pub fn write_here<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_, S>) -> R + Send + 'static,
    ) -> Result<R, WriteError> {
        let (journal, receiver) = self.enqueue(work)?;
        if let Some(journal) = journal {
            self.run(journal);
        }
        receiver.blocking_recv().unwrap_or_else(|_| Err(stopped_writer()))
    }

    /// Puts the work into the queue. Who gets the journal runs it; else somebody does already.
    #[allow(clippy::type_complexity, reason = "both parts are plain")]
    fn enqueue<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_, S>) -> R + Send + 'static,
    ) -> Result<(Option<Box<Journal<S>>>, oneshot::Receiver<Result<R, WriteError>>), WriteError> {
        let (sender, receiver) = oneshot::channel();
        let work: Work<S> = Box::new(move |batch| match batch {
            Ok(batch) => {
                let result = work(batch);
                Some(Box::new(move |durable| {
                    let _ = sender.send(durable.map(|()| result));
                }))
            }
            Err(error) => {
                let _ = sender.send(Err(error));
                None
            }
        });
        let mut inner = self.lock();
        if inner.queue.len() >= QUEUE_LIMIT {
            return Err(WriteError::Busy);
        }
        inner.queue.push(work);
        Ok((inner.journal.take(), receiver))
    }

    /// Runs batches until nobody waits.
    fn run(&self, mut journal: Box<Journal<S>>) {
        loop {
            let works = {
                let mut inner = self.lock();
                if inner.queue.is_empty() {
                    inner.journal = Some(journal);
                    return;
                }
                std::mem::take(&mut inner.queue)
            };
            let ticket = self.shared.in_flight.enter();
            let mut answers = Vec::new();
            let result = run_batch(&mut journal, works, &mut answers);
            // After a failure the journal may be in its next segment, which nobody has to read to be right.
            let is_new = result.is_ok() && journal.place() != self.lock().durable.place;
            if is_new {
                let durable = Durable::of(&journal);
                self.lock().durable = durable;
            }
            if result.as_ref().is_ok_and(|wrote| *wrote) {
                self.shared.tell(&self.name, ticket);
            } else {
                drop(ticket);
            }
            let count = if result.is_ok() { &self.shared.writes } else { &self.shared.failed_writes };
            count.fetch_add(1, Ordering::Relaxed);
            report_damage(&self.name, &mut journal);
            let outcome = result.as_ref().map(|_| ()).map_err(WriteError::from);
            if let Err(error) = &outcome {
                tracing::error!(journal = %self.name, %error, "nothing was acknowledged");
            }
            // Who waits comes before who wrote: an agent's command is what somebody waits for.
            if is_new {
                self.wake();
                self.shared.any_changed.send_modify(|count| *count += 1);
            }
            for answer in answers {
                answer(outcome.clone());
            }
            if let Err(error) = journal.keep_checkpoint_if_due() {
                tracing::debug!(journal = %self.name, "no checkpoint: {}", chain(&error));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // Nothing panics while it is held, and the data would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped_writer() -> WriteError {
    WriteError::Failed("the writer stopped".to_owned())
}

fn report_damage<S: Fold>(name: &str, journal: &mut Journal<S>) {
    for damage in journal.take_damage() {
        tracing::error!(
            journal = name,
            file = %damage.file.display(),
            line = damage.line,
            bytes = damage.bytes,
            set_aside = damage.set_aside,
            "damage in the journal; the other lines are used"
        );
    }
}

/// Whether it had lines of its own to write.
fn run_batch<S: Fold>(
    journal: &mut Journal<S>,
    works: Vec<Work<S>>,
    answers: &mut Vec<Answer>,
) -> Result<bool, FileError> {
    match journal.begin(clock::received_at()) {
        Ok(mut batch) => {
            // Another server's clock may be ahead.
            if let Some(at) = batch.head().at {
                clock::not_before(at);
            }
            answers.extend(works.into_iter().filter_map(|work| work(Ok(&mut batch))));
            let wrote = !batch.is_empty();
            batch.commit().map(|()| wrote)
        }
        Err(error) => {
            for work in works {
                work(Err(WriteError::from(&error)));
            }
            Err(error)
        }
    }
}

/// The time of a journal line: see `clock::received_at`.
pub fn line_time() -> DateTime<Utc> {
    clock::received_at()
}
