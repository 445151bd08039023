//! Pure. The arguments of what a verify job asks restic: the list of a snapshot's files, and to restore some of them by name.

use restic_manager::protocol::job_options::VerifyOptions;

use super::{ArgumentContext, Arguments, Refusal, values};

/// Bytes of file names in one restore: Windows has 32 KiB for a whole command line.
const NAMES_BYTES: usize = 16 * 1024;

/// Every file of the newest snapshot of this host, or of one schedule of it, a line each.
pub(crate) fn verify_list_arguments(options: &VerifyOptions, context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = Arguments::of("ls", context);
    arguments.wait_for_lock(context);
    // Else it would be the newest of any host in the repository.
    arguments.flag("host", context.host);
    if let Some(schedule) = &options.schedule {
        arguments.flag("tag", format_args!("schedule:{schedule}"));
    }
    arguments.list.extend(["--".to_owned(), "latest".to_owned()]);
    arguments.list
}

/// Restores of just these files, as many as their names need.
pub(crate) fn verify_restore_arguments(
    snapshot: &str,
    paths: &[&str],
    context: &ArgumentContext<'_>,
) -> Result<Vec<Vec<String>>, Refusal> {
    let snapshot = values::snapshot(snapshot)?;
    let target = context.restore_target.ok_or_else(|| Refusal::new("a restore needs a directory to restore to"))?;
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for path in paths {
        if all.is_empty() || bytes + path.len() > NAMES_BYTES {
            let mut arguments = Arguments::of("restore", context);
            arguments.wait_for_lock(context);
            arguments.flag("target", values::path("the target", target)?);
            all.push(arguments.list);
            bytes = 0;
        }
        bytes += path.len();
        if let Some(arguments) = all.last_mut() {
            arguments.push(format!("--include={}", values::literal(values::text("a file's name", path)?)));
        }
    }
    for arguments in &mut all {
        arguments.extend(["--".to_owned(), snapshot.to_owned()]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restic_version::ResticVersion;
    use restic_manager::id::{HostName, JobId};

    #[test]
    fn names_are_patterns_for_themselves_only_and_few_enough_for_one_command_line() {
        for (path, pattern) in
            [("/a/b c", "/a/b c"), ("/a/*", "/a/[*]"), ("/a/[x]?", "/a/[[]x][?]"), ("/a/x\\y", "/a/x\\\\y")]
        {
            assert_eq!(values::literal(path), pattern);
        }
        let host: HostName = "web-1".parse().expect("a name");
        let context = ArgumentContext {
            host: &host,
            job_id: JobId(uuid::Uuid::nil()),
            schedule_id: None,
            restic_version: ResticVersion::new(0, 18, 0),
            limit_upload_kib: 0,
            limit_download_kib: 0,
            retry_lock: None,
            restore_target: Some("/t"),
        };
        let long = format!("/{}", "x".repeat(4000));
        let all = verify_restore_arguments("deadbeef", &[long.as_str(); 10], &context).expect("arguments");
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|list| list.iter().map(String::len).sum::<usize>() < 20_000
            && list.ends_with(&["--".into(), "deadbeef".into()])));
        let options = VerifyOptions { schedule: Some("data".parse().expect("an id")), ..VerifyOptions::default() };
        let list = verify_list_arguments(&options, &context);
        assert_eq!(list, ["ls", "--json", "--host=web-1", "--tag=schedule:data", "--", "latest"]);
    }
}
