//! Edge. Small JSON files of the agent that are replaced whole. A file that is no JSON of ours is set aside, so
//! that it stops nothing and can still be looked at. Does not know what the files mean.

use std::io;
use std::path::Path;

use restic_manager::atomic_file;
use restic_manager::file_error::FileError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What there was to read.
#[derive(Debug, PartialEq)]
pub(crate) enum Content<T> {
    Is(T),
    Absent,
    /// Set aside as `<name>.damaged`; the text says so, for a log or a report.
    Damaged(String),
}

impl<T> Content<T> {
    /// The value, if there is one; what is damaged is told to `damage` and counts as absent.
    pub(crate) fn or_tell(self, damage: &mut Vec<String>) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent => None,
            Self::Damaged(text) => {
                damage.push(text);
                None
            }
        }
    }
}

/// Reads a file that `write` wrote.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Content<T>, FileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
        Err(error) => return Err(FileError::of("read", path)(error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Content::Is(value)),
        Err(error) => {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".damaged");
            let aside = path.with_file_name(name);
            atomic_file::rename_durably(path, &aside)?;
            // serde_json's own text may quote the value, and these files hold secrets: only the place is told.
            let (line, column) = (error.line(), error.column());
            Ok(Content::Damaged(format!(
                "{} cannot be read (line {line}, column {column}) and was set aside as {}",
                path.display(),
                aside.display()
            )))
        }
    }
}

/// Replaces the file, readable by its owner only; durable when this returns.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec(value).map_err(|error| FileError::of("write", path)(error.into()))?;
    bytes.push(b'\n');
    atomic_file::replace(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_missing_is_absent() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.json");
        assert_eq!(read::<u64>(&path).expect("fine"), Content::Absent);
        write(&path, &7_u64).expect("written");
        assert_eq!(read(&path).expect("fine"), Content::Is(7_u64));
    }

    #[test]
    fn damage_is_set_aside_and_told_without_its_content() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.json");
        std::fs::write(&path, "\"hunter2\"").expect("written");
        let mut damage = Vec::new();
        assert_eq!(read::<u64>(&path).expect("fine").or_tell(&mut damage), None);
        let text = damage.concat();
        assert!(text.contains("a.json.damaged") && !text.contains("hunter2"), "{text}");
        assert!(!path.exists() && dir.path().join("a.json.damaged").exists());
    }
}
