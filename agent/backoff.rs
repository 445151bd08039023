//! Pure. How long to wait before the next try: first 0 to 15 s, so that a fleet does not come back at once, then 2 s doubling to
//! 120 s, with jitter after the cap (protocol.md "Timing"). Randomness is an argument; does not sleep.

use std::time::Duration;

const FIRST_SPREAD_SECS: f64 = 15.0;
const BASE_SECS: f64 = 2.0;
const CAP_SECS: f64 = 120.0;
/// A wait is stretched by up to this share of itself.
const JITTER: f64 = 0.5;

/// The tries since the last success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure. `random` is in 0..1; a server that asks for a time gets at least that.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        self.failures = self.failures.saturating_add(1);
        if let Some(asked) = retry_after {
            return asked + Duration::from_secs_f64(random * (CAP_SECS / 8.0).min(asked.as_secs_f64() + 1.0));
        }
        let seconds = match self.failures {
            1 => random * FIRST_SPREAD_SECS,
            // 2^16 s is far past the cap.
            n => (BASE_SECS * f64::from(1_u32 << (n - 2).min(16))).min(CAP_SECS) * (1.0 + JITTER * random),
        };
        Duration::from_secs_f64(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_from_two_seconds_to_the_cap() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.next(None, 0.0).as_secs()).collect();
        assert_eq!(waits, [0, 2, 4, 8, 16, 32, 64, 120, 120]);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(failures in 0_u32..100, random in 0.0_f64..1.0, asked in proptest::option::of(0_u64..4000)) {
            let mut backoff = Backoff { failures };
            let asked = asked.map(Duration::from_secs);
            let wait = backoff.next(asked, random);
            match asked {
                Some(asked) => prop_assert!(wait >= asked && wait <= asked + Duration::from_secs(16)),
                None if failures == 0 => prop_assert!(wait <= Duration::from_secs(15)),
                None => prop_assert!(wait >= Duration::from_secs(2) && wait <= Duration::from_secs(180)),
            }
        }
    }
}
