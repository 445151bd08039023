//! Edge. Where a restore goes, looked up and judged before restic runs, and what came of it.

use std::path::{Path, PathBuf};

use restic_manager::file_error::chain;
use restic_manager::id::JobId;
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, Snapshot};
use restic_manager::protocol::job_options::{JobSpec, RestoreOptions};

use super::Task;
use crate::core::Agent;
use crate::latest_snapshot::{described, latest};
use crate::named_snapshots::{known, resolved};
use crate::policy::restoring::{as_includes, no_patterns, place, written_over};
use crate::real_path;
use crate::restic_json::ending::cut;
use crate::restic_version::ResticVersion;
use crate::surroundings::Surroundings;

/// Bytes of the paths that an error names.
const LONGEST_LIST_BYTES: usize = 1000;
/// So many files are counted for a restic that does not count them.
const MOST_COUNTED: u64 = 1_000_000;

/// Where a restore goes, and what from.
pub(crate) struct Destination {
    pub(super) target: String,
    snapshot: Option<Snapshot>,
    /// Where each of the asked paths is when it was restored, as far as names tell.
    expected: Vec<(String, PathBuf)>,
    /// What else of the host could be meant, for a person.
    beside: Option<String>,
    surroundings: Surroundings,
}

/// The job with the very snapshot that it names, and where it goes; for other kinds the job as it is.
pub(super) async fn prepared(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
) -> Result<(JobSpec, Option<Destination>), String> {
    let JobSpec::Restore(asked) = task.spec else { return Ok((task.spec.clone(), None)) };
    if asked.overwrite.is_some() && !version.has_overwrite() {
        return Err(format!(
            "restic {version} has no `overwrite`, it always writes over what is there: leave it out, or upgrade to 0.17"
        ));
    }
    if asked.in_place && asked.confirm.as_deref() != Some(agent.host.as_str()) {
        return Err(format!(
            "`in_place` writes over what is there: `confirm` must repeat the host's name, {}",
            agent.host
        ));
    }
    if asked.in_place && asked.target.is_some() {
        return Err("`in_place` and `target` exclude each other".to_owned());
    }
    let (spec, named) = resolved(agent, version, task.spec).await.map_err(|trouble| trouble.text)?;
    let JobSpec::Restore(mut options) = spec else { return Ok((spec, None)) };
    let snapshot = named.into_iter().next();
    if !options.in_place {
        let target = restore_target(agent, task.id, options.target.as_deref())?;
        if !options.paths.is_empty() {
            options.include = as_includes(&options.paths);
        }
        let (beside, surroundings) = (beside(agent, asked), Surroundings::default());
        let expected = below(&target, &options.paths);
        let destination = Destination { target, snapshot, expected, beside, surroundings };
        return Ok((JobSpec::Restore(options), Some(destination)));
    }
    let paths = snapshot.as_ref().map(|snapshot| snapshot.paths.clone()).unwrap_or_default();
    let target = place(&paths)?;
    let (mut surroundings, mut expected) = (Surroundings::default(), Vec::new());
    if options.exclude.is_empty() {
        no_patterns(&options.include)?;
        let named = if options.paths.is_empty() { &options.include } else { &options.paths };
        let over = written_over(named, &paths)?;
        agent.policy.permits_in_place(&over, real_path::real)?;
        expected = options.paths.iter().cloned().zip(over.iter().map(PathBuf::from)).collect();
        options.include = as_includes(&over);
        surroundings = Surroundings::of(&over);
    } else {
        // restic takes includes or excludes: with these it may write anywhere.
        agent.policy.permits_in_place(std::slice::from_ref(&target), real_path::real).map_err(|refusal| {
            format!("with `exclude` a restore in place may write anywhere, so leave it out, or: {refusal}")
        })?;
    }
    if target != "/" && !version.has_subfolders() {
        return Err(format!(
            "restic {version} cannot put one drive's files back in place: upgrade to 0.17, or restore into a directory"
        ));
    }
    let destination = Destination { target, snapshot, expected, beside: None, surroundings };
    Ok((JobSpec::Restore(options), Some(destination)))
}

/// Where these paths of a snapshot are once they are restored into a directory. Names that are not UTF-8 are not known by their paths.
fn below(target: &str, paths: &[String]) -> Vec<(String, PathBuf)> {
    let known = paths.iter().filter(|path| !path.contains(char::REPLACEMENT_CHARACTER));
    known.map(|path| (path.clone(), Path::new(target).join(path.trim_start_matches('/')))).collect()
}

/// The newest snapshots of other schedules, where "latest" was asked for and is not all of the host. Where patterns were asked for, what
/// fits them is what counts.
fn beside(agent: &Agent, asked: &RestoreOptions) -> Option<String> {
    if asked.snapshot != "latest" || !asked.include.is_empty() {
        return None;
    }
    let known = known(agent);
    let found = latest(&known, asked.schedule.as_ref(), &asked.paths).ok()?;
    let others: Vec<String> = found.beside.iter().map(|other| described(other)).collect();
    (!others.is_empty()).then(|| others.join("; "))
}

/// A directory that does not exist yet: only a restore in place writes over what is there.
fn restore_target(agent: &Agent, job: JobId, wanted: Option<&str>) -> Result<String, String> {
    let target = match wanted {
        Some(target) => target.to_owned(),
        None => {
            let root = agent
                .policy
                .first_restore_root()
                .ok_or("there is nowhere to restore to: restore_roots in [policy] of agent.toml is empty")?;
            format!("{}/{job}", root.trim_end_matches('/'))
        }
    };
    let path = Path::new(&target);
    let occupied = std::fs::read_dir(path).map_or(path.exists(), |mut entries| entries.next().is_some());
    if occupied {
        return Err(format!("{target} exists and is not empty: name a directory that does not exist yet"));
    }
    restic_manager::atomic_file::create_private_dir(path).map_err(|error| chain(&error))?;
    Ok(target)
}

/// restic counts a restore of nothing as a success, and of a part; who asked for files that are not in the snapshot must not. Says what was
/// restored and where to, and how many files: restics before 0.17 do not count them. Of a restore that failed nobody knows how many are
/// whole: restic counts those too that it could not write.
pub(super) fn judge(finished: &mut JobFinished, spec: &JobSpec, destination: Destination) {
    let Destination { target, snapshot, expected, beside, surroundings } = destination;
    surroundings.put_back();
    let JobSpec::Restore(RestoreOptions { include, paths, in_place, .. }) = spec else { return };
    let of = snapshot.as_ref().map_or_else(|| "the snapshot".to_owned(), described);
    let stats = finished.stats.get_or_insert_default();
    if !in_place && !stats.contains_key("files_restored") {
        stats.insert("files_restored".to_owned(), entries_below(Path::new(&target)).into());
    }
    if finished.status == JobOutcome::Succeeded {
        let count = |name: &str| stats.get(name).and_then(serde_json::Value::as_u64);
        // An old restic does not say what it did in place.
        let is_nothing = count("files_restored").is_some_and(|files| files + count("files_skipped").unwrap_or(0) == 0);
        let absent = expected.iter().filter(|(_, place)| place.symlink_metadata().is_err());
        let absent: Vec<String> = absent.map(|(path, _)| format!("{path:?}")).collect();
        finished.error = if !absent.is_empty() {
            let rest = if absent.len() < expected.len() { "; the rest was restored" } else { "" };
            let absent = cut(&absent.join(", "), LONGEST_LIST_BYTES);
            Some(format!("not in {of}, by `paths`: {absent}; `find` tells which snapshots have it{rest}"))
        } else if is_nothing && !(include.is_empty() && paths.is_empty()) {
            // Also where what is asked for stands on the host, in place, and in no snapshot.
            let asked = if paths.is_empty() { "fits `include`" } else { "is named in `paths`" };
            Some(format!("nothing was restored: no file of {of} {asked}; `find` tells which snapshots have it"))
        } else {
            None
        };
        if finished.error.is_some() {
            finished.status = JobOutcome::Failed;
        }
    }
    if finished.status != JobOutcome::Succeeded {
        ["files_restored", "bytes_restored"].iter().for_each(|name| drop(stats.remove(*name)));
    }
    stats.insert("target".to_owned(), target.into());
    if let Some(Snapshot { id, time, paths, .. }) = snapshot {
        stats.insert("snapshot".to_owned(), id.into());
        stats.insert("snapshot_time".to_owned(), time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into());
        stats.insert("snapshot_paths".to_owned(), paths.into());
    }
    if let Some(others) = beside {
        finished.warnings.push(format!("\"latest\" is {of}; the host's newest of others, with other paths: {others}"));
    }
}

/// Files and folders, as restic counts them.
fn entries_below(dir: &Path) -> u64 {
    let (mut count, mut folders) = (0, vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            count += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            if count >= MOST_COUNTED {
                return count;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::ended;

    #[test]
    fn a_restore_that_restored_nothing_fails_also_where_what_was_asked_for_stands_on_the_host() {
        let dir = tempfile::tempdir().expect("a directory");
        let (there, gone) = (dir.path().join("made-since"), dir.path().join("gone"));
        std::fs::write(&there, "").expect("written");
        let judged = |in_place: bool, restored: u64, expected: &[&PathBuf]| {
            let paths: Vec<String> = expected.iter().map(|path| path.display().to_string()).collect();
            let spec = json!({"snapshot": "latest", "paths": paths, "in_place": in_place});
            let spec = JobSpec::Restore(serde_json::from_value(spec).expect("options"));
            let mut finished = ended(JobId(uuid::Uuid::nil()), JobOutcome::Succeeded, None);
            finished.stats = Some([("files_restored".to_owned(), json!(restored))].into_iter().collect());
            let expected = paths.into_iter().zip(expected.iter().map(|path| (*path).clone())).collect();
            let (target, surroundings) = ("/".to_owned(), Surroundings::default());
            judge(&mut finished, &spec, Destination { target, snapshot: None, expected, beside: None, surroundings });
            (finished.status, finished.error.unwrap_or_default())
        };
        for in_place in [true, false] {
            let (status, error) = judged(in_place, 0, &[&there]);
            assert_eq!(status, JobOutcome::Failed);
            assert!(error.starts_with("nothing was restored: no file of the snapshot is named in `paths`"), "{error}");
            let (status, error) = judged(in_place, 1, &[&there, &gone]);
            assert_eq!(status, JobOutcome::Failed);
            assert!(error.ends_with("the rest was restored") && !error.contains("made-since"), "{error}");
            assert_eq!(judged(in_place, 1, &[&there]), (JobOutcome::Succeeded, String::new()));
        }
    }
}
