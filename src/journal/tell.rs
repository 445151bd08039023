//! Edge. Says once per process what is wrong at a place in a file, however often it is read again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Places remembered; beyond that nothing more is said.
const REMEMBERED: usize = 1000;

static TOLD: Mutex<BTreeSet<(PathBuf, u64)>> = Mutex::new(BTreeSet::new());

/// Calls `tell` if this place was not told before.
pub(super) fn once(path: &Path, offset: u64, tell: impl FnOnce()) {
    let is_new = {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < REMEMBERED && told.insert((path.to_owned(), offset))
    };
    if is_new {
        tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_once() {
        let mut count = 0;
        for offset in [7, 7, 8] {
            once(Path::new("/nowhere/told-once"), offset, || count += 1);
        }
        assert_eq!(count, 2);
    }
}
