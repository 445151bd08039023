//! Edge. One journal with its waiters: whoever writes brings a piece of work, the first to come runs all that wait as one
//! batch (one lock, one write, one fdatasync), then everybody is answered and woken. No lock of this process is held over I/O:
//! the journal itself moves to the thread that runs the batch. Does not know what is written.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::{oneshot, watch};

use super::in_flight::InFlight;
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
    /// The bell of those who wait for any journal.
    any_changed: watch::Sender<u64>,
    in_flight: Arc<InFlight>,
    name: String,
}

impl<S: Fold + Send + Sync + 'static> Slot<S> {
    /// Opens the journal. Blocks.
    pub fn open(
        name: &str,
        dir: &Path,
        any_changed: watch::Sender<u64>,
        in_flight: Arc<InFlight>,
    ) -> Result<Arc<Self>, FileError> {
        let mut journal = Journal::<S>::open(dir)?;
        report_damage(name, &mut journal);
        if let Some(at) = journal.head().at {
            clock::not_before(at);
        }
        let durable = Durable::of(&journal);
        let inner = Mutex::new(Inner { journal: Some(Box::new(journal)), queue: Vec::new(), durable });
        let slot = Self { inner, changed: watch::Sender::new(0), any_changed, in_flight, name: name.to_owned() };
        Ok(Arc::new(slot))
    }

    /// The state as of the last durable line.
    pub fn durable(&self) -> Durable<S> {
        self.lock().durable.clone()
    }

    /// Rings at every change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes whoever waits on this journal, for a change that is not in it (a new content, a log line).
    pub fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Runs `work` in the next batch and returns its result when the batch is durable. `work` runs on a blocking thread.
    pub async fn write<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Batch<'_, S>) -> R + Send + 'static,
    ) -> Result<R, WriteError> {
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
        let journal = {
            let mut inner = self.lock();
            if inner.queue.len() >= QUEUE_LIMIT {
                return Err(WriteError::Busy);
            }
            inner.queue.push(work);
            inner.journal.take()
        };
        if let Some(journal) = journal {
            let slot = Arc::clone(self);
            tokio::task::spawn_blocking(move || slot.run(journal));
        }
        receiver.await.unwrap_or(Err(WriteError::Failed("the writer stopped".to_owned())))
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
            let ticket = self.in_flight.enter();
            let mut answers = Vec::new();
            let result = run_batch(&mut journal, works, &mut answers);
            if result.is_ok() {
                let durable = Durable { state: Arc::new(journal.state().clone()), head: journal.head() };
                self.lock().durable = durable;
            }
            drop(ticket);
            report_damage(&self.name, &mut journal);
            let outcome = result.as_ref().map_err(WriteError::from).copied();
            if let Err(error) = &outcome {
                tracing::error!(journal = %self.name, %error, "nothing was acknowledged");
            }
            for answer in answers {
                answer(outcome.clone());
            }
            self.wake();
            self.any_changed.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // Nothing panics while it is held, and the data would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

fn run_batch<S: Fold>(
    journal: &mut Journal<S>,
    works: Vec<Work<S>>,
    answers: &mut Vec<Answer>,
) -> Result<(), FileError> {
    match journal.begin(clock::received_at()) {
        Ok(mut batch) => {
            answers.extend(works.into_iter().filter_map(|work| work(Ok(&mut batch))));
            batch.commit()
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
