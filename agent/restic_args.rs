//! Pure. A typed job becomes restic's arguments. There is no shell and no free text among them: every value stands behind
//! `--flag=` or after `--`, so that none can be taken for a flag, and no flag that makes restic run a program
//! (`-o`, `--password-command`, `--stdin-from-command`) exists here.
//! Does not say what is permitted (`crate::policy`) nor what the environment is (`crate::restic_environment`).

use std::fmt;

use restic_manager::id::{HostName, JobId, ScheduleId};
use restic_manager::protocol::job_options::{
    BackupOptions, CheckOptions, CopyOptions, ForgetOptions, InitOptions, JobSpec, PruneOptions, RestoreOptions,
    UnlockOptions,
};
use restic_manager::protocol::text::Span;

use crate::restic_version::ResticVersion;

pub(crate) mod fs_snapshot;
pub(crate) mod query;
pub(crate) mod values;
mod verify;

pub(crate) use verify::{verify_list_arguments, verify_restore_arguments};

/// Why a job cannot be handed to restic. `Display` is for the person who asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(String);

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// What the arguments depend on beside the job itself.
#[derive(Debug, Clone)]
pub(crate) struct ArgumentContext<'a> {
    pub(crate) host: &'a HostName,
    pub(crate) job_id: JobId,
    /// Whose snapshots a backup makes.
    pub(crate) schedule_id: Option<&'a ScheduleId>,
    pub(crate) restic_version: ResticVersion,
    /// KiB per second; 0 is unlimited.
    pub(crate) limit_upload_kib: u64,
    /// KiB per second; 0 is unlimited.
    pub(crate) limit_download_kib: u64,
    /// How long restic waits for a lock; `None` or zero: not at all.
    pub(crate) retry_lock: Option<Span>,
    /// The directory that the agent chose for a restore; no other kind of job needs it.
    pub(crate) restore_target: Option<&'a str>,
}

/// The arguments after restic's name.
pub(crate) fn arguments(spec: &JobSpec, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    match spec {
        JobSpec::Backup(options) => backup(options, context),
        JobSpec::Copy(options) => copy(options, context),
        JobSpec::Init(options) => Ok(init(options, context)),
        JobSpec::Forget(options) => forget(options, context),
        JobSpec::Prune(options) => prune(options, context),
        JobSpec::Check(options) => check(options, context),
        JobSpec::Unlock(options) => Ok(unlock(options, context)),
        JobSpec::Restore(options) => restore(options, context),
        JobSpec::Ls(options) => query::ls(options, context),
        JobSpec::Find(options) => query::find_arguments(options, options.snapshot.as_slice(), context),
        JobSpec::Diff(options) => query::diff(options, context),
        JobSpec::Stats(options) => query::stats(options, context),
        JobSpec::Snapshots(_) => Ok(snapshots_arguments(context)),
        JobSpec::Verify(_) => Err(Refusal::new("a verify job is more than one run of restic")),
    }
}

/// The list of this host's snapshots, as JSON. Without a lock: it is asked for when the job has ended, whose lease is another's by
/// then, and a lock would be in the way of a prune.
pub(crate) fn snapshots_arguments(context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = Arguments::of("snapshots", context);
    arguments.switch("no-lock");
    arguments.flag("host", context.host);
    arguments.list
}

/// The snapshots with this job's tag, as JSON: whether a backup whose end is unknown made one. Without a lock: one that the
/// backup has left is none of its business, and a snapshot is there whole or not at all.
pub(crate) fn job_snapshots_arguments(context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = Arguments::of("snapshots", context);
    arguments.switch("no-lock");
    arguments.flag("host", context.host);
    arguments.flag("tag", format_args!("job:{}", context.job_id));
    arguments.list
}

/// Asks restic for its version; needs no repository. Old versions ignore the flag and answer with text.
pub(crate) fn version_arguments() -> Vec<String> {
    vec!["version".to_owned(), "--json".to_owned()]
}

struct Arguments {
    list: Vec<String>,
}

impl Arguments {
    /// The subcommand with the flags that every job has.
    fn of(subcommand: &str, context: &ArgumentContext<'_>) -> Self {
        let mut arguments = Self { list: vec![subcommand.to_owned()] };
        // Every version takes it with every command; those that have no JSON to print ignore it.
        arguments.switch("json");
        if context.limit_upload_kib > 0 {
            arguments.flag("limit-upload", context.limit_upload_kib);
        }
        if context.limit_download_kib > 0 {
            arguments.flag("limit-download", context.limit_download_kib);
        }
        arguments
    }

    fn switch(&mut self, name: &str) {
        self.list.push(format!("--{name}"));
    }

    /// One argument, so that a value that begins with '-' stays a value.
    fn flag(&mut self, name: &str, value: impl fmt::Display) {
        self.list.push(format!("--{name}={value}"));
    }

    fn flags(&mut self, name: &str, values: &[String]) -> Result<(), Refusal> {
        for value in values {
            self.flag(name, values::text(&format!("a value of {name}"), value)?);
        }
        Ok(())
    }

    /// Versions before 0.16 do not know the flag and would not start.
    fn wait_for_lock(&mut self, context: &ArgumentContext<'_>) {
        if let Some(span) = context.retry_lock.filter(|span| !span.is_zero())
            && context.restic_version.has_retry_lock()
        {
            self.flag("retry-lock", format_args!("{}s", span.as_secs()));
        }
    }
}

fn backup(options: &BackupOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    if options.paths.is_empty() {
        return Err(Refusal::new("a backup needs paths"));
    }
    let mut arguments = Arguments::of("backup", context);
    arguments.wait_for_lock(context);
    arguments.flag("host", context.host);
    if let Some(schedule) = context.schedule_id {
        arguments.flag("tag", format_args!("schedule:{schedule}"));
    }
    arguments.flag("tag", format_args!("job:{}", context.job_id));
    for tag in &options.tags {
        arguments.flag("tag", values::own_tag(tag)?);
    }
    arguments.flags("exclude", &options.excludes)?;
    arguments.flags("iexclude", &options.iexcludes)?;
    arguments.flags("exclude-if-present", &options.exclude_if_present)?;
    if let Some(size) = &options.exclude_larger_than {
        arguments.flag("exclude-larger-than", values::size("exclude_larger_than", size)?);
    }
    if options.exclude_caches {
        arguments.switch("exclude-caches");
    }
    if options.one_file_system {
        arguments.switch("one-file-system");
    }
    fs_snapshot::add_switches(&mut arguments, options, context.restic_version, cfg!(windows))?;
    if options.dry_run {
        arguments.switch("dry-run");
    }
    arguments.list.push("--".to_owned());
    for path in &options.paths {
        arguments.list.push(values::path("the path", path)?.to_owned());
    }
    Ok(arguments.list)
}

fn forget(options: &ForgetOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let schedule = options.schedule.as_ref().ok_or_else(|| {
        Refusal::new("forget needs the schedule whose snapshots it is about, so that no other's can be touched")
    })?;
    let policy = &options.retention_policy;
    if policy.is_empty() {
        return Err(Refusal::new("the retention policy is empty: forget would keep nothing"));
    }
    if let Some(problem) = policy.problems().into_iter().next() {
        return Err(Refusal::new(problem));
    }
    let mut arguments = Arguments::of("forget", context);
    arguments.wait_for_lock(context);
    // Three fences: hosts by name, this schedule's, and a group for each host, so that neither changed paths start a policy anew
    // nor one host's snapshots count for another's.
    if options.repository.is_none() && !options.hosts.is_empty() {
        return Err(Refusal::new("only in a repository that this host maintains may it forget other hosts' snapshots"));
    }
    let own = std::slice::from_ref(context.host);
    for host in if options.hosts.is_empty() { own } else { &options.hosts[..] } {
        arguments.flag("host", host);
    }
    arguments.flag("tag", format_args!("schedule:{schedule}"));
    arguments.flag("group-by", "host");
    for (flag, value) in policy.arguments() {
        if flag == "--keep-tag" {
            values::tag("the tag to keep", &value)?;
        }
        arguments.list.push(format!("{flag}={value}"));
    }
    if options.dry_run {
        arguments.switch("dry-run");
    }
    Ok(arguments.list)
}

/// To a repository that others copy to as well: only this host's snapshots.
fn copy(options: &CopyOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    if options.to.is_none() {
        return Err(Refusal::new("copy needs the repository that it writes to: options.to"));
    }
    let mut arguments = Arguments::of("copy", context);
    arguments.wait_for_lock(context);
    arguments.flag("host", context.host);
    if let Some(schedule) = &options.schedule {
        arguments.flag("tag", format_args!("schedule:{schedule}"));
    }
    Ok(arguments.list)
}

fn init(options: &InitOptions, context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = Arguments::of("init", context);
    if options.to.is_some() {
        arguments.switch("copy-chunker-params");
    }
    arguments.list
}

fn prune(options: &PruneOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let mut arguments = Arguments::of("prune", context);
    arguments.wait_for_lock(context);
    if let Some(limit) = &options.max_unused {
        arguments.flag("max-unused", values::max_unused(limit)?);
    }
    if options.dry_run {
        arguments.switch("dry-run");
    }
    Ok(arguments.list)
}

fn check(options: &CheckOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let mut arguments = Arguments::of("check", context);
    arguments.wait_for_lock(context);
    match (&options.read_data_subset, options.read_data) {
        (Some(_), true) => return Err(Refusal::new("read_data and read_data_subset exclude each other")),
        (Some(subset), false) => arguments.flag("read-data-subset", values::read_data_subset(subset)?),
        (None, true) => arguments.switch("read-data"),
        (None, false) => {}
    }
    Ok(arguments.list)
}

/// Without `--json`: from 0.19 on it would hide how many locks were removed.
fn unlock(options: &UnlockOptions, context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = Arguments::of("unlock", context);
    arguments.list.retain(|argument| argument != "--json");
    if options.remove_all {
        arguments.switch("remove-all");
    }
    arguments.list
}

fn restore(options: &RestoreOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let snapshot = values::snapshot(&options.snapshot)?;
    let target = context.restore_target.ok_or_else(|| Refusal::new("a restore needs a directory to restore to"))?;
    if !options.include.is_empty() && !options.exclude.is_empty() {
        return Err(Refusal::new("restic takes either include or exclude patterns for a restore, not both"));
    }
    let mut arguments = Arguments::of("restore", context);
    arguments.wait_for_lock(context);
    arguments.flag("target", values::path("the target", target)?);
    // On Windows a snapshot has a folder for each drive; one is put back by itself, and patterns are relative to it.
    let drive = target.strip_suffix(":\\").filter(|_| options.in_place).map(|letter| format!("/{letter}"));
    let within = |patterns: &[String]| -> Vec<String> {
        let cut = |pattern: &String| Some(pattern.strip_prefix(drive.as_deref()?)?.to_owned());
        patterns.iter().map(|pattern| cut(pattern).unwrap_or_else(|| pattern.clone())).collect()
    };
    arguments.flags("include", &within(&options.include))?;
    arguments.flags("exclude", &within(&options.exclude))?;
    if let Some(overwrite) = options.overwrite {
        if !context.restic_version.has_overwrite() {
            let version = context.restic_version;
            return Err(Refusal::new(format!(
                "restic {version} has no `overwrite`: it always writes over what is there; it is there from 0.17 on"
            )));
        }
        arguments.flag("overwrite", overwrite.as_str());
    }
    if snapshot == "latest" {
        // Else it would be the latest of any host in the repository.
        arguments.flag("host", context.host);
    }
    let folder = drive.as_deref().map(|drive| format!(":{drive}")).unwrap_or_default();
    arguments.list.extend(["--".to_owned(), format!("{snapshot}{folder}")]);
    Ok(arguments.list)
}

#[cfg(test)]
mod tests;
