//! Edge. Files that are replaced whole: temporary file, fsync, rename, fsync of the directory; and directories
//! that only their owner may enter. Does not append: `append_file` does.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use crate::file_error::FileError;

/// Replaces `path` with `bytes`, readable by its owner only. After `Ok` the new content survives power loss; after
/// an error or a crash the old content is whole.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(path, bytes, File::sync_all)?;
    sync_parent(path)
}

/// As `replace`, for a cache: readers see the old content or the new one, but power loss may leave neither. Whoever reads
/// it must be able to tell, and to do without.
pub fn replace_cache(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(path, bytes, |_| Ok(()))
}

/// As `replace_cache`, for what everybody on the machine may read.
pub fn replace_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(path, bytes, |file| {
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        let _ = file;
        Ok(())
    })
}

fn replace_with(path: &Path, bytes: &[u8], settle: impl FnOnce(&File) -> io::Result<()>) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two processes replacing one file must not share a temporary one.
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file = not_through_links(private_options()).create(true).write(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        settle(&file)?;
        rename(&temporary, path)
    })();
    written.map_err(|error| {
        #[allow(clippy::disallowed_methods, reason = "this is the place")]
        let _ = fs::remove_file(&temporary);
        FileError::of("replace", path)(error)
    })
}

/// Makes `path` and missing parents, durably; those made are for their owner only.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    let made: Vec<&Path> = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(FileError::of("make the directory", path))?;
    made.into_iter().rev().try_for_each(sync_parent)?;
    // A crash may have come between making it and this.
    sync_parent(path)
}

/// Moves a directory or file and makes the move durable.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), FileError> {
    rename(from, to).map_err(FileError::of("rename", from))?;
    sync_parent(to)
}

/// Removes a file; that it is not there is fine.
pub fn remove(path: &Path) -> Result<(), FileError> {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it; that it is not there is fine.
pub fn remove_dir(path: &Path) -> Result<(), FileError> {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a small file in place, making it when it is missing: its time is part of what it says. Not durable, and readers
/// may meet it half written: for hints only.
pub fn note(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_note(path, bytes).map(drop).map_err(FileError::of("note", path))
}

fn write_note(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = private_options().create(true).write(true).truncate(false).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    Ok(file)
}

/// As `note`, of this time.
pub fn note_at(path: &Path, bytes: &[u8], at: SystemTime) -> Result<(), FileError> {
    write_note(path, bytes).and_then(|file| file.set_modified(at)).map_err(FileError::of("note", path))
}

/// Opens a file to write to its places, makes it if it is missing.
pub fn open_in_place(path: &Path) -> Result<File, FileError> {
    private_options().create(true).write(true).truncate(false).open(path).map_err(FileError::of("open", path))
}

/// Writes at a place. Several threads may write to different places of one file at once.
pub fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    return seek_write_all(file, bytes, offset);
}

/// One `seek_write` may write less than it was given.
#[cfg(windows)]
fn seek_write_all(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Opens a file for an advisory lock, makes it if it is missing.
pub fn open_lock(path: &Path) -> Result<File, FileError> {
    private_options().create(true).append(true).open(path).map_err(FileError::of("open", path))
}

/// Takes the lock of such a file for as long as the file is open. `None`: another process has it.
pub fn try_lock(path: &Path) -> Result<Option<File>, FileError> {
    let lock = open_lock(path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(FileError::of("lock", path)(error)),
    }
}

/// Makes a new or renamed entry of the parent directory durable.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Windows cannot sync a directory handle; NTFS journals its names itself.
    #[cfg(unix)]
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(FileError::of("make durable", parent))?;
    #[cfg(not(unix))]
    let _ = parent;
    Ok(())
}

/// Options that give a new file to its owner alone.
pub(crate) fn private_options() -> OpenOptions {
    #[cfg(unix)]
    {
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
    }
    // The access list of the agent's directory, which its files inherit.
    #[cfg(not(unix))]
    OpenOptions::new()
}

/// The name can be guessed: in a directory of another user's, who may have put a link there, root must not follow it.
#[cfg_attr(not(unix), allow(unused_mut, reason = "nothing is set there"))]
fn not_through_links(mut options: OpenOptions) -> OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_leaves_the_new_content_for_its_owner_only_and_no_temporary_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.json");
        replace(&path, b"one").expect("replace");
        replace(&path, b"two").expect("replace again");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_temporary_file_is_not_written_through_a_link() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, victim) = (dir.path().join("a"), dir.path().join("victim"));
        fs::write(&victim, "mine").expect("written");
        let temporary = dir.path().join(format!("a.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&victim, &temporary).expect("linked");
        assert!(replace(&path, b"x").is_err());
        assert_eq!(fs::read(&victim).expect("read"), b"mine");
        replace(&path, b"x").expect("the link is gone, as the temporary file of a failure is");
    }

    #[test]
    fn a_replacement_that_fails_keeps_the_old_content() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        fs::create_dir(&path).expect("a directory in the way");
        assert!(replace(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
