//! Edge. Which batches are between taking their times and being durable, so that a reader of all hosts' events never
//! passes a line that is still on its way. In company the times are in a file too, for the readers of other servers.
//! Does not write lines.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chrono::{DateTime, Utc};

use super::servers::{Other, Servers};
use crate::atomic_file;
use crate::clock;
use crate::file_error::FileError;

/// The batches on their way, by the time from which their lines may be.
pub struct InFlight {
    servers: Arc<Servers>,
    begun: Mutex<BTreeSet<DateTime<Utc>>>,
    shown: Shown,
}

impl InFlight {
    pub fn new(servers: Arc<Servers>) -> Self {
        let shown = Shown { path: servers.own_dir().join(FILE), file: OnceLock::new(), free: Mutex::default() };
        Self { servers, begun: Mutex::default(), shown }
    }

    /// A batch begins; it ends when the ticket is dropped.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        // Shown before its time is taken: whoever looks in between reads a clock that is not past it.
        let place = self.servers.in_company().then(|| self.shown.show(clock::now())).flatten();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken under the lock: nobody can ask for the horizon between the time and the entry.
        let at = clock::received_at();
        begun.insert(at);
        Ticket { of: Arc::clone(self), at, place }
    }

    /// Every line of this server with `received_at` before this instant is durable or will never be.
    pub fn horizon(&self) -> DateTime<Utc> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.first().copied().unwrap_or_else(clock::received_at)
    }
}

/// One batch on its way.
pub struct Ticket {
    of: Arc<InFlight>,
    at: DateTime<Utc>,
    place: Option<u64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.of.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.at);
        if let Some(place) = self.place {
            self.of.shown.hide(place);
        }
    }
}

const FILE: &str = "in-flight";

/// `servers/<id>/in-flight`: eight bytes a batch, its time in microseconds since 1970, little-endian; zeros: nobody's.
struct Shown {
    path: PathBuf,
    file: OnceLock<File>,
    free: Mutex<Places>,
}

/// Places in the file that no batch has.
#[derive(Default)]
struct Places {
    free: Vec<u64>,
    count: u64,
}

impl Shown {
    /// `None`: it could not be written; other servers may then pass this batch.
    fn show(&self, at: DateTime<Utc>) -> Option<u64> {
        let place = {
            let mut places = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            places.free.pop().unwrap_or_else(|| {
                places.count += 1;
                places.count - 1
            })
        };
        self.write(place, at.timestamp_micros());
        Some(place)
    }

    fn hide(&self, place: u64) {
        self.write(place, 0);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).free.push(place);
    }

    fn write(&self, place: u64, micros: i64) {
        let opened = match self.file.get() {
            Some(file) => Ok(file),
            None => atomic_file::open_in_place(&self.path).map(|file| self.file.get_or_init(|| file)),
        };
        let written = opened.and_then(|file| {
            atomic_file::write_at(file, place * 8, &micros.to_le_bytes()).map_err(FileError::of("write", &self.path))
        });
        if let Err(error) = written {
            tracing::warn!("other servers may pass events that are on their way: {}", crate::file_error::chain(&error));
        }
    }
}

/// The earliest batch that another server has on its way.
pub fn earliest_of(other: &Other) -> Result<Option<DateTime<Utc>>, FileError> {
    earliest_in(&other.dir.join(FILE))
}

fn earliest_in(path: &Path) -> Result<Option<DateTime<Utc>>, FileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::of("read", path)(error)),
    };
    let times = bytes.chunks_exact(8).filter_map(|eight| eight.try_into().ok().map(i64::from_le_bytes));
    Ok(times.filter(|micros| *micros != 0).min().and_then(DateTime::from_timestamp_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_stays_before_a_batch_until_it_ends() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let in_flight = Arc::new(InFlight::new(Servers::enter(state.path()).expect("enter")));
        let ticket = in_flight.enter();
        let line = clock::received_at();
        assert!(in_flight.horizon() < line);
        drop(ticket);
        assert!(in_flight.horizon() > line);
    }

    #[test]
    fn others_see_the_earliest_batch_and_none_when_all_have_ended() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let path = state.path().join(FILE);
        let shown = Shown { path: path.clone(), file: OnceLock::new(), free: Mutex::default() };
        let at = |micros| DateTime::from_timestamp_micros(micros).expect("an instant");
        assert_eq!(earliest_in(&path).expect("read"), None);
        let (five, three) = (shown.show(at(5)).expect("a place"), shown.show(at(3)).expect("a place"));
        assert_eq!(earliest_in(&path).expect("read"), Some(at(3)));
        shown.hide(three);
        assert_eq!(earliest_in(&path).expect("read"), Some(at(5)));
        shown.hide(five);
        assert_eq!(earliest_in(&path).expect("read"), None);
        assert_eq!(shown.show(at(9)), Some(five), "places are used again");
    }
}
