//! Edge. Which batches are between taking their times and being durable, so that a reader of all hosts' events never
//! passes a line that is still on its way. Does not write anything.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::clock;

/// The batches on their way, by the time from which their lines may be.
#[derive(Debug, Default)]
pub struct InFlight {
    begun: Mutex<BTreeSet<DateTime<Utc>>>,
}

impl InFlight {
    /// A batch begins; it ends when the ticket is dropped.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken under the lock: nobody can ask for the horizon between the time and the entry.
        let at = clock::received_at();
        begun.insert(at);
        Ticket { of: Arc::clone(self), at }
    }

    /// Every line with `received_at` before this instant is durable or will never be.
    pub fn horizon(&self) -> DateTime<Utc> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.first().copied().unwrap_or_else(clock::received_at)
    }
}

/// One batch on its way.
#[derive(Debug)]
pub struct Ticket {
    of: Arc<InFlight>,
    at: DateTime<Utc>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.of.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_stays_before_a_batch_until_it_ends() {
        let in_flight = Arc::new(InFlight::default());
        let ticket = in_flight.enter();
        let line = clock::received_at();
        assert!(in_flight.horizon() < line);
        drop(ticket);
        assert!(in_flight.horizon() > line);
    }
}
