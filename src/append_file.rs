//! Edge. Files that only grow: the journal's segments, job logs, and the agent's ledger and spool.
//! Does not know what a line means. An append that fails is taken back, so a full disk leaves no half line.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::atomic_file::{private_options, sync_parent};
use crate::file_error::FileError;

/// An open file that is appended to. Several processes may append to one file only under a lock of theirs.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    path: PathBuf,
    len: u64,
    /// There may be bytes after `len` that nobody was promised; cut off before the next append.
    has_leftover: bool,
}

impl AppendFile {
    /// Opens the file, or makes it (its name is durable when this returns).
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let mut options = private_options();
        options.read(true).append(true);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = options.create(true).open(path).map_err(FileError::of("open", path))?;
                sync_parent(path)?;
                file
            }
            opened => opened.map_err(FileError::of("open", path))?,
        };
        let len = file.metadata().map_err(FileError::of("look at", path))?.len();
        Ok(Self { file, path: path.to_owned(), len, has_leftover: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes, as far as this process knows.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Looks at the length again: another process may have appended.
    pub fn refresh_len(&mut self) -> Result<u64, FileError> {
        self.len = self.file.metadata().map_err(FileError::of("look at", &self.path))?.len();
        Ok(self.len)
    }

    /// Appends in one write. Not durable before `sync`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if self.has_leftover {
            self.file.set_len(self.len).map_err(FileError::of("cut", &self.path))?;
            self.has_leftover = false;
        }
        if let Err(error) = self.file.write_all(bytes) {
            // Half a line would be set aside as damage by the next reader; nobody was told of it, so take it back.
            self.has_leftover = self.file.set_len(self.len).is_err();
            return Err(FileError::of("append to", &self.path)(error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// fdatasync. After an error the kernel may have dropped the pages: never retry into success.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::of("make durable", &self.path))
    }

    pub fn append_durably(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.append(bytes)?;
        self.sync()
    }

    /// As `append_durably`; what could not be made durable is taken back, so that the file holds what its owner
    /// knows of and nothing else. The next append writes those pages anew: nothing is retried into success.
    pub fn append_durably_or_take_back(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let before = self.len;
        self.append(bytes)?;
        self.sync().inspect_err(|_| {
            self.has_leftover = self.file.set_len(before).is_err();
            self.len = before;
        })
    }

    /// At most `limit` bytes from `offset` on.
    pub fn read_some(&mut self, offset: u64, limit: u64) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        let start = self.file.seek(SeekFrom::Start(offset));
        let read = start.and_then(|_| (&mut self.file).take(limit).read_to_end(&mut bytes));
        read.map_err(FileError::of("read", &self.path))?;
        Ok(bytes)
    }

    /// The bytes from `offset` to the end.
    pub fn read_from(&mut self, offset: u64) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_to_end(&mut bytes));
        read.map_err(FileError::of("read", &self.path))?;
        Ok(bytes)
    }

    /// Cuts a damaged tail off.
    pub fn truncate(&mut self, len: u64) -> Result<(), FileError> {
        self.file.set_len(len).and_then(|()| self.file.sync_all()).map_err(FileError::of("cut", &self.path))?;
        self.len = len;
        Ok(())
    }
}

/// The whole lines of a file as text lines without their newline; a torn last line is left out. A missing file has none.
pub fn read_lines(path: &Path) -> Result<Vec<String>, FileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::of("read", path)(error)),
    };
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
    Ok(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect())
}

/// Cuts a torn last line (power loss, kill) off, so that the next append begins a line.
pub fn open_after_whole_lines(path: &Path) -> Result<AppendFile, FileError> {
    let mut file = AppendFile::open(path)?;
    let bytes = file.read_from(0)?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
    if whole < bytes.len() {
        file.truncate(whole as u64)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_cut_before_the_next_append() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, b"one\ntwo\nthr").expect("write");
        assert_eq!(read_lines(&path).expect("read"), ["one", "two"]);
        let mut file = open_after_whole_lines(&path).expect("open");
        file.append_durably(b"three\n").expect("append");
        assert_eq!(read_lines(&path).expect("read"), ["one", "two", "three"]);
        assert_eq!(file.len(), 14);
    }

    #[test]
    fn a_missing_file_has_no_lines() {
        assert!(read_lines(Path::new("/nonexistent/x")).expect("fine").is_empty());
    }
}
