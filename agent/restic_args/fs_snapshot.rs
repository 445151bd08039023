//! Pure. Backups on Windows from a shadow copy (VSS), and without what is only in the cloud: which switches restic gets, and what is
//! made of an end that tells that there was no shadow copy. restic gives up where it may not make one at all, and only tells of
//! it where one volume's failed: it reads that volume's files as they are.

use restic_manager::protocol::agent_event::{JobFinished, JobOutcome};
use restic_manager::protocol::job_options::{BackupOptions, FsSnapshot, JobSpec};

use super::{Arguments, Refusal};
use crate::restic_version::ResticVersion;

/// restic knows these switches on Windows only: elsewhere it would not start.
pub(super) fn add_switches(
    arguments: &mut Arguments,
    options: &BackupOptions,
    version: ResticVersion,
    is_windows: bool,
) -> Result<(), Refusal> {
    match options.use_fs_snapshot {
        FsSnapshot::Try | FsSnapshot::Require if is_windows => arguments.switch("use-fs-snapshot"),
        FsSnapshot::Require => {
            return Err(Refusal::new(
                "use_fs_snapshot = \"require\" is for Windows hosts, as only they have shadow copies: \
                 write \"try\" where others share the schedule",
            ));
        }
        FsSnapshot::Off | FsSnapshot::Try => {}
    }
    if options.exclude_cloud_files && is_windows {
        if !version.can_exclude_cloud_files() {
            return Err(Refusal::new(format!("exclude_cloud_files needs restic 0.18 or newer: this is {version}")));
        }
        arguments.switch("exclude-cloud-files");
    }
    Ok(())
}

/// The same backup without a shadow copy, where its schedule only asks to try and this end tells that there can be none.
pub(crate) fn without(spec: &JobSpec, failed: &JobFinished) -> Option<JobSpec> {
    let JobSpec::Backup(options) = spec else { return None };
    let tells = failed.error.as_deref().is_some_and(|error| error.contains("VSS error: "));
    (options.use_fs_snapshot == FsSnapshot::Try && failed.status == JobOutcome::Failed && tells)
        .then(|| JobSpec::Backup(BackupOptions { use_fs_snapshot: FsSnapshot::Off, ..options.clone() }))
}

/// A backup that had to be from a shadow copy and was not, in part, has failed; its snapshot stays.
pub(crate) fn judge(mut finished: JobFinished, spec: &JobSpec) -> JobFinished {
    let is_required = matches!(spec, JobSpec::Backup(options) if options.use_fs_snapshot == FsSnapshot::Require);
    let told = finished.warnings.iter().find(|warning| warning.contains("failed to create snapshot for ["));
    if let (true, JobOutcome::Succeeded, Some(told)) = (is_required, finished.status, told) {
        finished.error = Some(format!("not all of it is from a shadow copy, which this schedule requires: {told}"));
        finished.status = JobOutcome::Failed;
    }
    finished
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NEW: ResticVersion = ResticVersion::new(0, 18, 0);
    const OLD: ResticVersion = ResticVersion::new(0, 17, 3);

    fn backup(options: serde_json::Value) -> BackupOptions {
        serde_json::from_value(options).expect("options")
    }

    fn switches(options: serde_json::Value, version: ResticVersion, is_windows: bool) -> Result<String, String> {
        let mut arguments = Arguments { list: Vec::new() };
        let added = add_switches(&mut arguments, &backup(options), version, is_windows);
        added.map(|()| arguments.list.join(" ")).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn only_a_restic_on_windows_gets_the_switches() {
        for (options, windows, elsewhere) in [
            (json!({}), "", Some("")),
            (json!({"use_fs_snapshot": "off"}), "", Some("")),
            (json!({"use_fs_snapshot": "try"}), "--use-fs-snapshot", Some("")),
            (json!({"use_fs_snapshot": "require"}), "--use-fs-snapshot", None),
            (json!({"exclude_cloud_files": true}), "--exclude-cloud-files", Some("")),
        ] {
            assert_eq!(switches(options.clone(), NEW, true).as_deref(), Ok(windows), "{options}");
            assert_eq!(switches(options.clone(), NEW, false).ok().as_deref(), elsewhere, "{options}");
        }
        let refused = switches(json!({"use_fs_snapshot": "require"}), NEW, false).expect_err("no Windows");
        assert!(refused.contains("Windows") && refused.contains("try"), "{refused}");
        let refused = switches(json!({"exclude_cloud_files": true}), OLD, true).expect_err("too old");
        assert!(refused.contains("0.18") && refused.contains("0.17.3"), "{refused}");
    }

    fn ended(status: JobOutcome, error: Option<&str>) -> JobFinished {
        crate::commands::ended(restic_manager::id::JobId(uuid::Uuid::nil()), status, error)
    }

    #[test]
    fn a_backup_that_only_tries_is_repeated_without_where_there_can_be_no_shadow_copy() {
        let spec = |how: &str| JobSpec::Backup(backup(json!({"paths": ["C:\\"], "use_fs_snapshot": how})));
        let error = "VSS error: The caller does not have sufficient backup privileges or is not an administrator";
        let denied = ended(JobOutcome::Failed, Some(error));
        let Some(JobSpec::Backup(again)) = without(&spec("try"), &denied) else { panic!("it is repeated") };
        assert_eq!((again.use_fs_snapshot, again.paths), (FsSnapshot::Off, vec!["C:\\".to_owned()]));
        assert_eq!(without(&spec("require"), &denied), None);
        assert_eq!(without(&spec("try"), &ended(JobOutcome::Failed, Some("no space left"))), None);
    }

    #[test]
    fn a_volume_without_its_shadow_copy_fails_only_who_requires_one() {
        let mut finished = ended(JobOutcome::Succeeded, None);
        finished.warnings.push("c:\\: failed to create snapshot for [c:\\]: VSS error: timeout".to_owned());
        let judged = |how: &str| {
            let spec = JobSpec::Backup(backup(json!({"paths": ["C:\\"], "use_fs_snapshot": how})));
            judge(finished.clone(), &spec).status
        };
        assert_eq!((judged("try"), judged("require")), (JobOutcome::Succeeded, JobOutcome::Failed));
    }
}
