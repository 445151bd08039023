//! Pure. What a job does: its kind and that kind's options, typed, so that an agent can build
//! restic's arguments from known fields only. Unknown options are errors on both sides: an option that is
//! silently ignored (`dry_run`, say) would be worse than a refusal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::reading_options::*;
pub use super::schedule_options::{FsSnapshot, ScheduleOptions};
use super::text::{Span, is_default};
use crate::id::{HostName, RepositoryName, ScheduleId};
use crate::repository_target::RepositoryTarget;
use crate::retention::RetentionPolicy;

/// The kinds of job that this version runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Backup,
    Init,
    Forget,
    Prune,
    Check,
    Unlock,
    Restore,
    Verify,
    Copy,
    Ls,
    Find,
    Diff,
    Stats,
    Snapshots,
}

impl JobKind {
    #[rustfmt::skip]
    pub const ALL: [Self; 14] = [
        Self::Backup, Self::Init, Self::Forget, Self::Prune, Self::Check, Self::Unlock, Self::Restore,
        Self::Verify, Self::Copy, Self::Ls, Self::Find, Self::Diff, Self::Stats, Self::Snapshots,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Init => "init",
            Self::Forget => "forget",
            Self::Prune => "prune",
            Self::Check => "check",
            Self::Unlock => "unlock",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Copy => "copy",
            Self::Ls => "ls",
            Self::Find => "find",
            Self::Diff => "diff",
            Self::Stats => "stats",
            Self::Snapshots => "snapshots",
        }
    }

    /// Reads only, without a lock, and is asked by somebody who waits for the answer.
    pub const fn is_query(self) -> bool {
        matches!(self, Self::Ls | Self::Find | Self::Diff | Self::Stats | Self::Snapshots)
    }

    /// Only backups may run when the server is out of reach (protocol.md "Every fire gets a fire.result").
    pub const fn runs_without_server(self) -> bool {
        matches!(self, Self::Backup)
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind of job. `Display` lists those there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(40).collect();
        write!(f, "{shown:?} is not a kind of job; there are {}", JobKind::ALL.map(JobKind::as_str).join(", "))
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for JobKind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A job's kind with its options: `{"kind": "backup", "options": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "options", rename_all = "snake_case")]
pub enum JobSpec {
    Backup(BackupOptions),
    Init(InitOptions),
    Forget(ForgetOptions),
    Prune(PruneOptions),
    Check(CheckOptions),
    Unlock(UnlockOptions),
    Restore(RestoreOptions),
    Verify(VerifyOptions),
    Copy(CopyOptions),
    Ls(LsOptions),
    Find(FindOptions),
    Diff(DiffOptions),
    Stats(StatsOptions),
    Snapshots(SnapshotsOptions),
}

impl JobSpec {
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Backup(_) => JobKind::Backup,
            Self::Init(_) => JobKind::Init,
            Self::Forget(_) => JobKind::Forget,
            Self::Prune(_) => JobKind::Prune,
            Self::Check(_) => JobKind::Check,
            Self::Unlock(_) => JobKind::Unlock,
            Self::Restore(_) => JobKind::Restore,
            Self::Verify(_) => JobKind::Verify,
            Self::Copy(_) => JobKind::Copy,
            Self::Ls(_) => JobKind::Ls,
            Self::Find(_) => JobKind::Find,
            Self::Diff(_) => JobKind::Diff,
            Self::Stats(_) => JobKind::Stats,
            Self::Snapshots(_) => JobKind::Snapshots,
        }
    }

    /// Which of the repositories that the host maintains it is about; `None`: the host's own.
    pub const fn repository(&self) -> Option<&RepositoryTarget> {
        match self {
            Self::Forget(options) => options.repository.as_ref(),
            Self::Prune(options) => options.repository.as_ref(),
            Self::Check(options) => options.repository.as_ref(),
            Self::Unlock(options) => options.repository.as_ref(),
            _ => None,
        }
    }

    /// The second repository of the configuration that it writes to; `None`: it works with one.
    pub const fn copies_to(&self) -> Option<&RepositoryName> {
        match self {
            Self::Copy(options) => options.to.as_ref(),
            Self::Init(options) => options.to.as_ref(),
            _ => None,
        }
    }

    /// Whether it only tells what would be done.
    pub const fn is_preview(&self) -> bool {
        match self {
            Self::Backup(options) => options.dry_run,
            Self::Forget(options) => options.dry_run,
            Self::Prune(options) => options.dry_run,
            _ => false,
        }
    }

    /// Reads a kind and its options; absent options are the kind's defaults. The error is for a person.
    pub fn parse(kind: &str, options: Option<Value>) -> Result<Self, String> {
        let kind: JobKind = kind.parse().map_err(|error: UnknownKind| error.to_string())?;
        let options = match options {
            None | Some(Value::Null) => Value::Object(serde_json::Map::new()),
            Some(options) => options,
        };
        let parsed = match kind {
            JobKind::Backup => serde_json::from_value(options).map(Self::Backup),
            JobKind::Init => serde_json::from_value(options).map(Self::Init),
            JobKind::Forget => serde_json::from_value(options).map(Self::Forget),
            JobKind::Prune => serde_json::from_value(options).map(Self::Prune),
            JobKind::Check => serde_json::from_value(options).map(Self::Check),
            JobKind::Unlock => serde_json::from_value(options).map(Self::Unlock),
            JobKind::Restore => serde_json::from_value(options).map(Self::Restore),
            JobKind::Verify => serde_json::from_value(options).map(Self::Verify),
            JobKind::Copy => serde_json::from_value(options).map(Self::Copy),
            JobKind::Ls => serde_json::from_value(options).map(Self::Ls),
            JobKind::Find => serde_json::from_value(options).map(Self::Find),
            JobKind::Diff => serde_json::from_value(options).map(Self::Diff),
            JobKind::Stats => serde_json::from_value(options).map(Self::Stats),
            JobKind::Snapshots => serde_json::from_value(options).map(Self::Snapshots),
        };
        parsed.map_err(|error| format!("options of a {kind} job: {error}"))
    }

    /// The options as JSON, for views.
    pub fn options_json(&self) -> Value {
        let json = match self {
            Self::Backup(options) => serde_json::to_value(options),
            Self::Init(options) => serde_json::to_value(options),
            Self::Forget(options) => serde_json::to_value(options),
            Self::Prune(options) => serde_json::to_value(options),
            Self::Check(options) => serde_json::to_value(options),
            Self::Unlock(options) => serde_json::to_value(options),
            Self::Restore(options) => serde_json::to_value(options),
            Self::Verify(options) => serde_json::to_value(options),
            Self::Copy(options) => serde_json::to_value(options),
            Self::Ls(options) => serde_json::to_value(options),
            Self::Find(options) => serde_json::to_value(options),
            Self::Diff(options) => serde_json::to_value(options),
            Self::Stats(options) => serde_json::to_value(options),
            Self::Snapshots(options) => serde_json::to_value(options),
        };
        // Plain structs of text, numbers and lists always have a JSON form.
        json.unwrap_or(Value::Null)
    }
}

/// What restic's exit code 3 (a snapshot was made, some sources could not be read) means for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncompleteMeans {
    /// Succeeded, with `incomplete: true` and warnings.
    #[default]
    Warn,
    /// Failed.
    Fail,
}

/// `restic backup`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupOptions {
    /// Absolute paths on the host.
    pub paths: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub excludes: Vec<String>,
    /// Exclude patterns that ignore case.
    #[serde(skip_serializing_if = "is_default")]
    pub iexcludes: Vec<String>,
    /// Tags beside `schedule:<id>` and `job:<uuid>`, which the agent adds.
    #[serde(skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub one_file_system: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_caches: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_if_present: Vec<String>,
    /// As restic takes it: "100M", "2G".
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_larger_than: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub use_fs_snapshot: FsSnapshot,
    /// Windows: leaves out files that are only in the cloud, which reading would download.
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_cloud_files: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub incomplete: IncompleteMeans,
    #[serde(skip_serializing_if = "is_default")]
    pub dry_run: bool,
    /// How often a backup that found the repository locked, out of reach or stuck is tried again, 0 to 10.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: u8,
    /// Run before restic, and in its place if it fails: the name of a program in the agent's hooks.d, or text for `hook_shell`.
    #[serde(skip_serializing_if = "is_default")]
    pub pre_hook: Option<String>,
    /// Run after the backup, whatever became of it.
    #[serde(skip_serializing_if = "is_default")]
    pub post_hook: Option<String>,
    /// After so long a hook is killed; absent: 30 minutes.
    #[serde(skip_serializing_if = "is_default")]
    pub hook_timeout: Option<Span>,
}

/// `restic init`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InitOptions {
    /// Makes this repository, one that the host copies to, and cuts data as its own does, so that copies share it.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Option<RepositoryName>,
}

/// `restic forget`, always scoped to hosts by name and to one schedule's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForgetOptions {
    /// Whose snapshots; required, so that no other schedule's can be touched.
    pub schedule: Option<ScheduleId>,
    /// Never empty: an empty policy is refused.
    pub retention_policy: RetentionPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub dry_run: bool,
    /// One that the host maintains; absent: its own.
    #[serde(skip_serializing_if = "is_default")]
    pub repository: Option<RepositoryTarget>,
    /// Whose snapshots, each host's by itself; empty: the agent's own host. Others than that only with `repository`.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts: Vec<HostName>,
}

/// `restic prune`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PruneOptions {
    /// As restic takes it: "10%", "5G", "unlimited".
    #[serde(skip_serializing_if = "is_default")]
    pub max_unused: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub dry_run: bool,
    /// One that the host maintains; absent: its own.
    #[serde(skip_serializing_if = "is_default")]
    pub repository: Option<RepositoryTarget>,
}

/// `restic check`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub read_data: bool,
    /// As restic takes it: "1/12", "5%", "2G".
    #[serde(skip_serializing_if = "is_default")]
    pub read_data_subset: Option<String>,
    /// One that the host maintains; absent: its own.
    #[serde(skip_serializing_if = "is_default")]
    pub repository: Option<RepositoryTarget>,
}

/// `restic unlock`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnlockOptions {
    /// Removes live locks too; only an admin may ask for it.
    #[serde(skip_serializing_if = "is_default")]
    pub remove_all: bool,
    /// One that the host maintains; absent: its own.
    #[serde(skip_serializing_if = "is_default")]
    pub repository: Option<RepositoryTarget>,
}

/// A restore test: some files of the host's newest snapshot are restored aside, and compared where their sources have not changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyOptions {
    /// Whose newest snapshot; absent: that of any of the host's.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Option<ScheduleId>,
    /// How many files, chosen at random, 1 to 500; absent: 20.
    #[serde(skip_serializing_if = "is_default")]
    pub sample_files: Option<u32>,
    /// They are not larger together; absent: 1 GiB.
    #[serde(skip_serializing_if = "is_default")]
    pub sample_bytes: Option<u64>,
    /// As of a backup.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: u8,
}

/// `restic copy` of the host's own snapshots to a second repository of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopyOptions {
    /// Required: the repository that a copy schedule of the host names.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Option<RepositoryName>,
    /// Whose snapshots; absent: all of the host's.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Option<ScheduleId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_read_by_kind_and_default_when_absent() {
        assert_eq!(JobSpec::parse("init", None), Ok(JobSpec::Init(InitOptions::default())));
        let spec = JobSpec::parse("check", Some(json!({"read_data": true}))).expect("check takes read_data");
        assert_eq!(spec.options_json(), json!({"read_data": true}));
    }

    #[test]
    fn an_unknown_kind_or_option_is_refused_by_name() {
        assert!(JobSpec::parse("bakcup", None).expect_err("no such kind").contains("backup, init"));
        let error = JobSpec::parse("prune", Some(json!({"dryrun": true}))).expect_err("misspelled");
        assert!(error.contains("dryrun") && error.contains("dry_run"), "{error}");
        let error = JobSpec::parse("find", Some(json!({"pattern": "x", "since": "yesterday"}))).expect_err("no time");
        assert!(error.contains("`since`: \"yesterday\" is not a time, such as 2026"), "{error}");
    }
}
