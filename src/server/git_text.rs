//! Pure. git's own files and its answers as text: where a work tree's files lie, which commit is checked out, what `git status`
//! says of the fleet's files, and whether a lock still counts. Does not read files or run git.

use std::time::Duration;

use super::fleet::load::{Texts, is_fleet_file};

/// A lock that nobody has touched for this long is left over from a git that was killed.
pub const STALE: Duration = Duration::from_secs(600);

/// Whether an `index.lock` is left over. `age` is by its time of modification, `None` where that is in the future; `watched` is
/// how long it has been seen unchanged, which holds also where a clock was set.
pub fn is_stale(age: Option<Duration>, watched: Duration) -> bool {
    age.is_some_and(|age| age >= STALE) || watched >= STALE
}

/// What a `.git` that is a file says: the path of the git directory, which may be relative to the file's own directory.
pub fn git_directory(text: &str) -> Option<&str> {
    text.strip_prefix("gitdir:").map(str::trim).filter(|path| !path.is_empty())
}

/// What `HEAD` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head<'a> {
    /// A branch, by its full name: `refs/heads/main`.
    Reference(&'a str),
    /// Nothing but a commit.
    Detached(&'a str),
}

/// Reads a `HEAD`. A reference that would lead out of git's directory is none.
pub fn head(text: &str) -> Option<Head<'_>> {
    let text = text.trim();
    match text.strip_prefix("ref:").map(str::trim) {
        Some(reference) => {
            let parts_are_names = reference.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
            (reference.starts_with("refs/") && parts_are_names).then_some(Head::Reference(reference))
        }
        None => commit(text).map(Head::Detached),
    }
}

/// A whole commit id: SHA-1 or SHA-256 in hex.
pub fn commit(text: &str) -> Option<&str> {
    let text = text.trim();
    (matches!(text.len(), 40 | 64) && is_hex(text)).then_some(text)
}

/// What a `.commit` file says, where there is no git beside it: one line of at least seven hex digits.
pub fn told_commit(text: &str) -> Option<&str> {
    let text = text.trim();
    ((7..=64).contains(&text.len()) && is_hex(text)).then_some(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The commit of a reference by the text of `packed-refs`.
pub fn packed<'a>(text: &'a str, reference: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (id, name) = line.split_once(' ')?;
        (name == reference).then(|| commit(id)).flatten()
    })
}

/// How the fleet's files relate to the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They are those of the commit.
    Clean,
    /// At least one is not.
    Dirty,
    /// The work tree around them does not know any of them: its commit says nothing about them.
    Foreign,
}

/// Reads `git status --porcelain -z --ignored`. `prefix` is the directory within the work tree, with a `/` at its end, or empty.
/// Files that are not part of the fleet do not count.
pub fn standing(status: &str, prefix: &str, files: &Texts) -> Standing {
    let mut unknown = 0_usize;
    let mut is_dirty = false;
    for entry in status.split('\0') {
        let Some((kind, path)) = entry.split_at_checked(3) else { continue };
        let covered = match path.strip_prefix(prefix) {
            // A whole directory, of which the fleet's is one or all: `prefix` is in it.
            None if path.ends_with('/') && prefix.starts_with(path) => files.len(),
            None => continue,
            Some("") => files.len(),
            Some(below) if below.ends_with('/') => {
                files.range(below.to_owned()..).take_while(|(file, _)| file.starts_with(below)).count()
            }
            Some(file) => usize::from(files.contains_key(file)),
        };
        if matches!(kind, "?? " | "!! ") {
            unknown += covered;
        } else {
            // Also a file that is gone, and a link to a directory that became something else.
            let below = path.strip_prefix(prefix).unwrap_or_default();
            let is_link_to_some = files
                .range(format!("{below}/")..)
                .next()
                .is_some_and(|(file, _)| file.strip_prefix(below).is_some_and(|rest| rest.starts_with('/')));
            is_dirty |= is_fleet_file(below) || is_link_to_some;
        }
    }
    match (unknown, is_dirty) {
        (unknown, false) if unknown > 0 && unknown >= files.len() => Standing::Foreign,
        (0, false) => Standing::Clean,
        _ => Standing::Dirty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_lock_counts_for_ten_minutes() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        assert!(!is_stale(Some(minutes(9)), Duration::ZERO));
        assert!(is_stale(Some(minutes(10)), Duration::ZERO));
        assert!(!is_stale(None, minutes(9)), "a time in the future tells nothing");
        assert!(is_stale(None, minutes(10)), "but we have looked on for long enough");
    }

    #[test]
    fn heads_and_references_are_read_as_git_writes_them() {
        assert_eq!(head("ref: refs/heads/a/b\n"), Some(Head::Reference("refs/heads/a/b")));
        assert_eq!(head(&format!("{ID}\n")), Some(Head::Detached(ID)));
        for bad in
            ["", "ref: refs/../../etc/passwd", "ref: refs/heads/.invalid", "ref: /etc/passwd", "ref: refs//x", "0123"]
        {
            assert_eq!(head(bad), None, "{bad}");
        }
        assert_eq!(git_directory("gitdir: ../.git/worktrees/x\n"), Some("../.git/worktrees/x"));
        assert_eq!((git_directory("gitdir:\n"), git_directory("else")), (None, None));
        let text =
            format!("# pack-refs with: peeled\n{ID} refs/heads/xmain\n{} refs/heads/main\n^{ID}\n", "f".repeat(40));
        assert_eq!(packed(&text, "refs/heads/main"), Some("f".repeat(40).as_str()));
        assert_eq!(packed(&text, "refs/heads/other"), None);
        assert_eq!(
            (told_commit("abc1234\n"), told_commit("abc12\n"), told_commit("main\n")),
            (Some("abc1234"), None, None)
        );
    }

    #[test]
    fn only_files_of_the_fleet_make_it_dirty() {
        use Standing::*;
        let files: Texts =
            ["hosts/a.toml", "hosts/b.toml", "server.toml"].map(|name| (name.to_owned(), "".into())).into();
        for (status, prefix, expected) in [
            ("", "", Clean),
            (" M README.md\0?? notes.txt\0!! target/\0", "", Clean),
            (" M hosts/a.toml\0", "", Dirty),
            (" M hosts/a.toml\0", "config/", Clean),
            (" M config/hosts/a.toml\0", "config/", Dirty),
            (" D hosts/gone.toml\0", "", Dirty),
            ("D  hosts/.a.toml\0", "", Clean),
            ("?? hosts/a.toml\0", "", Dirty),
            ("!! hosts/a.toml\0", "", Dirty),
            ("?? hosts/\0", "", Dirty),
            (" T hosts\0", "", Dirty),
            (" T host\0", "", Clean),
            ("?? hosts/\0?? server.toml\0", "", Foreign),
            ("?? etc/config/\0", "etc/config/", Foreign),
            ("!! etc/\0", "etc/config/", Foreign),
            ("!! etcetera/\0", "etc/config/", Clean),
            ("?? hosts/\0?? server.toml\0D  groups/x.toml\0", "", Dirty),
        ] {
            assert_eq!(standing(status, prefix, &files), expected, "{status:?} {prefix}");
        }
    }
}
