//! Edge. Whether others than an operator may read or write a file that says who the operator is: the rules of the agent's own files,
//! in the same words. Does not read it. On Windows a user's own folders are the user's own, and nothing is looked at.

use std::path::Path;

/// What a file is to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A token: who reads it is the operator to the server.
    Token,
    /// Which server is asked with which token: who writes it has tokens sent to a server of theirs.
    Settings,
}

/// What is wrong with a file's rights.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Others may write it, or it is somebody else's.
    ToWriters(String),
    ToReaders(String),
}

impl Opened {
    pub(super) fn words(&self) -> &str {
        match self {
            Self::ToWriters(text) | Self::ToReaders(text) => text,
        }
    }
}

/// The error is what to change. A pipe, such as a shell's `<(...)`, is in no directory, and a missing file no business of this one.
#[cfg(unix)]
pub(super) fn check_rights(path: &Path, holds: Holds) -> Result<(), Opened> {
    use std::os::unix::fs::MetadataExt;
    let Some(metadata) = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file) else { return Ok(()) };
    let shown = path.display();
    let remedy = if holds == Holds::Token { "chmod 600" } else { "chmod go-w" };
    let text = || format!("{shown} is open to others than its owner: {remedy} {shown}");
    if metadata.mode() & 0o022 != 0 {
        return Err(Opened::ToWriters(text()));
    }
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    // Root may use everybody's, as those who look after a server do.
    if owner != own && owner != 0 && own != 0 {
        return Err(Opened::ToWriters(format!(
            "{shown} belongs to user {owner}, and you are user {own}: chown {own} {shown}"
        )));
    }
    if holds == Holds::Token && metadata.mode() & 0o044 != 0 {
        return Err(Opened::ToReaders(text()));
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn check_rights(_: &Path, _: Holds) -> Result<(), Opened> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_may_read_a_token_or_write_what_says_where_it_is_sent() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        assert_eq!(check_rights(&path, Holds::Token), Ok(()), "whoever reads it says that it is missing");
        fs::write(&path, "t").expect("written");
        let rights = |mode, holds| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            match check_rights(&path, holds) {
                Ok(()) => "",
                Err(Opened::ToReaders(text)) if text.ends_with(&format!(": chmod 600 {}", path.display())) => "readers",
                Err(Opened::ToWriters(text)) if text.contains("is open to others than its owner: chmod ") => "writers",
                Err(other) => unreachable!("{other:?}"),
            }
        };
        for (mode, token, settings) in [
            (0o600, "", ""),
            (0o400, "", ""),
            (0o640, "readers", ""),
            (0o644, "readers", ""),
            (0o660, "writers", "writers"),
            (0o602, "writers", "writers"),
        ] {
            assert_eq!((rights(mode, Holds::Token), rights(mode, Holds::Settings)), (token, settings), "{mode:o}");
        }
    }
}
