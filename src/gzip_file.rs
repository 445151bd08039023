//! Edge. Files that are compressed once they no longer change: `x.jsonl` becomes `x.jsonl.gz`, which `zcat` reads. Does not decide
//! when.
//!
//! Crash-safe: the compressed file is whole and durable under its name before the original goes. While both are there the
//! original counts.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::atomic_file;
use crate::file_error::FileError;

/// The name of the compressed file.
pub fn compressed_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

/// Compresses a file and removes the original. The compressed one keeps its modification time. The caller sees to it that nobody
/// appends meanwhile.
pub fn compress(path: &Path) -> Result<(), FileError> {
    write_compressed(path)?;
    atomic_file::remove(path)?;
    atomic_file::sync_parent(path)
}

/// The first half: after it both files are there and durable.
pub fn write_compressed(path: &Path) -> Result<(), FileError> {
    let target = compressed_path(path);
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut original = File::open(path)?;
        let modified = original.metadata()?.modified()?;
        let file = atomic_file::private_options().create(true).write(true).truncate(true).open(&temporary)?;
        let mut encoder = GzEncoder::new(file, Compression::default());
        io::copy(&mut original, &mut encoder)?;
        let mut file = encoder.finish()?;
        file.flush()?;
        file.set_modified(modified)?;
        file.sync_all()
    })();
    if let Err(error) = written {
        let _ = atomic_file::remove(&temporary);
        return Err(FileError::of("compress", path)(error));
    }
    atomic_file::rename_durably(&temporary, &target)
}

/// Makes the original again, for a file that grows after all. It appears whole, before the compressed one goes: a reader that
/// finds neither looks again. Without a compressed file nothing is done: somebody else has made the original again.
pub fn restore(path: &Path) -> Result<(), FileError> {
    let compressed = compressed_path(path);
    let Some(mut reader) = open(&compressed)? else { return Ok(()) };
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(FileError::of("read", &compressed))?;
    atomic_file::replace(path, &bytes)?;
    atomic_file::remove(&compressed)
}

/// A reader of what was compressed; `None`: there is no such file.
pub fn open(compressed: &Path) -> Result<Option<impl Read + use<>>, FileError> {
    match File::open(compressed) {
        Ok(file) => Ok(Some(MultiGzDecoder::new(BufReader::new(file)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", compressed)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn read(path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        open(path).expect("open").expect("a file").read_to_end(&mut bytes).expect("gzip");
        bytes
    }

    #[test]
    fn a_compressed_file_holds_the_same_and_keeps_its_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        let text = "{\"seq\":1}\n".repeat(100_000);
        std::fs::write(&path, &text).expect("write");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        File::options().append(true).open(&path).and_then(|file| file.set_modified(old)).expect("an old time");
        compress(&path).expect("compress");
        let target = compressed_path(&path);
        assert!(!path.exists());
        assert_eq!(read(&target), text.as_bytes());
        assert_eq!(target.metadata().and_then(|m| m.modified()).expect("a time"), old);
        assert!(target.metadata().expect("a file").len() < 10_000);
        restore(&path).expect("restore");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        assert!(!target.exists());
        restore(&path).expect("restored before");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
    }

    #[test]
    fn what_cannot_be_compressed_is_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "x").expect("write");
        std::fs::create_dir_all(dir.path().join("a.jsonl.gz/in-the-way")).expect("a directory in the way");
        assert!(compress(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "x");
    }
}
