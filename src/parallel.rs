//! Pure. One function over many values, on as many threads as there are processors. Does not know what it is for; what the
//! function does is its caller's.

use std::num::NonZero;
use std::thread;

/// Fewer values than this are not worth threads.
const MANY: usize = 256;

/// The function's answers, in the order of the values. A panic of the function goes on here.
pub fn map<T: Sync, R: Send>(values: &[T], function: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if values.len() < MANY || threads == 1 {
        return values.iter().map(function).collect();
    }
    let answers_of = |part: &[T]| part.iter().map(&function).collect::<Vec<R>>();
    thread::scope(|scope| {
        let parts: Vec<_> =
            values.chunks(values.len().div_ceil(threads)).map(|part| scope.spawn(|| answers_of(part))).collect();
        let join = |part: thread::ScopedJoinHandle<'_, Vec<R>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays_for_few_and_for_many() {
        for count in [0_usize, 1, MANY - 1, MANY, 10_001] {
            let values: Vec<usize> = (0..count).collect();
            assert_eq!(map(&values, |value| value * 2), values.iter().map(|value| value * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_goes_on() {
        let values: Vec<usize> = (0..10_000).collect();
        let outcome = std::panic::catch_unwind(|| map(&values, |value| assert_ne!(*value, 7000)));
        assert!(outcome.is_err());
    }
}
