//! Edge. Reads a configuration directory into texts for `load`. Follows links, of the directory itself and within it, as
//! deployments by link swap have them; bounded in files, sizes and depth. Does not understand what it reads, and does
//! not know whether the tree is being written at the moment: the watcher does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Fleet;
use super::load::{Texts, has_errors, is_fleet_file, load_again};
use super::remembered::Remembered;
use crate::file_stamp::{self, FileStamp};
use crate::parallel;
use crate::problem::Problem;
use crate::toml_reader::Place;

/// The largest file, in bytes.
pub const FILE_LIMIT: u64 = 1024 * 1024;
/// Files in all, of any kind.
pub const FILES_LIMIT: usize = 100_000;
/// Levels of directories; a link to a directory above would go on for ever.
const DEPTH_LIMIT: usize = 8;

/// What was read before and need not be read again as long as its file has the same stamp.
#[derive(Debug, Default)]
pub struct ReadBefore {
    /// By path relative to the directory.
    files: HashMap<String, (FileStamp, Arc<str>)>,
}

/// All files that are part of the fleet, by their path relative to `directory`, with `/`. What cannot be read is a
/// problem, and then the texts are incomplete: such a tree must not be used. `before` becomes what this reading leaves.
pub fn read_tree(directory: &Path, before: &mut ReadBefore) -> (Texts, Vec<Problem>) {
    let mut tree = Tree { found: Vec::new(), problems: Vec::new(), seen: 0 };
    tree.read_directory(directory, "", 0);
    let read = parallel::map(&tree.found, |(path, relative)| read_unless_known(path, before.files.get(relative)));
    let (mut files, mut now) = (Texts::new(), ReadBefore::default());
    for ((_, relative), read) in std::mem::take(&mut tree.found).into_iter().zip(read) {
        match read {
            Ok((text, stamp)) => {
                files.insert(relative.clone(), Arc::clone(&text));
                now.files.extend(stamp.map(|stamp| (relative, (stamp, text))));
            }
            Err(message) => tree.error(&relative, message),
        }
    }
    tree.problems.sort();
    *before = now;
    (files, tree.problems)
}

/// Reads and checks a directory. Where something could not be read, only that is told: what else looks wrong may be
/// missing because of it.
pub fn load_directory(directory: &Path) -> (Fleet, Vec<Problem>) {
    let (files, unread) = read_tree(directory, &mut ReadBefore::default());
    let (fleet, problems) = load_again(&files, &mut Remembered::default());
    (fleet, with_unread(problems, unread))
}

/// What is wrong in all: where something could not be read, only that, since the rest may follow from it.
pub fn with_unread(mut problems: Vec<Problem>, mut unread: Vec<Problem>) -> Vec<Problem> {
    if has_errors(&unread) {
        return unread;
    }
    problems.append(&mut unread);
    problems.sort();
    problems
}

struct Tree {
    /// Paths, and what they are relative to the directory.
    found: Vec<(PathBuf, String)>,
    problems: Vec<Problem>,
    /// Entries met so far.
    seen: usize,
}

impl Tree {
    fn read_directory(&mut self, directory: &Path, relative: &str, depth: usize) {
        if depth > DEPTH_LIMIT {
            self.error(relative, format!("is more than {DEPTH_LIMIT} directories deep: does a link lead back up?"));
            return;
        }
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                let shown = if relative.is_empty() { directory.to_string_lossy() } else { relative.into() };
                self.error(&shown, format!("the directory cannot be read: {error}"));
                return;
            }
        };
        for entry in entries {
            self.seen += 1;
            if self.seen > FILES_LIMIT {
                if self.seen == FILES_LIMIT + 1 {
                    self.error(relative, format!("the configuration has more than {FILES_LIMIT} files"));
                }
                return;
            }
            match entry {
                Ok(entry) => self.read_entry(&entry, relative, depth),
                Err(error) => self.error(relative, format!("the directory cannot be read: {error}")),
            }
        }
    }

    fn read_entry(&mut self, entry: &fs::DirEntry, parent: &str, depth: usize) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            return;
        }
        let relative = if parent.is_empty() { name.into_owned() } else { format!("{parent}/{name}") };
        let is_file_of_fleet = is_fleet_file(&relative);
        let kind = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => fs::metadata(entry.path()).map(|found| found.file_type()),
            kind => kind,
        };
        match kind {
            Ok(kind) if kind.is_dir() => self.read_directory(&entry.path(), &relative, depth + 1),
            Ok(kind) if kind.is_file() && is_file_of_fleet => self.found.push((entry.path(), relative)),
            // Opening a pipe or a device could wait for ever.
            Ok(kind) if !kind.is_file() && is_file_of_fleet => self.error(&relative, "is not a file".to_owned()),
            Err(error) if is_file_of_fleet => self.error(&relative, format!("cannot be read: {error}")),
            Ok(kind) if kind.is_file() && looks_mistyped(parent, &relative) => {
                let message = "is not read, because its name does not end in .toml";
                self.problems.push(Place::FILE.warning(&relative, message));
            }
            _ => {}
        }
    }

    fn error(&mut self, file: &str, message: String) {
        self.problems.push(Place::FILE.error(file, message));
    }
}

/// Whether a file that is no part of the fleet may be meant to be: a host whose file is not read is not backed up.
fn looks_mistyped(parent: &str, relative: &str) -> bool {
    let name = relative.rsplit('/').next().unwrap_or(relative);
    let is_of_fleet = matches!(parent, "hosts" | "groups" | "repositories");
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    is_of_fleet
        && (!name.contains('.')
            || matches!(ending.as_str(), "toml" | "tml" | "tom" | "tomll" | "yaml" | "yml" | "json"))
}

/// A file's text, and its stamp if it has one already.
type Text = (Arc<str>, Option<FileStamp>);

fn read_unless_known(path: &Path, known: Option<&(FileStamp, Arc<str>)>) -> Result<Text, String> {
    match known {
        Some((stamp, text)) if file_stamp::is_still(path, stamp) => Ok((Arc::clone(text), Some(stamp.clone()))),
        _ => read_text(path),
    }
}

fn read_text(path: &Path) -> Result<Text, String> {
    let unread = |error: std::io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    let stamp = file_stamp::before_reading(&metadata).map_err(unread)?;
    // One byte more tells the end without another growth.
    let expected = usize::try_from(metadata.len().min(FILE_LIMIT) + 1).unwrap_or(0);
    let mut bytes = Vec::with_capacity(expected);
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(unread)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_LIMIT {
        return Err("is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map(|text| (text.into(), stamp)).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is not text in UTF-8: see line {line}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_and_problems(directory: &Path) -> (Vec<String>, Vec<String>) {
        let (files, problems) = read_tree(directory, &mut ReadBefore::default());
        (files.into_keys().collect(), problems.iter().map(ToString::to_string).collect())
    }

    fn write(directory: &Path, name: &str, content: &[u8]) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    #[test]
    fn hidden_and_other_files_are_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["server.toml", "README.md", ".git/x.toml", "hosts/a.toml", "hosts/.a.toml.swp", "hosts/.b.toml"] {
            write(directory.path(), name, b"");
        }
        assert_eq!(names_and_problems(directory.path()), (vec!["hosts/a.toml".into(), "server.toml".into()], vec![]));
    }

    #[test]
    fn a_file_whose_name_is_mistyped_is_told_and_others_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["hosts/a.TOML", "hosts/web-8", "hosts/README.md", "hosts/a.toml~", "groups/x.yaml", "notes"] {
            write(directory.path(), name, b"");
        }
        let (_, problems) = names_and_problems(directory.path());
        let message = "warning: is not read, because its name does not end in .toml";
        assert_eq!(problems, ["groups/x.yaml", "hosts/a.TOML", "hosts/web-8"].map(|name| format!("{name}: {message}")));
        let (_, problems) = load_directory(directory.path());
        assert!(problems.len() > 3, "the rest is told too: {problems:?}");
    }

    #[test]
    fn what_cannot_be_read_is_a_problem() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), "hosts/a.toml", b"a = 1\nb = \"\xff\"");
        write(directory.path(), "hosts/b.toml", &vec![b'#'; 1024 * 1024 + 1]);
        let (names, problems) = names_and_problems(directory.path());
        assert_eq!(names, [""; 0]);
        assert_eq!(
            problems,
            ["hosts/a.toml: error: is not text in UTF-8: see line 2", "hosts/b.toml: error: is larger than 1 MiB"]
        );
        let (_, problems) = names_and_problems(&directory.path().join("absent"));
        assert!(problems[0].contains("the directory cannot be read"), "{problems:?}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_end() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().expect("a directory");
        // As Kubernetes mounts a ConfigMap.
        write(directory.path(), "..2026/server.toml", b"# here\n");
        write(directory.path(), "..2026/hosts/a.toml", b"");
        symlink("..2026", directory.path().join("..data")).expect("linked");
        symlink("..data/server.toml", directory.path().join("server.toml")).expect("linked");
        symlink("..data/hosts", directory.path().join("hosts")).expect("linked");
        let current = tempfile::tempdir().expect("a directory");
        symlink(directory.path(), current.path().join("current")).expect("linked");
        let (names, problems) = names_and_problems(&current.path().join("current"));
        assert_eq!((names, problems), (vec!["hosts/a.toml".to_owned(), "server.toml".to_owned()], vec![]));

        symlink(".", directory.path().join("loop")).expect("linked");
        symlink("nowhere", directory.path().join("agent.toml")).expect("linked");
        let (_, problems) = names_and_problems(directory.path());
        assert!(problems.iter().any(|p| p.contains("does a link lead back up?")), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("agent.toml: error: cannot be read")), "{problems:?}");
    }
}
