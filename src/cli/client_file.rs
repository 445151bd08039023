//! Edge. `client.toml`: where an operator keeps the server's address and token, so that no command has to name them. Reads it, and
//! says in which line it is wrong. Does not write it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::private_file::{Holds, check_rights};
use crate::file_error::{FileError, chain};
use crate::protocol::command::Secret;
use crate::toml_reader::{Place, TableReader, read_document};

/// What the file says; paths are whole.
#[derive(Debug, Default)]
pub(super) struct ClientFile {
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) url: Option<String>,
    pub(super) token: Option<Secret>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
}

/// Where the file is looked for; `None`: this user has no home.
pub(super) fn default_path(environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        set("APPDATA")
    } else {
        set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))
    };
    Some(base?.join("restic-manager").join("client.toml"))
}

/// Reads the file; one that is not there says nothing. The error names the lines and what to change.
pub(super) fn read(path: &Path, home: Option<&Path>) -> Result<ClientFile, String> {
    let text = match fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(ClientFile::default());
        }
        text => text.map_err(|error| chain(&FileError::of("read", path)(error)))?,
    };
    check_rights(path, Holds::Settings).map_err(|opened| opened.words().to_owned())?;
    let is_open = check_rights(path, Holds::Token).is_err();
    parse(path, &text, home, is_open)
}

fn parse(path: &Path, text: &str, home: Option<&Path>, is_open: bool) -> Result<ClientFile, String> {
    let mut problems = Vec::new();
    let name = path.display().to_string();
    let (file, _) = read_document(&name, text, &mut problems, |table| {
        let url = table.string("url").map(|url| url.value);
        let place = table.place_of("token").unwrap_or(Place::FILE);
        let token = table.string("token").map(|token| Secret::new(token.value));
        if token.is_some() && is_open {
            table.error(place, format!("others can read this file, which holds a token: chmod 600 {name}"));
        }
        let token_file = whole_path(table, "token_file", path, home);
        if token.is_some() && token_file.is_some() {
            table.error(place, "token and token_file: keep one of them");
        }
        let ca_file = whole_path(table, "ca_file", path, home);
        ClientFile { path: path.to_owned(), url, token, token_file, ca_file }
    });
    if problems.is_empty() {
        return Ok(file);
    }
    Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// A path; one that is not whole begins where the file is, or at home.
fn whole_path<'d>(table: &mut TableReader<'d>, key: &'d str, file: &Path, home: Option<&Path>) -> Option<PathBuf> {
    let text = table.string(key)?.value;
    let at_home = text.strip_prefix("~/").zip(home).map(|(rest, home)| home.join(rest));
    Some(at_home.unwrap_or_else(|| file.parent().unwrap_or(Path::new("")).join(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, is_open: bool) -> Result<ClientFile, String> {
        parse(Path::new("/c/client.toml"), text, Some(Path::new("/home/o")), is_open)
    }

    #[test]
    fn paths_begin_where_the_file_is_or_at_home() {
        let file = parsed("url = \"https://b\"\ntoken_file = \"token\"\nca_file = \"~/ca.pem\"\n", true).expect("fine");
        assert_eq!(file.url.as_deref(), Some("https://b"));
        assert_eq!(file.token_file.as_deref(), Some(Path::new("/c/token")));
        assert_eq!(file.ca_file.as_deref(), Some(Path::new("/home/o/ca.pem")));
        let file = parsed("token_file = \"/t\"", false).expect("fine");
        assert_eq!(file.token_file.as_deref(), Some(Path::new("/t")));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_never_with_the_token() {
        for (text, is_open, told) in [
            ("url = \"x\"\ntoken = \"hush-hush\"\n", true, "/c/client.toml:2:9: error: others can read this file"),
            ("token = \"hush-hush\"\ntoken_file = \"t\"\n", false, "/c/client.toml:1:9: error: token and token_file"),
            ("tokn = \"hush-hush\"\n", false, "/c/client.toml:1:1: error: unknown key tokn; did you mean token?"),
            ("url = 7\n", false, "/c/client.toml:1:7: error: url"),
            ("token = \"hush-hush\nurl = ", false, "/c/client.toml:1:"),
        ] {
            let error = parsed(text, is_open).expect_err(text);
            assert!(error.starts_with(told), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        assert_eq!(parsed("token = \"hush-hush\"", false).expect("fine").token.expect("one").reveal(), "hush-hush");
    }

    #[test]
    fn it_is_looked_for_where_a_users_settings_are() {
        let at = |pairs: &'static [(&str, &str)]| {
            let of = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            default_path(of).map(|path| path.to_string_lossy().into_owned())
        };
        if cfg!(unix) {
            assert_eq!(at(&[("HOME", "/h")]).as_deref(), Some("/h/.config/restic-manager/client.toml"));
            let both = at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]);
            assert_eq!(both.as_deref(), Some("/x/restic-manager/client.toml"));
        }
        assert_eq!(at(&[("XDG_CONFIG_HOME", "")]), None);
    }

    #[cfg(unix)]
    #[test]
    fn rights_are_those_of_the_file_and_absence_is_normal() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("client.toml");
        assert!(read(&path, None).expect("nothing").url.is_none());
        fs::write(&path, "token = \"t\"").expect("written");
        for (mode, is_fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(read(&path, None).is_ok(), is_fine, "{mode:o}");
        }
        // Without a token in it others may read it, and never write it: they would say to whom the token is shown.
        fs::write(&path, "token_file = \"t\"").expect("written");
        for (mode, is_fine) in [(0o644, true), (0o664, false), (0o606, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let error = read(&path, None).err().unwrap_or_default();
            assert_eq!(error.is_empty(), is_fine, "{mode:o}");
            assert!(
                is_fine
                    || error.ends_with(&format!(
                        "client.toml is open to others than its owner: chmod go-w {}",
                        path.display()
                    )),
                "{error}"
            );
        }
    }
}
