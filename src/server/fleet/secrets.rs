//! Edge. Reads the files of a host's secrets, just before they are sent, and takes in what commands answered. A problem names
//! where the configuration refers to the secret, and the file or command, never what is in it. Does not keep a secret, runs no
//! command for one (`secret_commands` does), and never learns the agents' own.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::maintenance::{copy_targets, targets};
use super::schedule_set::{AccessSecrets, Credentials, HostSecrets};
use super::secret_commands::{Question, SecretCommands, own_question, question};
use super::{Fleet, Host, Repository, SecretRef, SecretSource, for_host};
use crate::file_stamp::{self, FileStamp};
use crate::id::HostName;
use crate::problem::Problem;
use crate::protocol::command::{SECRET_LIMIT, Secret};

/// Where secrets may be.
pub struct SecretPlaces<'a> {
    /// The configuration directory: relative paths begin here.
    directory: PathBuf,
    /// server.toml's `secret_roots`, those that exist.
    roots: Vec<PathBuf>,
    commands: &'a SecretCommands,
}

impl<'a> SecretPlaces<'a> {
    pub fn of(fleet: &Fleet, directory: &Path, commands: &'a SecretCommands) -> Self {
        let roots = fleet.settings.secret_roots.iter().filter_map(|root| directory.join(root).canonicalize().ok());
        Self { roots: roots.collect(), directory: directory.to_owned(), commands }
    }
}

/// A host's secrets as they were read, and how to see that their files are still the same.
#[derive(Debug, Default)]
pub struct ReadSecrets {
    pub secrets: HostSecrets,
    /// `None`: the file had changed just before.
    files: Vec<(PathBuf, Option<FileStamp>)>,
    /// With the number of the answer.
    commands: Vec<(Question, u64)>,
    /// Why some of what the host maintains is not in `secrets`.
    pub unread: Vec<Problem>,
}

impl ReadSecrets {
    /// Whether reading them again would give the same.
    pub fn are_unchanged(&self, places: &SecretPlaces<'_>) -> bool {
        let is_still = |(path, stamp): &(PathBuf, Option<FileStamp>)| {
            stamp.as_ref().is_some_and(|stamp| file_stamp::is_still(path, stamp))
        };
        let is_same = |(question, number): &(Question, u64)| places.commands.number(question) == Some(*number);
        self.files.iter().all(is_still) && self.commands.iter().all(is_same)
    }
}

/// The host's secrets. A link may lead anywhere below a secret root, and nowhere else. An error where those of its own repository
/// cannot be had: without them nothing of the host works.
pub fn read_secrets(fleet: &Fleet, places: &SecretPlaces<'_>, host: &Host) -> Result<ReadSecrets, Vec<Problem>> {
    let mut read = ReadSecrets::default();
    if let Some(repository) = host.repository.as_ref().and_then(|name| fleet.repositories.get(name)) {
        let wanted = Wanted { fleet, places, repository, whose: &host.name };
        read.secrets.own = wanted.read(Credentials::of_hosts(repository), &mut read)?;
    }
    for (target, repository) in copy_targets(fleet, host) {
        let wanted = Wanted { fleet, places, repository, whose: &host.name };
        match wanted.read(Credentials::of_hosts(repository), &mut read) {
            Ok(secrets) => drop(read.secrets.copy_targets.insert(target, secrets)),
            Err(problems) => read.unread.extend(problems),
        }
    }
    for repository in fleet.maintained_by(&host.name) {
        for target in targets(fleet, repository) {
            let wanted = Wanted { fleet, places, repository, whose: target.host.as_ref().unwrap_or(&host.name) };
            match wanted.read(Credentials::of_maintenance(repository), &mut read) {
                Ok(secrets) => drop(read.secrets.maintained.insert(target, secrets)),
                Err(problems) => read.unread.extend(problems),
            }
        }
    }
    Ok(read)
}

/// What is to be read. `whose`: what `{host}` stands for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    fleet: &'a Fleet,
    places: &'a SecretPlaces<'a>,
    repository: &'a Repository,
    whose: &'a HostName,
}

impl Wanted<'_> {
    fn read(&self, credentials: Credentials<'_>, read: &mut ReadSecrets) -> Result<AccessSecrets, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut one = |source: Option<&SecretSource>| {
            let source = source?;
            self.read_one(&source.secret, read)
                .map_err(|message| {
                    problems.push(source.place.error(&source.file, format!("host {}: {message}", self.whose)));
                })
                .ok()?
        };
        let (password, credential) = (one(credentials.password), one(credentials.credential));
        if problems.is_empty() { Ok(AccessSecrets { password, credential }) } else { Err(problems) }
    }

    /// `None`: it is the agent's own.
    fn read_one(&self, secret: &SecretRef, read: &mut ReadSecrets) -> Result<Option<Secret>, String> {
        match secret {
            SecretRef::Agent(_) => Ok(None),
            SecretRef::File(template) => {
                let (secret, path, stamp) = read_file(&for_host(template, self.whose), self.places)?;
                read.files.push((path, stamp));
                Ok(Some(secret))
            }
            SecretRef::Command(name) => {
                let question = question(self.fleet, self.repository, name, self.whose)
                    .ok_or_else(|| format!("there is no secret command {name:?}"))?;
                let (secret, number) = self.places.commands.answer(&question, name)?;
                read.commands.push((question, number));
                Ok(Some(secret))
            }
        }
    }
}

/// A secret that the server uses itself, for a channel of alerts or, with `{host}`, for a ping. The error tells its place.
pub fn read_own(
    fleet: &Fleet,
    places: &SecretPlaces<'_>,
    source: &SecretSource,
    whose: Option<&HostName>,
) -> Result<Secret, String> {
    let of_host = |text: &str| whose.map_or_else(|| text.to_owned(), |host| for_host(text, host));
    let read = match &source.secret {
        SecretRef::Agent(_) => Err("the server needs this secret itself".to_owned()),
        SecretRef::File(template) => read_file(&of_host(template), places).map(|(secret, ..)| secret),
        SecretRef::Command(name) => own_question(fleet, name, whose)
            .ok_or_else(|| format!("there is no secret command {name:?}"))
            .and_then(|question| places.commands.answer(&question, name))
            .map(|(secret, _)| secret),
    };
    read.map_err(|message| source.place.error(&source.file, message).to_string())
}

fn read_file(path: &str, places: &SecretPlaces<'_>) -> Result<(Secret, PathBuf, Option<FileStamp>), String> {
    let path = places.directory.join(path);
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
    let size = file.take(SECRET_LIMIT as u64 + 1).read_to_string(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => problem("is not text in UTF-8".to_owned()),
        _ => problem(format!("cannot be read: {error}")),
    })?;
    if size > SECRET_LIMIT {
        return Err(problem("is larger than 64 KiB".to_owned()));
    }
    let secret = Secret::of_text(&text).map_err(|what| problem(what.to_owned()))?;
    Ok((secret, path, stamp))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::server::fleet::load::load;

    fn read(directory: &Path) -> Result<AccessSecrets, String> {
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
        let commands = SecretCommands::default();
        read_secrets(&fleet, &SecretPlaces::of(&fleet, directory, &commands), host)
            .map(|read| read.secrets.own)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn one_line_end_is_not_part_of_a_secret() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("secrets")).expect("made");
        for (content, secret) in [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), (" s \n", " s ")] {
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
            (b"a notice\nhunter2\n".to_vec(), "more than one line"),
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
