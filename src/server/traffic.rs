//! Pure itself. Counts of what the server is asked and has open, for metrics: a number that grows, or one that is held while something
//! lasts. Bounded by the table of operations and the statuses of our answers. Does not know requests or connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::metrics::PingFigures;

/// What a request was and how it was answered: method, path as the table has it, status.
type Answered = (&'static str, &'static str, u16);

/// The counts.
#[derive(Debug, Default)]
pub struct Traffic {
    answered: Mutex<BTreeMap<Answered, u64>>,
    pub parked: Open,
    pub connections: Open,
}

impl Traffic {
    /// One more request has its answer. Both texts are empty for what is not in the table.
    pub fn count(&self, method: &'static str, path: &'static str, status: u16) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry((method, path, status)).or_default() += 1;
    }

    /// Method, path, status and count of all that there were.
    pub fn answered(&self) -> Vec<(&'static str, &'static str, u16, u64)> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.iter().map(|((method, path, status), count)| (*method, *path, *status, *count)).collect()
    }
}

/// What became of the pings of this server.
#[derive(Debug, Default)]
pub struct PingCounts(Mutex<PingFigures>);

impl PingCounts {
    /// One was taken, or was not.
    pub fn count(&self, is_taken: bool, at: DateTime<Utc>) {
        let mut figures = self.figures_now();
        if is_taken {
            figures.taken += 1;
            figures.last_taken = Some(at);
        } else {
            figures.failed += 1;
        }
    }

    /// So many that were not taken are tried again.
    pub fn set_waiting(&self, waiting: usize) {
        self.figures_now().waiting = waiting as u64;
    }

    pub fn figures(&self) -> PingFigures {
        *self.figures_now()
    }

    fn figures_now(&self) -> std::sync::MutexGuard<'_, PingFigures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of something there are at the moment.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<AtomicU64>);

impl Open {
    /// One more, while the value lives.
    pub fn hold(&self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(&self.0))
    }

    /// How many there are now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of them.
#[derive(Debug)]
pub struct Held(Arc<AtomicU64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_count_as_they_were_taken() {
        let pings = PingCounts::default();
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        for is_taken in [false, true, false] {
            pings.count(is_taken, at);
        }
        pings.set_waiting(2);
        let found = pings.figures();
        assert_eq!((found.taken, found.failed, found.last_taken, found.waiting), (1, 2, Some(at), 2));
    }

    #[test]
    fn requests_add_up_and_what_is_held_counts_while_it_lives() {
        let traffic = Traffic::default();
        for status in [200, 401, 200] {
            traffic.count("GET", "/v1/hosts", status);
        }
        assert_eq!(traffic.answered(), [("GET", "/v1/hosts", 200, 2), ("GET", "/v1/hosts", 401, 1)]);
        let (one, two) = (traffic.parked.hold(), traffic.parked.hold());
        assert_eq!(traffic.parked.count(), 2);
        drop(one);
        assert_eq!(traffic.parked.count(), 1);
        drop(two);
        assert_eq!((traffic.parked.count(), traffic.connections.count()), (0, 0));
    }
}
