//! Edge. What tells that a file is the one that was read before, without reading it again, as git's index does it. Does not read
//! contents, and answers "changed" wherever it cannot be sure.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::clock;

/// A file's identity, size and times. Two equal ones: the content is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    bytes: u64,
    modified: SystemTime,
    identity: Identity,
}

/// Device, inode and the time of the inode's change, which no program can set.
#[cfg(unix)]
type Identity = (u64, u64, i64, i64);
/// The time of creation: the other file, where one was moved over it.
#[cfg(not(unix))]
type Identity = Option<SystemTime>;

/// Times of files are in steps, on some file systems of two seconds: one that changed just now may change again unseen.
const STEP: Duration = Duration::from_secs(2);

/// The stamp of an open file, by its metadata from before it is read; `None` where a change during or just after the reading
/// might not show in it.
pub fn before_reading(metadata: &Metadata) -> io::Result<Option<FileStamp>> {
    let settled = SystemTime::from(clock::now()).checked_sub(STEP);
    let stamp = stamp_of(metadata)?;
    let newest = stamp.modified.max(changed(metadata));
    Ok(settled.is_some_and(|settled| newest < settled).then_some(stamp))
}

/// Whether the file at the path, or the one that a link there leads to, is still the one with this stamp.
pub fn is_still(path: &Path, stamp: &FileStamp) -> bool {
    std::fs::metadata(path).and_then(|metadata| stamp_of(&metadata)).is_ok_and(|now| now == *stamp)
}

/// The stamp of a file that is not read, by its path: whether another one was put in its place. Links are not followed.
pub fn of(path: &Path) -> io::Result<FileStamp> {
    std::fs::symlink_metadata(path).and_then(|metadata| stamp_of(&metadata))
}

/// Tells a directory from another one in its place, whatever is in it.
pub fn identity_of(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    #[cfg(unix)]
    return Some((std::os::unix::fs::MetadataExt::dev(&metadata), std::os::unix::fs::MetadataExt::ino(&metadata)));
    #[cfg(not(unix))]
    return {
        let made = metadata.created().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some((made.as_secs(), u64::from(made.subsec_nanos())))
    };
}

impl FileStamp {
    /// When the content was changed last.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }
}

fn stamp_of(metadata: &Metadata) -> io::Result<FileStamp> {
    Ok(FileStamp { bytes: metadata.len(), modified: metadata.modified()?, identity: identity(metadata) })
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> Identity {
    metadata.created().ok()
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> SystemTime {
    use std::os::unix::fs::MetadataExt;
    let seconds = u64::try_from(metadata.ctime()).map_or(Duration::ZERO, Duration::from_secs);
    SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(metadata.ctime_nsec()).unwrap_or(0))
}

#[cfg(not(unix))]
fn changed(metadata: &Metadata) -> SystemTime {
    metadata.created().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A file that was left alone for long enough.
    fn settled(path: &Path, content: &str) {
        std::fs::write(path, content).expect("written");
        std::thread::sleep(STEP + Duration::from_millis(50));
    }

    fn stamp(path: &Path) -> Option<FileStamp> {
        let metadata = File::open(path).and_then(|file| file.metadata()).expect("metadata");
        before_reading(&metadata).expect("a stamp or none")
    }

    #[test]
    fn a_file_that_changed_just_now_has_no_stamp_and_a_settled_one_keeps_it_until_it_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, "one").expect("written");
        assert_eq!(stamp(&path), None);
        std::fs::write(&other, "two").expect("written");
        // Windows has only times to tell files apart by, and those of some file systems are coarse.
        #[cfg(windows)]
        std::thread::sleep(Duration::from_millis(50));
        settled(&path, "one");
        let kept = stamp(&path).expect("a settled file's stamp");
        assert!(is_still(&path, &kept));
        // Of the same size, with the same time of modification: the inode's own change tells it.
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
        std::fs::write(&path, "ten").expect("written");
        File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("set back");
        #[cfg(unix)]
        assert!(!is_still(&path, &kept));
        // Another file moved over it, and none at all.
        std::fs::rename(&other, &path).expect("renamed");
        assert!(!is_still(&path, &kept));
        std::fs::remove_file(&path).expect("removed");
        assert!(!is_still(&path, &kept));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_what_it_leads_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two, link) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("link"));
        std::fs::write(&two, "x").expect("written");
        settled(&one, "x");
        std::os::unix::fs::symlink(&one, &link).expect("linked");
        let kept = stamp(&link).expect("a settled file's stamp");
        assert!(is_still(&link, &kept) && is_still(&one, &kept) && !is_still(&two, &kept));
        std::fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink(&two, &link).expect("linked");
        assert!(!is_still(&link, &kept));
    }
}
