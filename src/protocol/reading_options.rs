//! Pure. Options of the jobs that read a repository: restore, and the queries ls, find, diff, stats and snapshots, whose result is
//! in the job's log. Does not know where a restore may go: the agent's policy does.

use chrono::{DateTime, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::text::is_default;
use crate::id::ScheduleId;

/// Entries of one query's result when its options say nothing.
pub const DEFAULT_ENTRIES: u32 = 10_000;
/// Most entries of one query's result.
pub const MOST_ENTRIES: u32 = 200_000;

/// What a restore does with a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// What every restic does that is told nothing.
    Always,
    /// Only where size or modification time differ.
    IfChanged,
    /// Only where the snapshot's is newer.
    IfNewer,
    Never,
}

impl Overwrite {
    /// As restic's `--overwrite` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfChanged => "if-changed",
            Self::IfNewer => "if-newer",
            Self::Never => "never",
        }
    }
}

/// `restic restore`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreOptions {
    /// A snapshot's id (8 to 64 hex digits) or "latest" (of this host).
    pub snapshot: String,
    /// With "latest": the newest of this schedule.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Option<ScheduleId>,
    /// Whole paths as `ls` shows them, taken letter for letter; they exclude `include` and `exclude`, which are patterns.
    #[serde(skip_serializing_if = "is_default")]
    pub paths: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub include: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude: Vec<String>,
    /// An absolute path to a directory that does not exist yet; absent: a fresh one below the agent's first restore root.
    #[serde(skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// To where the files were backed up from, over what is there. Only below the agent's restore roots.
    #[serde(skip_serializing_if = "is_default")]
    pub in_place: bool,
    /// The host's name once more: `in_place` needs it.
    #[serde(skip_serializing_if = "is_default")]
    pub confirm: Option<String>,
    /// In place only; restic has it from 0.17 on. Absent: always.
    #[serde(skip_serializing_if = "is_default")]
    pub overwrite: Option<Overwrite>,
}

/// `restic ls`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LsOptions {
    /// A snapshot's id (8 to 64 hex digits) or "latest" (of this host).
    pub snapshot: String,
    /// A path as the snapshot has it (`/etc`, `/C/Users`); absent: `/`.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// Everything below it too.
    #[serde(skip_serializing_if = "is_default")]
    pub recursive: bool,
    /// Entries at most, to `MOST_ENTRIES`; absent: `DEFAULT_ENTRIES`.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: Option<u32>,
}

/// `restic find`, in the host's own snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FindOptions {
    /// A name or a path, with restic's wildcards.
    pub pattern: String,
    /// Absent: in all of the host's.
    #[serde(skip_serializing_if = "is_default")]
    pub snapshot: Option<String>,
    /// Snapshots of this time or later.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "since")]
    pub since: Option<DateTime<Utc>>,
    /// Snapshots before this time.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "until")]
    pub until: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_case: bool,
    /// Entries at most, to `MOST_ENTRIES`; absent: `DEFAULT_ENTRIES`.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: Option<u32>,
}

fn since<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    time("since", deserializer)
}

fn until<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    time("until", deserializer)
}

fn time<'de, D: Deserializer<'de>>(name: &str, deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let read = text.parse().map(Some);
    read.map_err(|_| D::Error::custom(format!("`{name}`: {text:?} is not a time, such as 2026-01-31T12:00:00Z")))
}

/// `restic diff`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffOptions {
    /// The older snapshot's id, or "latest".
    pub from: String,
    /// The newer snapshot's id, or "latest".
    pub to: String,
    /// Changes at most, to `MOST_ENTRIES`; absent: `DEFAULT_ENTRIES`.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: Option<u32>,
}

/// What `restic stats` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatsMode {
    /// What a restore would write.
    #[default]
    RestoreSize,
    FilesByContents,
    BlobsPerFile,
    /// What the repository holds of it.
    RawData,
}

impl StatsMode {
    /// As restic's `--mode` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RestoreSize => "restore-size",
            Self::FilesByContents => "files-by-contents",
            Self::BlobsPerFile => "blobs-per-file",
            Self::RawData => "raw-data",
        }
    }
}

/// `restic stats` of the host's own snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatsOptions {
    /// Absent: all of the host's.
    #[serde(skip_serializing_if = "is_default")]
    pub snapshot: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub mode: StatsMode,
}

/// `restic snapshots`: the list is reported as after a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotsOptions {}
