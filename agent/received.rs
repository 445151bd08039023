//! Edge. What the server has told this host to be: settings and schedule set, each replaced whole and durable before it counts.
//! A lower version is never applied. Does not fetch them.

use std::path::{Path, PathBuf};

use restic_manager::file_error::FileError;
use restic_manager::protocol::command::{ConfigUpdate, ScheduleSet};

use crate::json_file;

/// `settings.json` and `schedules.json`, both readable by their owner only: the first holds the repository's secrets.
#[derive(Debug)]
pub(crate) struct Received {
    dir: PathBuf,
    config: ConfigUpdate,
    schedules: Option<ScheduleSet>,
}

const SETTINGS: &str = "settings.json";
const SCHEDULES: &str = "schedules.json";

impl Received {
    /// Reads both. A damaged file is set aside and told; the server sends its content again.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Vec<String>), FileError> {
        let mut damage = Vec::new();
        let config = json_file::read(&dir.join(SETTINGS))?.or_tell(&mut damage).unwrap_or_default();
        let schedules = json_file::read(&dir.join(SCHEDULES))?.or_tell(&mut damage);
        Ok((Self { dir: dir.to_owned(), config, schedules }, damage))
    }

    /// The settings; version 0 and nothing in them before the first.
    pub(crate) fn config(&self) -> &ConfigUpdate {
        &self.config
    }

    pub(crate) fn schedules(&self) -> Option<&ScheduleSet> {
        self.schedules.as_ref()
    }

    /// Applies an update to the settings there are. `false`: it is not newer.
    pub(crate) fn apply_config(&mut self, update: ConfigUpdate) -> Result<bool, FileError> {
        if update.version <= self.config.version {
            return Ok(false);
        }
        let config = update.applied_to(&self.config);
        json_file::write(&self.dir.join(SETTINGS), &config)?;
        self.config = config;
        Ok(true)
    }

    /// Replaces the schedule set. `false`: it is not newer.
    pub(crate) fn apply_schedules(&mut self, set: ScheduleSet) -> Result<bool, FileError> {
        if self.schedules.as_ref().is_some_and(|present| set.version <= present.version) {
            return Ok(false);
        }
        json_file::write(&self.dir.join(SCHEDULES), &set)?;
        self.schedules = Some(set);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(version: u64, url: Option<&str>) -> ConfigUpdate {
        ConfigUpdate { version, repo_url: url.map(str::to_owned), ..ConfigUpdate::default() }
    }

    fn set(version: u64) -> ScheduleSet {
        ScheduleSet { version, hash: String::new(), schedules: Vec::new() }
    }

    #[test]
    fn what_was_applied_survives_and_a_lower_version_never_applies() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut received, _) = Received::open(dir.path()).expect("open");
        assert!(received.apply_config(update(2, Some("/r"))).expect("apply"));
        assert!(received.apply_schedules(set(5)).expect("apply"));
        assert!(!received.apply_config(update(1, Some("/old"))).expect("refuse"));
        assert!(!received.apply_schedules(set(5)).expect("refuse"));
        let (again, damage) = Received::open(dir.path()).expect("open again");
        assert!(damage.is_empty());
        assert_eq!(again.config().repo_url.as_deref(), Some("/r"));
        assert_eq!(again.schedules().map(|set| set.version), Some(5));
    }

    #[test]
    fn an_absent_field_keeps_and_an_empty_one_clears() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut received, _) = Received::open(dir.path()).expect("open");
        received.apply_config(update(1, Some("/r"))).expect("apply");
        received.apply_config(update(2, None)).expect("apply");
        assert_eq!(received.config().repo_url.as_deref(), Some("/r"));
        received.apply_config(update(3, Some(""))).expect("apply");
        assert_eq!(received.config().repo_url.as_deref(), Some(""));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_asked_for_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join(SCHEDULES), b"{\"version\":").expect("damage");
        let (received, damage) = Received::open(dir.path()).expect("open");
        assert_eq!((received.schedules(), damage.len()), (None, 1));
        assert!(dir.path().join("schedules.json.damaged").exists());
    }
}
