//! Edge. Reads the files of a host's secrets, just before they are sent. A problem names where the configuration refers
//! to the file, and the file, never what is in it. Does not keep a secret, and runs no command for one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::schedule_set::HostSecrets;
use super::{Fleet, Host, SecretRef, SecretSource, for_host};
use crate::file_stamp::{self, FileStamp};
use crate::problem::Problem;
use crate::protocol::command::Secret;

/// The largest secret, in bytes.
const SECRET_LIMIT: u64 = 64 * 1024;

/// Where the files of secrets may be.
#[derive(Debug)]
pub struct SecretPlaces {
    /// The configuration directory: relative paths begin here.
    directory: PathBuf,
    /// server.toml's `secret_roots`, those that exist.
    roots: Vec<PathBuf>,
}

impl SecretPlaces {
    pub fn of(fleet: &Fleet, directory: &Path) -> Self {
        let roots = fleet.settings.secret_roots.iter().filter_map(|root| directory.join(root).canonicalize().ok());
        Self { roots: roots.collect(), directory: directory.to_owned() }
    }
}

/// A host's secrets as they were read, and how to see that their files are still the same.
#[derive(Debug, Default)]
pub struct ReadSecrets {
    pub secrets: HostSecrets,
    /// `None`: the file had changed just before.
    files: Vec<(PathBuf, Option<FileStamp>)>,
}

impl ReadSecrets {
    /// Whether reading them again would give the same.
    pub fn are_unchanged(&self) -> bool {
        let is_still = |(path, stamp): &(PathBuf, Option<FileStamp>)| {
            stamp.as_ref().is_some_and(|stamp| file_stamp::is_still(path, stamp))
        };
        self.files.iter().all(is_still)
    }
}

/// The host's secrets. A link may lead anywhere below a secret root, and nowhere else.
pub fn read_secrets(fleet: &Fleet, places: &SecretPlaces, host: &Host) -> Result<ReadSecrets, Vec<Problem>> {
    let Some(repository) = host.repository.as_ref().and_then(|name| fleet.repositories.get(name)) else {
        return Ok(ReadSecrets::default());
    };
    let mut problems = Vec::new();
    let mut files = Vec::new();
    let mut read = |source: &Option<SecretSource>| {
        let source = source.as_ref()?;
        match read_secret(&source.secret, places, host) {
            Ok((secret, path, stamp)) => {
                files.push((path, stamp));
                Some(secret)
            }
            Err(message) => {
                problems.push(source.place.error(&source.file, format!("host {}: {message}", host.name)));
                None
            }
        }
    };
    let secrets = HostSecrets { password: read(&repository.password), credential: read(&repository.credential) };
    if problems.is_empty() { Ok(ReadSecrets { secrets, files }) } else { Err(problems) }
}

fn read_secret(
    secret: &SecretRef,
    places: &SecretPlaces,
    host: &Host,
) -> Result<(Secret, PathBuf, Option<FileStamp>), String> {
    let SecretRef::File(template) = secret else {
        return Err("only { file = } secrets are supported by this version".to_owned());
    };
    let path = places.directory.join(for_host(template, &host.name));
    let problem = |what: String| format!("the secret's file {path:?} {what}");
    let found = path.canonicalize().map_err(|error| problem(format!("cannot be read: {error}")))?;
    if !places.roots.iter().any(|root| found.starts_with(root)) {
        return Err(problem("leads out of server.toml's secret_roots".to_owned()));
    }
    if !found.is_file() {
        // Said before it is opened: opening a pipe would wait.
        return Err(problem("is not a file".to_owned()));
    }
    let mut text = String::new();
    let unread = |error: std::io::Error| problem(format!("cannot be read: {error}"));
    let file = File::open(&found).map_err(unread)?;
    let stamp = file.metadata().and_then(|metadata| file_stamp::before_reading(&metadata)).map_err(unread)?;
    let size = file.take(SECRET_LIMIT + 1).read_to_string(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => problem("is not text in UTF-8".to_owned()),
        _ => problem(format!("cannot be read: {error}")),
    })?;
    if u64::try_from(size).unwrap_or(u64::MAX) > SECRET_LIMIT {
        return Err(problem("is larger than 64 KiB".to_owned()));
    }
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(problem("is empty".to_owned()));
    }
    if secret.contains('\0') {
        return Err(problem("has a NUL, which no environment can hold".to_owned()));
    }
    let secret = Secret::new(secret.to_owned());
    Ok((secret, path, stamp))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::server::fleet::load::load;

    fn read(directory: &Path) -> Result<HostSecrets, String> {
        let files = BTreeMap::from([
            ("server.toml".to_owned(), "secret_roots = [\"secrets\"]\n".to_owned()),
            (
                "repositories/main.toml".to_owned(),
                "url = \"/srv\"\npassword = { file = \"secrets/{host}\" }\n".to_owned(),
            ),
            ("hosts/a.toml".to_owned(), "repository = \"main\"\n".to_owned()),
        ]);
        let (fleet, _) = load(&files);
        let host = fleet.hosts.values().next().expect("a host");
        read_secrets(&fleet, &SecretPlaces::of(&fleet, directory), host)
            .map(|read| read.secrets)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn one_line_end_is_not_part_of_a_secret() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("secrets")).expect("made");
        for (content, secret) in [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), (" s \n\n", " s \n")] {
            fs::write(directory.path().join("secrets/a"), content).expect("written");
            assert_eq!(read(directory.path()).expect("a secret").password, Some(Secret::new(secret.to_owned())));
        }
    }

    #[test]
    fn what_is_no_secret_is_told_with_both_places_and_without_content() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secrets/a");
        fs::create_dir(directory.path().join("secrets")).expect("made");
        let check = |expected: &str| {
            let problem = read(directory.path()).expect_err(expected);
            assert!(problem.starts_with("repositories/main.toml:2:12: error: host a: the secret's file"), "{problem}");
            assert!(problem.contains(expected) && !problem.contains("hunter2"), "{problem}");
        };
        check("cannot be read");
        for (content, expected) in [
            (b"".to_vec(), "is empty"),
            (b"\n".to_vec(), "is empty"),
            (b"hunter2\xff".to_vec(), "not text"),
            (b"hunter2\0".to_vec(), "NUL"),
            (b"hunter2".repeat(10_000), "larger than"),
        ] {
            fs::write(&path, content).expect("written");
            check(expected);
        }
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        check("is not a file");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_may_not_lead_out_of_the_secret_roots() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(directory.path().join("secrets/..data")).expect("made");
        fs::write(directory.path().join("outside"), "hunter2").expect("written");
        fs::write(directory.path().join("secrets/..data/a"), "inside").expect("written");
        let link = directory.path().join("secrets/a");
        std::os::unix::fs::symlink("../outside", &link).expect("linked");
        assert!(read(directory.path()).expect_err("outside").contains("leads out of"));
        fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink("..data/a", &link).expect("linked");
        assert!(read(directory.path()).is_ok());
    }
}
