//! Pure. The options of a schedule, of whatever kind. What a job of each kind is told is `job_options`'.

use serde::{Deserialize, Serialize};

use super::job_options::IncompleteMeans;
use super::text::{Span, is_default};
use crate::id::{RepositoryName, ScheduleId};

/// What a schedule may say beyond paths, excludes, tags and retention; each is used by the kinds it fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub iexcludes: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub one_file_system: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_caches: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_if_present: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_larger_than: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub use_fs_snapshot: FsSnapshot,
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_cloud_files: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub incomplete: IncompleteMeans,
    #[serde(skip_serializing_if = "is_default")]
    pub retries: u8,
    /// A due time that passed while the agent was off fires once, late.
    pub catch_up: bool,
    /// forget, verify, copy: whose snapshots; absent: the schedule's own, or those of any.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Option<ScheduleId>,
    #[serde(skip_serializing_if = "is_default")]
    pub max_unused: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub read_data: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub read_data_subset: Option<String>,
    /// How long a hook may run.
    #[serde(skip_serializing_if = "is_default")]
    pub hook_timeout: Option<Span>,
    #[serde(skip_serializing_if = "is_default")]
    pub sample_bytes: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub sample_files: Option<u32>,
    /// copy: the repository that it writes to.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Option<RepositoryName>,
}

/// Whether a backup on Windows reads its files from a shadow copy, as they were at one moment and also those in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsSnapshot {
    #[default]
    Off,
    /// Where there can be one; else the files as they are, and a warning. Elsewhere than on Windows this means nothing.
    Try,
    /// A backup without one is a failure.
    Require,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        Self {
            iexcludes: Vec::new(),
            one_file_system: false,
            exclude_caches: false,
            exclude_if_present: Vec::new(),
            exclude_larger_than: None,
            use_fs_snapshot: FsSnapshot::Off,
            exclude_cloud_files: false,
            incomplete: IncompleteMeans::Warn,
            retries: 0,
            catch_up: true,
            schedule: None,
            max_unused: None,
            read_data: false,
            read_data_subset: None,
            hook_timeout: None,
            sample_bytes: None,
            sample_files: None,
            to: None,
        }
    }
}
