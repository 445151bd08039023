//! Edge. What the server told the agent to be: `settings.json` (how to reach the repository: secrets, so 0600) and
//! `schedules.json`, each replaced whole and durable before it is acknowledged; and `schedule-memory.json`, what the
//! scheduler remembers of each schedule. Does not apply anything to a running job, and does not acknowledge.
//!
//! Versions only grow. A server that was restored from a backup issues a version above the agent's, so a lower one is
//! old news and never applied. What is damaged counts as absent, version 0, so that the server sends it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use restic_manager::file_error::FileError;
use restic_manager::id::ScheduleId;
use restic_manager::protocol::command::{ConfigUpdate, ScheduleSet};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::json_file;

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It is durable now and is to be acknowledged.
    New,
    /// It was here already; acknowledging it again is harmless.
    Same,
    /// Not above what is here: not applied.
    Old,
}

/// What was received last.
#[derive(Debug)]
pub(crate) struct Received {
    dir: PathBuf,
    settings: Option<ConfigUpdate>,
    schedules: Option<ScheduleSet>,
}

impl Received {
    /// Reads what `dir` has. The texts tell of files that could not be understood; those are set aside.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Vec<String>), FileError> {
        let mut damage = Vec::new();
        let settings = json_file::read(&dir.join(SETTINGS))?.or_tell(&mut damage);
        let schedules = json_file::read(&dir.join(SCHEDULES))?.or_tell(&mut damage);
        Ok((Self { dir: dir.to_owned(), settings, schedules }, damage))
    }

    /// Takes new settings: absent fields leave what is here. After an error the old ones are still in force.
    pub(crate) fn apply_config(&mut self, update: ConfigUpdate) -> Result<Applied, FileError> {
        let (version, hash) = self.config_version();
        let applied = compare((update.version, &update.hash), (version, hash));
        if applied == Applied::New {
            let settings = update.applied_to(&self.settings.clone().unwrap_or_default());
            json_file::write(&self.dir.join(SETTINGS), &settings)?;
            self.settings = Some(settings);
        }
        Ok(applied)
    }

    /// Takes a new schedule set, whole. After an error the old one is still in force.
    pub(crate) fn apply_schedules(&mut self, set: ScheduleSet) -> Result<Applied, FileError> {
        let applied = compare((set.version, &set.hash), self.schedule_version());
        if applied == Applied::New {
            json_file::write(&self.dir.join(SCHEDULES), &set)?;
            self.schedules = Some(set);
        }
        Ok(applied)
    }

    /// None: the server has not sent any yet.
    pub(crate) fn settings(&self) -> Option<&ConfigUpdate> {
        self.settings.as_ref()
    }

    /// None: the server has not sent any yet.
    pub(crate) fn schedules(&self) -> Option<&ScheduleSet> {
        self.schedules.as_ref()
    }

    /// Version and hash for the next poll; 0 and empty when there are none.
    pub(crate) fn config_version(&self) -> (u64, &str) {
        self.settings.as_ref().map_or((0, ""), |settings| (settings.version, &settings.hash))
    }

    /// Version and hash for the next poll; 0 and empty when there are none.
    pub(crate) fn schedule_version(&self) -> (u64, &str) {
        self.schedules.as_ref().map_or((0, ""), |set| (set.version, &set.hash))
    }
}

const SETTINGS: &str = "settings.json";
const SCHEDULES: &str = "schedules.json";
const MEMORY: &str = "schedule-memory.json";

fn compare(offered: (u64, &str), present: (u64, &str)) -> Applied {
    match offered.0.cmp(&present.0) {
        std::cmp::Ordering::Greater => Applied::New,
        std::cmp::Ordering::Equal if offered.1 == present.1 => Applied::Same,
        // An equal version with other content is a server that has lost its memory; told our hash, it issues a higher one.
        _ => Applied::Old,
    }
}

/// What the scheduler remembers of each schedule. Damage is told, and counts as nothing remembered.
pub(crate) fn load_memory<T: DeserializeOwned>(
    dir: &Path,
) -> Result<(BTreeMap<ScheduleId, T>, Vec<String>), FileError> {
    let mut damage = Vec::new();
    let memory = json_file::read(&dir.join(MEMORY))?.or_tell(&mut damage);
    Ok((memory.unwrap_or_default(), damage))
}

/// Replaces what the scheduler remembers; durable when this returns.
pub(crate) fn save_memory<T: Serialize>(dir: &Path, memory: &BTreeMap<ScheduleId, T>) -> Result<(), FileError> {
    json_file::write(&dir.join(MEMORY), memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use restic_manager::protocol::command::Secret;

    fn config(version: u64, hash: &str) -> ConfigUpdate {
        ConfigUpdate { version, hash: hash.into(), ..ConfigUpdate::default() }
    }

    fn set(version: u64, hash: &str) -> ScheduleSet {
        ScheduleSet { version, hash: hash.into(), schedules: Vec::new() }
    }

    fn open(dir: &Path) -> Received {
        let (received, damage) = Received::open(dir).expect("opens");
        assert!(damage.is_empty(), "{damage:?}");
        received
    }

    #[test]
    fn an_update_is_merged_and_survives_a_restart_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut received = open(dir.path());
        assert_eq!(received.config_version(), (0, ""));
        let password = Some(Secret::new("hunter2".into()));
        let first = ConfigUpdate { repo_url: Some("/srv/a".into()), repo_password: password, ..config(1, "a") };
        assert_eq!(received.apply_config(first).expect("written"), Applied::New);
        let second = ConfigUpdate { repo_url: Some(String::new()), ..config(2, "b") };
        assert_eq!(received.apply_config(second).expect("written"), Applied::New);
        let again = open(dir.path());
        let settings = again.settings().expect("some");
        assert_eq!(again.config_version(), (2, "b"));
        assert_eq!(settings.repo_url.as_deref(), Some(""), "an explicit empty one clears it");
        assert_eq!(settings.repo_password.as_ref().map(Secret::reveal), Some("hunter2"), "an absent one leaves it");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = std::fs::metadata(dir.path().join(SETTINGS)).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn only_a_higher_version_is_applied() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut received = open(dir.path());
        for (version, hash, expected) in [
            (5, "a", Applied::New),
            (5, "a", Applied::Same),
            (5, "b", Applied::Old),
            (4, "c", Applied::Old),
            (6, "a", Applied::New),
        ] {
            assert_eq!(received.apply_schedules(set(version, hash)).expect("written"), expected, "{version} {hash}");
            assert_eq!(received.apply_config(config(version, hash)).expect("written"), expected, "{version} {hash}");
        }
        assert_eq!(open(dir.path()).schedule_version(), (6, "a"));
        assert_eq!(open(dir.path()).config_version(), (6, "a"));
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_asked_for_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        open(dir.path()).apply_schedules(set(5, "a")).expect("written");
        open(dir.path()).apply_config(config(7, "b")).expect("written");
        let path = dir.path().join(SCHEDULES);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        let (mut received, damage) = Received::open(dir.path()).expect("opens");
        assert!(damage.len() == 1 && damage[0].contains("schedules.json.damaged"), "{damage:?}");
        assert_eq!((received.schedule_version().0, received.config_version().0), (0, 7));
        assert_eq!(received.apply_schedules(set(5, "a")).expect("written"), Applied::New);
        assert_eq!(open(dir.path()).schedule_version(), (5, "a"));
    }

    #[test]
    fn a_set_without_a_list_is_damage_and_never_an_empty_set() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join(SCHEDULES), r#"{"version":9,"hash":"x"}"#).expect("written");
        let (received, damage) = Received::open(dir.path()).expect("opens");
        assert!(received.schedules().is_none() && damage.len() == 1);
    }

    #[test]
    fn the_memory_of_schedules_survives_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(load_memory::<u64>(dir.path()).expect("fine").0.is_empty());
        let memory = BTreeMap::from([("system".parse().expect("an id"), 7_u64)]);
        save_memory(dir.path(), &memory).expect("saved");
        assert_eq!(load_memory(dir.path()).expect("fine"), (memory, Vec::new()));
        std::fs::write(dir.path().join(MEMORY), "[]").expect("written");
        let (memory, damage) = load_memory::<u64>(dir.path()).expect("fine");
        assert!(memory.is_empty() && damage.len() == 1);
    }
}
