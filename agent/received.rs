//! Edge. What the server told the agent to be: `settings.json` (how to reach the repository: secrets, so 0600) and
//! `schedules.json`, each replaced whole and durable before it is acknowledged. Does not apply anything to a running job,
//! and does not acknowledge.
//!
//! Versions only grow. A server that was restored from a backup issues a version above the agent's, so a lower one is
//! old news and never applied; nor is an equal one with other content, for a server that is told our hash does the same. What is damaged counts as absent, version 0, so that the server sends it again.

use std::path::{Path, PathBuf};

use restic_manager::file_error::FileError;
use restic_manager::id::RepositoryName;
use restic_manager::protocol::command::{ConfigUpdate, ScheduleSet};
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::repository_target::RepositoryTarget;

use crate::json_file;

/// What was received last.
#[derive(Debug)]
pub(crate) struct Received {
    dir: PathBuf,
    settings: ConfigUpdate,
    schedules: Option<ScheduleSet>,
}

impl Received {
    /// Reads what `dir` has. The texts tell of files that could not be understood; those are set aside.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Vec<String>), FileError> {
        let mut damage = Vec::new();
        let settings = json_file::read(&dir.join(SETTINGS))?.or_tell(&mut damage).unwrap_or_default();
        let schedules = json_file::read(&dir.join(SCHEDULES))?.or_tell(&mut damage);
        Ok((Self { dir: dir.to_owned(), settings, schedules }, damage))
    }

    /// Takes new settings: absent fields leave what is here. False: not newer, not applied. After an error the old ones
    /// are still in force.
    pub(crate) fn apply_config(&mut self, update: ConfigUpdate) -> Result<bool, FileError> {
        if update.version <= self.settings.version {
            return Ok(false);
        }
        let settings = update.applied_to(&self.settings);
        json_file::write(&self.dir.join(SETTINGS), &settings)?;
        self.settings = settings;
        Ok(true)
    }

    /// Takes a new schedule set, whole. False: not newer, not applied. After an error the old one is still in force.
    pub(crate) fn apply_schedules(&mut self, set: ScheduleSet) -> Result<bool, FileError> {
        if set.version <= self.schedules.as_ref().map_or(0, |present| present.version) {
            return Ok(false);
        }
        json_file::write(&self.dir.join(SCHEDULES), &set)?;
        self.schedules = Some(set);
        Ok(true)
    }

    /// The settings; before the first ones version 0 with nothing in them.
    pub(crate) fn config(&self) -> &ConfigUpdate {
        &self.settings
    }

    /// How a repository is reached: the host's own, or one that it maintains. The error is for the person who asked.
    pub(crate) fn access(&self, target: Option<&RepositoryTarget>) -> Result<RepositoryAccess, String> {
        let Some(target) = target else {
            let own = RepositoryAccess::own(&self.settings);
            let has_one = !own.url.is_empty();
            return has_one
                .then_some(own)
                .ok_or_else(|| "this host has no repository: set `repository` in its configuration".to_owned());
        };
        self.settings.maintained.as_ref().and_then(|maintained| maintained.get(target)).cloned().ok_or_else(|| {
            format!(
                "this host has no access to repository {target}: [maintenance] in repositories/{}.toml does not name it, or a secret of it cannot be read (see GET /v1/config)",
                target.repository
            )
        })
    }

    /// How the second repository of a copy is reached. The error is for the person who asked.
    pub(crate) fn copy_access(&self, to: &RepositoryName) -> Result<RepositoryAccess, String> {
        let targets = self.settings.copy_targets.iter().flatten();
        let access = targets.into_iter().find(|(target, _)| target.repository == *to).map(|(_, access)| access.clone());
        access.ok_or_else(|| {
            format!("this host has no access to repository {to}: no copy schedule of it names that, or a secret of it cannot be read (see GET /v1/config)")
        })
    }

    /// None: the server has not sent any yet, which is version 0 and not an empty set.
    pub(crate) fn schedules(&self) -> Option<&ScheduleSet> {
        self.schedules.as_ref()
    }
}

const SETTINGS: &str = "settings.json";
const SCHEDULES: &str = "schedules.json";

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
        assert_eq!(received.config().version, 0);
        let password = Some(Secret::new("hunter2".into()));
        let first = ConfigUpdate { repo_url: Some("/srv/a".into()), repo_password: password, ..config(1, "a") };
        assert!(received.apply_config(first).expect("written"));
        let second = ConfigUpdate { repo_url: Some(String::new()), ..config(2, "b") };
        assert!(received.apply_config(second).expect("written"));
        let again = open(dir.path());
        let settings = again.config();
        assert_eq!((settings.version, settings.hash.as_str()), (2, "b"));
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
        for (version, hash, expected) in
            [(5, "a", true), (5, "a", false), (5, "b", false), (4, "c", false), (6, "a", true)]
        {
            assert_eq!(received.apply_schedules(set(version, hash)).expect("written"), expected, "{version} {hash}");
            assert_eq!(received.apply_config(config(version, hash)).expect("written"), expected, "{version} {hash}");
        }
        assert_eq!(open(dir.path()).schedules(), Some(&set(6, "a")));
        assert_eq!(open(dir.path()).config(), &config(6, "a"));
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
        assert_eq!((received.schedules(), received.config().version), (None, 7));
        assert!(received.apply_schedules(set(5, "a")).expect("written"));
        assert_eq!(open(dir.path()).schedules(), Some(&set(5, "a")));
    }

    #[test]
    fn a_set_without_a_list_is_damage_and_never_an_empty_set() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join(SCHEDULES), r#"{"version":9,"hash":"x"}"#).expect("written");
        let (received, damage) = Received::open(dir.path()).expect("opens");
        assert!(received.schedules().is_none() && damage.len() == 1);
    }

    #[test]
    fn what_the_host_maintains_is_reached_by_its_own_access_and_what_it_does_not_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut received = open(dir.path());
        let target = |text: &str| text.parse::<RepositoryTarget>().expect("a target");
        assert!(received.access(None).expect_err("nothing yet").contains("no repository"));
        let admin =
            RepositoryAccess { url: "/srv/all".into(), username: "admin".into(), ..RepositoryAccess::default() };
        let maintained = Some([(target("main"), admin.clone())].into());
        let update = ConfigUpdate { repo_url: Some("/srv/own".into()), maintained, ..config(1, "a") };
        received.apply_config(update).expect("written");
        assert_eq!(received.access(None).map(|own| own.url), Ok("/srv/own".to_owned()));
        assert_eq!(received.access(Some(&target("main"))), Ok(admin));
        assert!(received.access(Some(&target("main/web-1"))).expect_err("not so").contains("repositories/main.toml"));
        let none = ConfigUpdate { maintained: Some(std::collections::BTreeMap::new()), ..config(2, "b") };
        received.apply_config(none).expect("written");
        assert!(received.access(Some(&target("main"))).is_err(), "no longer elected");
    }
}
