//! Pure. A schedule as it travels and as it is kept, and the job that one fire of it makes.
//! Does not know when it is due: `crate::schedule` does.

use serde::{Deserialize, Serialize};

use super::job_options::{
    BackupOptions, CheckOptions, ForgetOptions, InitOptions, JobKind, JobSpec, PruneOptions, ScheduleOptions,
    UnlockOptions,
};
use super::text::Span;
use crate::id::ScheduleId;
use crate::retention::RetentionPolicy;

/// One entry of a host's schedule set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub id: ScheduleId,
    pub kind: JobKind,
    /// Five crontab fields or an @ word.
    pub cron_expr: String,
    /// IANA name; absent: the zone of the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// A due time is delayed by a stable share of this, by host and schedule.
    #[serde(default)]
    pub splay: Span,
    #[serde(default)]
    pub paths: Vec<String>,
    #[serde(default)]
    pub excludes: Vec<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub retention_policy: RetentionPolicy,
    #[serde(default)]
    pub options: ScheduleOptions,
    /// As `BackupOptions` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_hook: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_hook: Option<String>,
    pub enabled: bool,
}

impl Schedule {
    /// What a fire of this schedule runs. The server builds a job from it, and so does an agent that
    /// cannot reach the server.
    pub fn job_spec(&self) -> JobSpec {
        let options = &self.options;
        match self.kind {
            JobKind::Backup => JobSpec::Backup(BackupOptions {
                paths: self.paths.clone(),
                excludes: self.excludes.clone(),
                iexcludes: options.iexcludes.clone(),
                tags: self.tags.clone(),
                one_file_system: options.one_file_system,
                exclude_caches: options.exclude_caches,
                exclude_if_present: options.exclude_if_present.clone(),
                exclude_larger_than: options.exclude_larger_than.clone(),
                use_fs_snapshot: options.use_fs_snapshot,
                exclude_cloud_files: options.exclude_cloud_files,
                incomplete: options.incomplete,
                dry_run: false,
                retries: options.retries,
                pre_hook: self.pre_hook.clone(),
                post_hook: self.post_hook.clone(),
                hook_timeout: options.hook_timeout,
            }),
            JobKind::Init => JobSpec::Init(InitOptions::default()),
            JobKind::Forget => JobSpec::Forget(ForgetOptions {
                schedule: Some(options.schedule.clone().unwrap_or_else(|| self.id.clone())),
                retention_policy: self.retention_policy.clone(),
                ..ForgetOptions::default()
            }),
            JobKind::Prune => {
                JobSpec::Prune(PruneOptions { max_unused: options.max_unused.clone(), ..PruneOptions::default() })
            }
            JobKind::Check => JobSpec::Check(CheckOptions {
                read_data: options.read_data,
                read_data_subset: options.read_data_subset.clone(),
                ..CheckOptions::default()
            }),
            JobKind::Unlock => JobSpec::Unlock(UnlockOptions::default()),
            JobKind::Copy => JobSpec::Copy(super::job_options::CopyOptions {
                to: options.to.clone(),
                schedule: options.schedule.clone(),
            }),
            JobKind::Verify => JobSpec::Verify(super::job_options::VerifyOptions {
                schedule: options.schedule.clone(),
                sample_files: options.sample_files,
                sample_bytes: options.sample_bytes,
                retries: options.retries,
            }),
            // A schedule of these kinds does not pass validation; an empty snapshot is refused by every agent.
            JobKind::Restore | JobKind::Ls | JobKind::Find | JobKind::Diff | JobKind::Stats | JobKind::Snapshots => {
                JobSpec::Restore(super::job_options::RestoreOptions::default())
            }
        }
    }
}
