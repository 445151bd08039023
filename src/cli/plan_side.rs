//! Edge. Where `plan` gets a side from: a directory, a git revision (by the git program, without a checkout), or a running server.
//! Does not check what it gets, and writes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{CliFailure, Credentials};
use crate::printable::printable;
use crate::problem::Problem;
use crate::process::{Exit, Program, run_for_bytes};
use crate::server::fleet::load::{Texts, is_fleet_file};
use crate::server::fleet::read_tree::{FILE_LIMIT, FILES_LIMIT, ReadBefore, read_tree};
use crate::toml_reader::Place;

/// How long git or the server may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The largest fleet that is taken from git or a server, in bytes.
const FLEET_LIMIT: usize = 256 * 1024 * 1024;

/// What `--from` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum From {
    Directory(PathBuf),
    Server(String),
    Revision(String),
}

impl From {
    /// A URL by its "://", a directory by being there; everything else is a revision. A branch with a directory's name is
    /// `heads/NAME`.
    pub(super) fn of(text: Option<&str>) -> Self {
        match text {
            None => Self::Revision("HEAD".to_owned()),
            Some(url) if url.contains("://") => Self::Server(url.to_owned()),
            Some(path) if Path::new(path).is_dir() => Self::Directory(path.into()),
            Some(revision) => Self::Revision(revision.to_owned()),
        }
    }
}

/// One side, as texts.
#[derive(Debug)]
pub struct Side {
    name: String,
    commit: Option<String>,
    version: Option<u64>,
    pub(super) files: Texts,
    /// What could not be read: then the texts are incomplete.
    pub(super) unread: Vec<Problem>,
}

impl Side {
    /// For people: "HEAD (3f2a1c9)".
    pub(super) fn shown(&self) -> String {
        let commit = self.commit.as_ref().map(|commit| commit.chars().take(8).collect::<String>());
        let version = self.version.map(|version| format!("version {version}"));
        let more: Vec<String> = version.into_iter().chain(commit).collect();
        if more.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, more.join(", ")) }
    }

    pub(super) fn json(&self) -> Value {
        json!({"name": self.name, "commit": self.commit, "version": self.version})
    }
}

/// A directory as it is now.
pub(super) fn of_directory(directory: &Path) -> Side {
    let (files, unread) = read_tree(directory, &mut ReadBefore::default());
    Side { name: directory.display().to_string(), commit: None, version: None, files, unread }
}

/// What a running server has adopted.
pub(super) async fn of_server(url: &str, credentials: &Credentials) -> Result<Side, CliFailure> {
    #[derive(Deserialize)]
    struct Files {
        version: Option<u64>,
        commit: Option<String>,
        files: BTreeMap<String, String>,
    }
    let client = credentials.client(url)?.with_answer_limit(FLEET_LIMIT);
    let answer = client.get_json("/v1/config/files", DEADLINE).await;
    let Files { version, commit, files } = answer.map_err(|error| CliFailure::of(&error))?;
    let files = files.into_iter().map(|(path, text)| (path, text.into())).collect();
    Ok(Side { name: url.to_owned(), commit, version, files, unread: Vec::new() })
}

/// The directory as a revision of its repository has it. Before the first commit HEAD, unless it was asked for by name, is
/// nothing at all.
pub(super) async fn of_revision(directory: &Path, revision: &str, given: bool) -> Result<Side, String> {
    if !directory.is_dir() {
        return Err(format!("{} is no directory: name the configuration as the last argument", directory.display()));
    }
    let git = Git { directory: directory.to_owned() };
    let name = revision.to_owned();
    if !given && git.ask(&["rev-parse", "--verify", "--quiet", "HEAD"], Vec::new()).await?.0 != Exit::Code(0) {
        // Says so where there is no repository either.
        git.answer(&["rev-parse", "--git-dir"], Vec::new()).await.map_err(|error| {
            format!("{error} (to compare {} with something else than git's HEAD: --from)", directory.display())
        })?;
        let name = "nothing, as there is no commit yet".to_owned();
        return Ok(Side { name, commit: None, version: None, files: Texts::new(), unread: Vec::new() });
    }
    if revision.starts_with('-') {
        return Err(format!("{revision:?} is no revision"));
    }
    let commit = git.answer(&["rev-parse", "--verify", &format!("{revision}^{{commit}}")], Vec::new()).await;
    let commit = commit.map_err(|error| format!("--from {revision} is no directory, URL or revision: {error}"))?;
    let commit = String::from_utf8_lossy(&commit).trim().to_owned();
    let listed = git.answer(&["ls-tree", "-r", "-z", &commit], Vec::new()).await?;
    let (blobs, mut unread) = blobs(&listed);
    let wanted: String = blobs.iter().map(|blob| format!("{}\n", blob.id)).collect();
    let contents = git.answer(&["cat-file", "--batch"], wanted.into_bytes()).await?;
    let mut files = Texts::new();
    let mut rest = contents.as_slice();
    for Blob { path, .. } in blobs {
        let content = content_of(&mut rest).ok_or("git's answer ended early: is the repository whole (git fsck)?")?;
        match std::str::from_utf8(content) {
            _ if content.len() as u64 > FILE_LIMIT => unread.push(Place::FILE.error(&path, "is larger than 1 MiB")),
            Ok(text) => {
                files.insert(path, Arc::from(text));
            }
            Err(_) => unread.push(Place::FILE.error(&path, "is not text in UTF-8")),
        }
    }
    unread.sort();
    Ok(Side { name, commit: Some(commit), version: None, files, unread })
}

/// A file of the fleet in git.
#[derive(Debug, PartialEq, Eq)]
struct Blob {
    path: String,
    id: String,
}

/// The fleet's files in the output of `git ls-tree -rz`, and what of them cannot be read.
fn blobs(listed: &[u8]) -> (Vec<Blob>, Vec<Problem>) {
    let (mut blobs, mut unread) = (Vec::new(), Vec::new());
    for entry in listed.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        let Some((head, path)) = entry.split_once('\t').filter(|(_, path)| is_fleet_file(path)) else { continue };
        let mut error = |message: &str| unread.push(Place::FILE.error(path, message));
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            // A link's content is where it leads, which may be outside of the repository.
            ["120000", ..] => error("is a link, which is not followed in a git revision: compare directories"),
            [_, "blob", id] => blobs.push(Blob { path: path.to_owned(), id: (*id).to_owned() }),
            _ => {}
        }
    }
    if blobs.len() > FILES_LIMIT {
        unread.push(Place::FILE.error("", format!("the configuration has more than {FILES_LIMIT} files")));
        blobs.clear();
    }
    (blobs, unread)
}

/// The next object of the output of `git cat-file --batch`: "ID blob SIZE", a newline, its bytes, a newline.
fn content_of<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (_, size) = std::str::from_utf8(rest.get(..end)?).ok()?.split_once(" blob ")?;
    let size: usize = size.parse().ok()?;
    let after = rest.get(end + 1..)?;
    let content = after.get(..size)?;
    *rest = after.get(size.checked_add(1)?..)?;
    Some(content)
}

/// The git program, asked about the work tree that a directory is in. `GIT_DIR`, `GIT_WORK_TREE` and the like count for it as they
/// always do, so that hooks can name both.
struct Git {
    directory: PathBuf,
}

impl Git {
    async fn ask(&self, arguments: &[&str], input: Vec<u8>) -> Result<(Exit, Vec<u8>, String), String> {
        let inherited = ["PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "XDG_CONFIG_HOME"];
        let is_for_git = |name: &str| inherited.contains(&name.to_uppercase().as_str()) || name.starts_with("GIT_");
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| is_for_git(name))
            .collect();
        environment.extend(
            [("LC_ALL", "C"), ("GIT_OPTIONAL_LOCKS", "0"), ("GIT_TERMINAL_PROMPT", "0")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let program = Program {
            program: "git".into(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment,
            directory: Some(self.directory.clone()),
        };
        let asked = run_for_bytes(&program, input, FLEET_LIMIT, DEADLINE).await;
        asked.map_err(|error| format!("cannot ask git: {}", crate::file_error::chain(&error)))
    }

    /// What it prints; an error is what it complains of.
    async fn answer(&self, arguments: &[&str], input: Vec<u8>) -> Result<Vec<u8>, String> {
        match self.ask(arguments, input).await? {
            (Exit::Code(0), stdout, _) => Ok(stdout),
            (exit, _, stderr) => {
                let said = stderr.lines().next().map_or_else(|| exit.to_string(), printable);
                Err(format!("git {} in {}: {said}", arguments.first().unwrap_or(&""), self.directory.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_gives_the_fleets_files_and_what_cannot_be_read() {
        let listed = b"100644 blob aa\thosts/a.toml\x00100644 blob bb\tREADME.md\x00120000 blob cc\thosts/l.toml\x00\
            160000 commit ee\thosts/module.toml\x00100644 blob ff\t.git/x.toml\x00";
        let (found, unread) = blobs(listed);
        assert_eq!(found, [Blob { path: "hosts/a.toml".into(), id: "aa".into() }]);
        let unread: Vec<String> = unread.iter().map(ToString::to_string).collect();
        assert!(unread.len() == 1 && unread[0].starts_with("hosts/l.toml: error: is a link"), "{unread:?}");
    }

    #[test]
    fn objects_are_taken_one_after_the_other_and_never_by_half() {
        let mut rest: &[u8] = b"aa blob 3\na\nb\nbb blob 0\n\ncc missing\n";
        assert_eq!(content_of(&mut rest), Some(&b"a\nb"[..]));
        assert_eq!(content_of(&mut rest), Some(&b""[..]));
        assert_eq!(content_of(&mut rest), None);
        for cut in [&b"aa blob 9\nabc"[..], b"aa blob 3\nabc", b"aa blob 18446744073709551615\nabc\n", b""] {
            assert_eq!(content_of(&mut &*cut), None);
        }
    }

    #[test]
    fn where_a_side_is_from_is_told_by_its_form() {
        assert_eq!(From::of(None), From::Revision("HEAD".into()));
        assert_eq!(From::of(Some("origin/main")), From::Revision("origin/main".into()));
        assert_eq!(From::of(Some("https://backup.example.org")), From::Server("https://backup.example.org".into()));
        assert_eq!(From::of(Some("/")), From::Directory("/".into()));
    }
}
