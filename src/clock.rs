//! Edge. The only reader of wall time. Everything that needs the time takes it as an argument;
//! loops and request handlers call here. Does not sleep.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// The wall clock, which may jump.
pub fn now() -> DateTime<Utc> {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    Utc::now()
}

static LAST_RECEIVED: AtomicI64 = AtomicI64::new(i64::MIN);

/// The time for `received_at`: microseconds of the wall clock, but never equal to or before an earlier answer, so that a
/// reader of all hosts' events can continue by time. Call `not_before` with what the files hold first.
pub fn received_at() -> DateTime<Utc> {
    let wall = now().timestamp_micros();
    let previous = LAST_RECEIVED
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(wall.max(last.saturating_add(1))))
        .unwrap_or(wall);
    DateTime::from_timestamp_micros(wall.max(previous.saturating_add(1))).unwrap_or_default()
}

/// Keeps `received_at` past this instant, which a file already holds.
pub fn not_before(instant: DateTime<Utc>) {
    LAST_RECEIVED.fetch_max(instant.timestamp_micros(), Ordering::AcqRel);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_at_only_grows_even_past_a_file_from_the_future() {
        let first = received_at();
        assert!(received_at() > first);
        let future = now() + chrono::TimeDelta::milliseconds(500);
        not_before(future);
        assert!(received_at().timestamp_micros() > future.timestamp_micros());
    }
}
