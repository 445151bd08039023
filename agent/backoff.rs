//! Pure. How long to wait before asking the server again (protocol.md "Timing"). Thousands of agents lose one server at
//! once and must not come back at once: so every wait has its share of chance, also the longest one.
//! Does not sleep and does not roll the dice: the caller passes a random share in.

use std::time::Duration;

/// The first retry comes within this, evenly spread: most failures are short, and all agents have them together.
const FIRST: Duration = Duration::from_secs(15);
/// The second retry's middle; each later one's is twice the one before.
const SHORTEST: Duration = Duration::from_secs(2);
/// The longest middle. Chance comes on top, else all agents that reached it would beat as one.
const LONGEST: Duration = Duration::from_secs(120);
/// No server is obeyed for longer: an intermediary may have said it.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How often it failed in a row. After a success, begin with a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It failed: how long to wait. `random` is 0 to 1; `retry_after` is what the server asked for, and is a lower bound.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>, random: f64) -> Duration {
        let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
        let wait = match self.failures {
            0 => FIRST.mul_f64(random),
            // Half to one and a half of the middle.
            n => (SHORTEST * 2_u32.saturating_pow((n - 1).min(16))).min(LONGEST).mul_f64(0.5 + random),
        };
        self.failures = self.failures.saturating_add(1);
        match retry_after {
            Some(asked) => wait.max(asked.min(LONGEST_RETRY_AFTER) + FIRST.mul_f64(random)),
            None => wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(failures: u32) -> Backoff {
        Backoff { failures }
    }

    #[test]
    fn waits_double_from_2_to_120_seconds_after_the_first() {
        let mut backoff = Backoff::default();
        let waits: Vec<f64> = (0..10).map(|_| backoff.next(None, 0.5).as_secs_f64()).collect();
        assert_eq!(waits, [7.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0, 120.0]);
        assert_eq!(Backoff::default().next(None, 1.0), FIRST);
    }

    #[test]
    fn an_absurd_retry_after_is_not_obeyed_for_ever() {
        assert_eq!(after(3).next(Some(Duration::from_secs(u64::MAX)), 0.0), LONGEST_RETRY_AFTER);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(failures in 0_u32.., random in 0.0_f64..=1.0) {
            let wait = after(failures).next(None, random);
            if failures == 0 {
                prop_assert!(wait <= FIRST);
            } else {
                prop_assert!(wait >= SHORTEST / 2 && wait <= LONGEST * 3 / 2);
            }
        }

        #[test]
        fn chance_spreads_the_longest_wait_too(failures in 0_u32.., a in 0.0_f64..=1.0, b in 0.0_f64..=1.0) {
            let (one, other) = (after(failures).next(None, a), after(failures).next(None, b));
            prop_assert!((a - b).abs() <= 1e-6 || one.abs_diff(other) > Duration::from_nanos(500));
        }

        #[test]
        fn what_the_server_asked_for_is_waited_and_a_little_more(
            failures in 0_u32..40, random in 0.001_f64..=1.0, asked in 0_u64..3_600,
        ) {
            let asked = Duration::from_secs(asked);
            prop_assert!(after(failures).next(Some(asked), random) > asked);
        }

        #[test]
        fn strange_chances_do_no_harm(random in prop::num::f64::ANY) {
            prop_assert!(after(9).next(None, random) <= LONGEST * 3 / 2);
        }
    }
}
