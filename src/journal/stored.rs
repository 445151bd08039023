//! Edge. The segments of a journal as they lie on disk, plain or compressed, read by place. A segment that vanished while
//! somebody reads is none. Does not know lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::segment::SegmentName;
use crate::file_error::FileError;
use crate::gzip_file;

/// The segments of a directory, oldest first, compressed ones included.
pub fn segments(dir: &Path) -> Result<Vec<SegmentName>, FileError> {
    list(dir, SegmentName::parse_stored)
}

/// What `parse` takes of a directory's names, sorted, each once. A missing directory has none.
pub(super) fn list(dir: &Path, parse: impl Fn(&str) -> Option<SegmentName>) -> Result<Vec<SegmentName>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::of("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::of("list", dir))?;
        names.extend(entry.file_name().to_str().and_then(&parse));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The first line of a segment without its newline, and of a compressed one no more than that is unpacked. `None`: there is no
/// whole line, or the segment is gone.
pub fn first_line(dir: &Path, name: SegmentName) -> Result<Option<Vec<u8>>, FileError> {
    let path = dir.join(name.to_string());
    let mut first = Vec::new();
    match File::open(&path) {
        Ok(file) => {
            BufReader::new(file).read_until(b'\n', &mut first).map_err(FileError::of("read", &path))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(reader) = gzip_file::open(&dir.join(name.compressed()))? else { return Ok(None) };
            // Damage in a compressed file is told by whoever reads the whole.
            let _ = BufReader::new(reader).read_until(b'\n', &mut first);
        }
        Err(error) => return Err(FileError::of("read", &path)(error)),
    }
    Ok((first.pop() == Some(b'\n')).then_some(first))
}

/// A segment that is open for reading.
#[derive(Debug)]
pub struct Stored {
    pub path: PathBuf,
    bytes: Bytes,
    len: u64,
}

#[derive(Debug)]
enum Bytes {
    Plain(File),
    /// A segment has a few MiB.
    Unpacked(Vec<u8>),
}

impl Stored {
    /// Opens the segment; where it is there both ways, the plain one. `None`: it is gone.
    pub fn open(dir: &Path, name: SegmentName) -> Result<Option<Self>, FileError> {
        let path = dir.join(name.to_string());
        match File::open(&path) {
            Ok(file) => {
                let len = file.metadata().map_err(FileError::of("look at", &path))?.len();
                return Ok(Some(Self { path, bytes: Bytes::Plain(file), len }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::of("read", &path)(error)),
        }
        let path = dir.join(name.compressed());
        let Some(mut reader) = gzip_file::open(&path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        if let Err(error) = reader.read_to_end(&mut bytes) {
            // What came before the damage counts.
            super::tell::once(&path, bytes.len() as u64, || {
                tracing::error!(file = %path.display(), %error, "a compressed segment is damaged; what is before the damage is used");
            });
        }
        let len = bytes.len() as u64;
        Ok(Some(Self { path, bytes: Bytes::Unpacked(bytes), len }))
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads `from..to`, or less at the end, into `into`, whose content it replaces.
    pub fn read(&mut self, from: u64, to: u64, into: &mut Vec<u8>) -> Result<(), FileError> {
        into.clear();
        match &mut self.bytes {
            Bytes::Plain(file) => {
                let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(to - from).read_to_end(into));
                read.map_err(FileError::of("read", &self.path))?;
            }
            Bytes::Unpacked(bytes) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                into.extend_from_slice(&bytes[place(from)..place(to)]);
            }
        }
        Ok(())
    }
}
