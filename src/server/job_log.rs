//! Edge. The log of one job: `logs/<job>.jsonl`, the agent's lines as they came, contiguous by seq; `.jsonl.gz` when it is old.
//! Does not know how the job goes.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::append_file::AppendFile;
use crate::atomic_file;
use crate::file_error::FileError;
use crate::gzip_file;
use crate::protocol::Envelope;
use crate::protocol::agent_event::{JobProgress, LogDropped};

/// Why log lines were not taken.
#[derive(Debug)]
pub enum LogError {
    /// A line is missing between what is there and what came.
    Gap {
        expected: u64,
        got: u64,
    },
    File(FileError),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, got } => write!(f, "log line {got} came where {expected} is next"),
            Self::File(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for LogError {}

impl From<FileError> for LogError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Only what the log itself needs of a line.
#[derive(Deserialize)]
struct SeqOnly {
    seq: u64,
}

/// Appends what is new, durably. Returns the seq up to which everything is there, and the newest progress among the lines.
/// The caller sees to it that one writer is at work per job.
pub fn append(path: &Path, lines: &[Envelope]) -> Result<(u64, Option<JobProgress>), LogError> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        atomic_file::create_private_dir(parent)?;
    }
    let lock_path = lock_path(path);
    let lock = atomic_file::open_lock(&lock_path)?;
    lock.lock_shared().map_err(FileError::of("lock", &lock_path))?;
    if !path.exists() && gzip_file::compressed_path(path).exists() {
        gzip_file::restore(path)?;
    }
    let mut file = open_at_whole_lines(path)?;
    let mut last = last_seq(&mut file)?;
    let mut bytes = Vec::new();
    let mut progress = None;
    for envelope in lines {
        if envelope.seq <= last {
            continue;
        }
        let first = match envelope.kind.as_str() {
            LogDropped::TYPE => {
                serde_json::from_str::<LogDropped>(envelope.payload.get()).map_or(envelope.seq, |d| d.from)
            }
            _ => envelope.seq,
        };
        if first > last + 1 {
            return Err(LogError::Gap { expected: last + 1, got: first });
        }
        if envelope.kind == JobProgress::TYPE {
            progress = serde_json::from_str(envelope.payload.get()).ok().or(progress);
        }
        // An envelope that was parsed has a JSON form.
        bytes.extend(serde_json::to_vec(envelope).unwrap_or_default());
        bytes.push(b'\n');
        last = envelope.seq;
    }
    if bytes.is_empty() {
        // Lines that were there already: a server that was killed may have written them and not synced.
        file.sync()?;
    } else {
        // What could not be synced must not be found there when it comes again.
        file.append_durably_or_take_back(&bytes)?;
    }
    Ok((last, progress))
}

/// Upkeep holds it alone, who appends holds it with others.
fn lock_path(log: &Path) -> PathBuf {
    log.with_file_name(".lock")
}

/// Does something to a log file that must not meet an append. `false`: somebody is appending to one of the host's logs.
pub fn while_nobody_appends(path: &Path, deed: impl FnOnce() -> Result<(), FileError>) -> Result<bool, FileError> {
    let Some(_lock) = atomic_file::try_lock(&lock_path(path))? else { return Ok(false) };
    deed().map(|()| true)
}

/// Opens the log and cuts a torn last line off. Reads its end only.
fn open_at_whole_lines(path: &Path) -> Result<AppendFile, FileError> {
    let mut file = AppendFile::open(path)?;
    let mut window = 4 * 1024;
    loop {
        let from = file.len().saturating_sub(window);
        let bytes = file.read_from(from)?;
        let whole = memchr::memrchr(b'\n', &bytes).map(|end| from + end as u64 + 1);
        match whole {
            None if from > 0 => window *= 8,
            whole => {
                let whole = whole.unwrap_or(0);
                if whole < file.len() {
                    file.truncate(whole)?;
                }
                return Ok(file);
            }
        }
    }
}

/// The seq of the last whole line; 0 for an empty log. Reads the end of the file only.
fn last_seq(file: &mut AppendFile) -> Result<u64, FileError> {
    let mut window = 64 * 1024;
    loop {
        let bytes = file.read_from(file.len().saturating_sub(window))?;
        let whole_file = bytes.len() as u64 == file.len();
        for line in bytes.rsplit(|b| *b == b'\n') {
            if let Ok(SeqOnly { seq }) = serde_json::from_slice(line) {
                return Ok(seq);
            }
        }
        if whole_file {
            return Ok(0);
        }
        window *= 8;
    }
}

/// Most that is read of a compressed log at a time, in bytes: each time it is unpacked from its beginning.
const UNPACKED_LIMIT: usize = 8 * 1024 * 1024;

/// Lines after a place in the log, and the next place. Only whole lines, `limit` bytes or one line. Places in a compressed
/// log are those of the plain one, and more may come at a time the further it goes.
pub fn read_after(path: &Path, offset: u64, after: u64, limit: usize) -> Result<(Vec<Envelope>, u64), FileError> {
    let mut window = limit as u64;
    let (bytes, whole) = loop {
        let Some((bytes, asked)) = read_window(path, offset, window)? else { return Ok((Vec::new(), offset)) };
        let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
        if whole > 0 || (bytes.len() as u64) < asked {
            break (bytes, whole);
        }
        window = asked * 4;
    };
    let lines = bytes[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let envelopes = lines.filter_map(|line| serde_json::from_slice::<Envelope>(line).ok()).filter(|e| e.seq > after);
    Ok((envelopes.collect(), offset + whole as u64))
}

/// Bytes from a place in the log, plain or compressed, and how many were asked for; `None`: there is no log.
fn read_window(path: &Path, offset: u64, window: u64) -> Result<Option<(Vec<u8>, u64)>, FileError> {
    plain_or_compressed(|| read_plain(path, offset, window), || read_compressed(path, offset, window))
}

/// What either gives. Looks twice: between the two looks a compressed log may be made plain again, and is then missed by both.
fn plain_or_compressed<T>(
    mut plain: impl FnMut() -> Result<Option<T>, FileError>,
    mut compressed: impl FnMut() -> Result<Option<T>, FileError>,
) -> Result<Option<T>, FileError> {
    for _ in 0..2 {
        if let Some(found) = plain()? {
            return Ok(Some(found));
        }
        if let Some(found) = compressed()? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read_plain(path: &Path, offset: u64, window: u64) -> Result<Option<(Vec<u8>, u64)>, FileError> {
    let mut bytes = Vec::new();
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(FileError::of("read", path))?,
    };
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(window).read_to_end(&mut bytes));
    read.map_err(FileError::of("read", path))?;
    Ok(Some((bytes, window)))
}

fn read_compressed(path: &Path, offset: u64, window: u64) -> Result<Option<(Vec<u8>, u64)>, FileError> {
    let mut bytes = Vec::new();
    let compressed = gzip_file::compressed_path(path);
    let Some(mut reader) = gzip_file::open(&compressed)? else { return Ok(None) };
    let window = window.max(offset.min(UNPACKED_LIMIT as u64));
    let skipped = std::io::copy(&mut (&mut reader).take(offset), &mut std::io::sink());
    let read = skipped.and_then(|_| reader.take(window).read_to_end(&mut bytes));
    // What comes before damage in the compressed file is shown.
    if let Err(error) = read {
        tracing::warn!(file = %compressed.display(), %error, "a compressed log is damaged");
    }
    Ok(Some((bytes, window)))
}

/// The last whole lines within so many bytes of the log's end, oldest first, and whether there is more before them. A compressed log
/// is read from its beginning, and only as far as its first `UNPACKED_LIMIT` bytes.
pub fn end(path: &Path, limit: usize) -> Result<(Vec<Envelope>, bool), FileError> {
    let plain = || match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", path)(error)),
    };
    if let Some(len) = plain()? {
        let from = len.saturating_sub(limit as u64);
        let (lines, _) = read_after(path, from, 0, limit)?;
        return Ok((lines, from > 0));
    }
    let (mut lines, _) = read_after(path, 0, 0, UNPACKED_LIMIT)?;
    let mut room = limit;
    let kept = lines.iter().rev().take_while(|line| {
        let size = line.payload.get().len() + 100;
        let fits = room >= size;
        room = room.saturating_sub(size);
        fits
    });
    let cut = lines.len() - kept.count();
    lines.drain(..cut);
    Ok((lines, cut > 0))
}

/// The newest progress in the log, from its end. Compressed logs are finished jobs', which have none.
pub fn newest_progress(path: &Path) -> Option<JobProgress> {
    let len = std::fs::metadata(path).ok()?.len();
    let (lines, _) = read_after(path, len.saturating_sub(64 * 1024), 0, 128 * 1024).ok()?;
    let newest = lines.into_iter().rev().find(|line| line.kind == JobProgress::TYPE)?;
    serde_json::from_str(newest.payload.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(seq: u64) -> Envelope {
        Envelope::new(seq, chrono::DateTime::default(), "log.stream", &json!({"payload": "x"})).expect("JSON")
    }

    #[test]
    fn lines_are_taken_once_in_order_and_a_gap_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("logs/a.jsonl");
        assert_eq!(append(&path, &[line(1), line(2)]).expect("append").0, 2);
        assert_eq!(append(&path, &[line(1), line(2), line(3)]).expect("append").0, 3);
        assert!(matches!(append(&path, &[line(5)]), Err(LogError::Gap { expected: 4, got: 5 })));
        let (lines, next) = read_after(&path, 0, 1, 1 << 20).expect("read");
        assert_eq!(lines.iter().map(|l| l.seq).collect::<Vec<_>>(), [2, 3]);
        assert!(read_after(&path, next, 0, 1 << 20).expect("read").0.is_empty());
    }

    #[test]
    fn a_marker_stands_for_dropped_lines() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        let marker = Envelope::new(9, chrono::DateTime::default(), LogDropped::TYPE, &LogDropped { from: 2, to: 9 });
        assert_eq!(append(&path, &[line(1), marker.expect("JSON"), line(10)]).expect("append").0, 10);
    }

    #[test]
    fn a_compressed_log_reads_the_same_and_grows_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        let lines: Vec<Envelope> = (1..=3000).map(line).collect();
        append(&path, &lines).expect("append");
        let read_all = || {
            let (mut seqs, mut offset) = (Vec::new(), 0);
            loop {
                let (lines, next) = read_after(&path, offset, 0, 1000).expect("read");
                if next == offset {
                    return (seqs, offset);
                }
                seqs.extend(lines.iter().map(|line| line.seq));
                offset = next;
            }
        };
        let before = read_all();
        assert_eq!(before.0, (1..=3000).collect::<Vec<_>>());
        assert!(while_nobody_appends(&path, || gzip_file::compress(&path)).expect("compress"));
        assert!(!path.exists());
        assert_eq!(read_all(), before);
        assert_eq!(append(&path, &[line(3000), line(3001)]).expect("append").0, 3001);
        assert!(path.exists() && !gzip_file::compressed_path(&path).exists());
        assert_eq!(read_all().0.len(), 3001);
    }

    #[test]
    fn a_log_that_is_made_plain_while_it_is_opened_is_read_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        append(&path, &[line(1), line(2)]).expect("append");
        let whole = std::fs::read(&path).expect("read");
        gzip_file::compress(&path).expect("compress");
        let plain = || read_plain(&path, 0, 1 << 20);
        let restored_before = || {
            gzip_file::restore(&path)?;
            read_compressed(&path, 0, 1 << 20)
        };
        assert!(plain().expect("read").is_none(), "the first look misses it");
        let read = plain_or_compressed(plain, restored_before).expect("read").expect("a log");
        assert_eq!(read.0, whole);
        assert!(read_window(&dir.path().join("b.jsonl"), 0, 10).expect("read").is_none(), "no log is none");
    }

    #[test]
    fn the_end_of_a_log_is_whole_lines_plain_or_compressed_and_says_whether_it_is_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        assert!(matches!(end(&path, 1000), Ok((lines, false)) if lines.is_empty()), "no log is none");
        append(&path, &(1..=300).map(line).collect::<Vec<_>>()).expect("append");
        for is_compressed in [false, true] {
            let seqs = |limit| {
                let (lines, is_cut) = end(&path, limit).expect("read");
                (lines.iter().map(|line| line.seq).collect::<Vec<_>>(), is_cut)
            };
            let (some, is_cut) = seqs(2000);
            assert!(is_cut && some.len() > 5 && some.len() < 100, "{is_compressed}: {}", some.len());
            assert!(some.iter().rev().copied().eq((0..).map(|back| 300 - back).take(some.len())), "{some:?}");
            assert_eq!(seqs(1 << 20), ((1..=300).collect(), false), "{is_compressed}");
            if !is_compressed {
                gzip_file::compress(&path).expect("compressed");
            }
        }
    }

    #[test]
    fn nothing_is_done_to_a_log_while_somebody_appends() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        append(&path, &[line(1)]).expect("append");
        let lock = atomic_file::open_lock(&lock_path(&path)).expect("the lock");
        lock.lock_shared().expect("held");
        assert!(!while_nobody_appends(&path, || unreachable!("it is held")).expect("fine"));
        drop(lock);
        assert!(while_nobody_appends(&path, || Ok(())).expect("fine"));
    }

    #[test]
    fn a_torn_line_is_written_again_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        append(&path, &[line(1)]).expect("append");
        let mut bytes = std::fs::read(&path).expect("read");
        bytes.extend_from_slice(b"{\"seq\":2,\"ts");
        std::fs::write(&path, bytes).expect("tear");
        assert_eq!(append(&path, &[line(2)]).expect("append").0, 2);
        assert_eq!(read_after(&path, 0, 0, 10).expect("read").0.len(), 1, "a small limit still gives a whole line");
    }
}
