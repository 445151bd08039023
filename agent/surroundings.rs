//! Edge. The folders above what a restore in place writes over. restic gives them back the rights, owners and times of the snapshot, whatever
//! it is told to include; they are not what was asked for, nor judged by the policy, so they get their own again. Unix only.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

/// How they are now.
#[derive(Debug, Default)]
pub(crate) struct Surroundings(Vec<(PathBuf, Metadata)>);

impl Surroundings {
    /// Those of these paths. One that is itself to be written over is not among them.
    pub(crate) fn of(paths: &[String]) -> Self {
        let is_asked_for = |folder: &Path| paths.iter().any(|path| folder.starts_with(path));
        let mut above: Vec<&Path> = paths.iter().flat_map(|path| Path::new(path).ancestors().skip(1)).collect();
        above.sort_unstable();
        above.dedup();
        let above = above.into_iter().filter(|folder| !is_asked_for(folder));
        Self(above.filter_map(|folder| Some((folder.to_owned(), std::fs::metadata(folder).ok()?))).collect())
    }

    /// Makes them so again. What cannot be is told in the agent's log.
    pub(crate) fn put_back(&self) {
        for (folder, before) in &self.0 {
            if let Err(error) = put_back(folder, before) {
                tracing::warn!("{} has the rights and times of the snapshot now: {error}", folder.display());
            }
        }
    }
}

#[cfg(unix)]
fn put_back(folder: &Path, before: &Metadata) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let now = std::fs::metadata(folder)?;
    if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
        std::os::unix::fs::chown(folder, Some(before.uid()), Some(before.gid()))?;
    }
    if now.mode() != before.mode() {
        std::fs::set_permissions(folder, before.permissions())?;
    }
    let times = std::fs::FileTimes::new().set_accessed(before.accessed()?).set_modified(before.modified()?);
    std::fs::File::open(folder)?.set_times(times)
}

#[cfg(not(unix))]
fn put_back(_: &Path, _: &Metadata) -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folders_above_get_their_rights_and_times_back_and_what_was_asked_for_does_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (above, asked) = (dir.path().join("a"), dir.path().join("a/b"));
        fs::create_dir_all(&asked).expect("made");
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        chmod(&above, 0o711);
        let modified = fs::metadata(&above).expect("there").modified().expect("a time");
        let surroundings = Surroundings::of(&[asked.to_string_lossy().into_owned(), "/no/such/place".to_owned()]);
        chmod(&above, 0o777);
        chmod(&asked, 0o700);
        fs::write(above.join("new"), "").expect("written");
        surroundings.put_back();
        assert_eq!((mode(&above), mode(&asked)), (0o711, 0o700));
        assert_eq!(fs::metadata(&above).expect("there").modified().expect("a time"), modified);
    }
}
