//! Edge. How one server tells the others which journals changed: names, one a line, at the end of a file of its own, which the
//! others read from where they were. Bounded: a full file is followed by the next, and only two are kept; a reader that comes
//! too late is told that anything may have changed. Nothing here is needed to be durable. Does not say what changed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::atomic_file;
use crate::file_error::FileError;

/// A file past this many bytes is followed by the next.
const FILE_LIMIT_BYTES: u64 = 256 * 1024;

/// The ringing side.
#[derive(Debug)]
pub struct Bell {
    dir: PathBuf,
    limit: u64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    number: u64,
    file: Option<Arc<File>>,
    written: u64,
}

impl Bell {
    /// A bell in a server's own directory. Makes no file before it is rung.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), limit: FILE_LIMIT_BYTES, open: Mutex::default() }
    }

    /// Adds a journal's name. When this returns, whoever reads the bell finds it.
    pub fn ring(&self, name: &str) -> Result<(), FileError> {
        let line = format!("{name}\n");
        let (number, file) = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.written += line.len() as u64;
            if open.written > self.limit || open.number == 0 {
                // Whoever still writes to the file before does so within one file's time.
                *open = Open { number: open.number + 1, file: None, written: line.len() as u64 };
            }
            (open.number, open.file.clone())
        };
        let path = self.path(number);
        let file = match file {
            Some(file) => file,
            None => {
                // Several may open it at once; appending to one file through two handles is the same.
                let file = Arc::new(atomic_file::open_lock(&path)?);
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                if open.number == number {
                    open.file = Some(Arc::clone(&file));
                }
                drop(open);
                atomic_file::remove(&self.path(number.saturating_sub(2)))?;
                file
            }
        };
        // One write, and appended: whole whoever else rings.
        (&*file).write_all(line.as_bytes()).map_err(FileError::of("append to", &path))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("bell.{number}"))
    }
}

/// What a listener heard since it last listened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// These journals changed.
    Names(BTreeSet<String>),
    /// Any may have: some of it was gone before it was read.
    Anything,
}

/// The reading side, for one other server's bell.
#[derive(Debug)]
pub struct Listener {
    dir: PathBuf,
    /// How far each file was read.
    read: BTreeMap<u64, u64>,
}

impl Listener {
    /// Hears everything from the beginning of what is kept.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), read: BTreeMap::new() }
    }

    /// Everything that was rung before this call and not heard before. Blocks shortly.
    pub fn listen(&mut self) -> Result<Heard, FileError> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(FileError::of("list", &self.dir))? {
            let name = entry.map_err(FileError::of("list", &self.dir))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_prefix("bell.")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let newest_known = self.read.last_key_value().map(|(number, _)| *number);
        // Two files are kept: when the oldest is beyond the one after ours, there was one that we have not seen.
        let missed = match (newest_known, numbers.first()) {
            (Some(known), Some(first)) => *first > known + 1,
            (None, Some(first)) => *first > 1,
            _ => false,
        };
        self.read.retain(|number, _| numbers.contains(number));
        let mut names = BTreeSet::new();
        for number in numbers {
            let from = self.read.get(&number).copied().unwrap_or(0);
            let Some(text) = read_from(&self.dir.join(format!("bell.{number}")), from)? else { continue };
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            names.extend(text[..whole].lines().map(str::to_owned));
            self.read.insert(number, from + whole as u64);
        }
        Ok(if missed { Heard::Anything } else { Heard::Names(names) })
    }
}

fn read_from(path: &Path, from: u64) -> Result<Option<String>, FileError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::of("read", path)(error)),
    };
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut bytes));
    read.map_err(FileError::of("read", path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Heard {
        Heard::Names(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn what_was_rung_is_heard_once_by_each_listener() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bell = Bell::new(dir.path());
        let (mut one, mut two) = (Listener::new(dir.path()), Listener::new(dir.path()));
        assert_eq!(one.listen().expect("listen"), names(&[]));
        bell.ring("web-1").expect("ring");
        bell.ring("web-2").expect("ring");
        bell.ring("web-1").expect("ring");
        assert_eq!(one.listen().expect("listen"), names(&["web-1", "web-2"]));
        bell.ring("web-3").expect("ring");
        assert_eq!(one.listen().expect("listen"), names(&["web-3"]));
        assert_eq!(two.listen().expect("listen"), names(&["web-1", "web-2", "web-3"]));
    }

    #[test]
    fn a_listener_that_comes_too_late_is_told_so_and_two_files_are_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bell = Bell { limit: 20, ..Bell::new(dir.path()) };
        let mut listener = Listener::new(dir.path());
        bell.ring("web-0").expect("ring");
        assert_eq!(listener.listen().expect("listen"), names(&["web-0"]));
        for number in 1..6 {
            bell.ring(&format!("web-{number}")).expect("ring");
        }
        assert_eq!(listener.listen().expect("listen"), names(&["web-1", "web-2", "web-3", "web-4", "web-5"]));
        for number in 6..20 {
            bell.ring(&format!("web-{number}")).expect("ring");
        }
        assert_eq!(listener.listen().expect("listen"), Heard::Anything);
        bell.ring("web-9").expect("ring");
        assert_eq!(listener.listen().expect("listen"), names(&["web-9"]));
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2);
    }
}
