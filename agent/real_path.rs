//! Edge. Where a path leads by the links that are on the disk at this moment. Does not judge it, and does not hold it: whoever can
//! change links on the host between this look and restic's may still lead it elsewhere, and a server cannot.

use std::path::Path;

/// The path with every link followed, as far as it is there, and the rest as it is written. Fails where a link leads nowhere.
pub(crate) fn real(path: &str) -> Result<String, String> {
    for folder in Path::new(path).ancestors() {
        match std::fs::canonicalize(folder) {
            Ok(there) => {
                let rest = Path::new(path).strip_prefix(folder).unwrap_or(Path::new(""));
                // Joining nothing would add a separator.
                let leads = if rest.as_os_str().is_empty() { there } else { there.join(rest) };
                return Ok(plain(&leads.to_string_lossy()));
            }
            Err(error) if folder.is_symlink() => {
                return Err(format!(
                    "{path:?} goes through the link {}, which cannot be followed: {error}",
                    folder.display()
                ));
            }
            Err(_) => {}
        }
    }
    Ok(path.to_owned())
}

/// Canonical paths on Windows begin with `\\?\`, which the policy does not compare.
fn plain(path: &str) -> String {
    match (path.strip_prefix(r"\\?\UNC\"), path.strip_prefix(r"\\?\")) {
        (Some(share), _) => format!(r"\\{share}"),
        (None, Some(drive)) => drive.to_owned(),
        (None, None) => path.to_owned(),
    }
}

#[cfg(test)]
mod plain_tests {
    use super::plain;

    #[test]
    fn canonical_windows_paths_are_told_as_people_write_them() {
        assert_eq!(plain(r"\\?\C:\data"), r"C:\data");
        assert_eq!(plain(r"\\?\UNC\nas\share\a"), r"\\nas\share\a");
        assert_eq!(plain("/data"), "/data");
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_where_they_are_and_what_is_not_there_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = std::fs::canonicalize(dir.path()).expect("there");
        let at = |path: &str| dir.join(path).to_string_lossy().into_owned();
        std::fs::create_dir_all(dir.join("a/b")).expect("made");
        symlink(dir.join("a"), dir.join("link")).expect("linked");
        symlink(dir.join("nowhere"), dir.join("broken")).expect("linked");
        for (path, leads) in
            [("a/b", "a/b"), ("link/b", "a/b"), ("link/new/x", "a/new/x"), ("new/x", "new/x"), ("link", "a")]
        {
            assert_eq!(real(&at(path)), Ok(at(leads)), "{path}");
        }
        assert!(real(&at("broken")).is_err() && real(&at("broken/x")).is_err());
        assert_eq!(real("/"), Ok("/".to_owned()));
        assert_eq!(real("no/such"), Ok("no/such".to_owned()));
    }
}
