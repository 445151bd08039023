//! Pure. Absolute paths on the host, compared by their components and never as text, so that `/home` has nothing to do with
//! `/homestead`. Lexical: symbolic links are not followed, which needs a look at the disk.

use std::fmt;

/// An absolute path without `.`, `..` or doubled separators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPath {
    root: Root,
    components: Vec<String>,
}

/// Windows paths ignore case, so what is kept of them is in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    Unix,
    Drive(char),
    Share { server: String, share: String },
}

/// Why a text is no path that a job may name. `Display` says it to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvalidPath {
    Empty,
    Nul,
    NotAbsolute,
    ParentFolder,
    /// A Windows path to a device, a stream of a file, or with a name that Windows would change.
    Strange,
}

impl fmt::Display for InvalidPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Nul => "has a NUL character",
            Self::NotAbsolute => "is not absolute (write /folder or C:\\folder)",
            Self::ParentFolder => "has a '..' in it",
            Self::Strange => "is a Windows path with a device, a stream, or a name that ends in a dot or space",
        })
    }
}

impl HostPath {
    /// Reads `/a/b`, `C:\a\b`, `C:/a/b` or `\\server\share\a`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if text.contains('\0') {
            return Err(InvalidPath::Nul);
        }
        if text.split(is_separator).any(|part| part == "..") {
            return Err(InvalidPath::ParentFolder);
        }
        let mut characters = text.chars();
        let (first, second, third) = (characters.next(), characters.next(), characters.next());
        match (first, second, third) {
            // Windows takes either stroke for a share's; elsewhere //a is /a.
            (Some('/'), second, _) if !(cfg!(windows) && second.is_some_and(is_separator)) => {
                let named = |part: &&str| !part.is_empty() && *part != ".";
                let components = text.split('/').filter(named).map(str::to_owned).collect();
                Ok(Self { root: Root::Unix, components })
            }
            (Some(drive), Some(':'), Some('/' | '\\')) if drive.is_ascii_alphabetic() => {
                Self::windows(Root::Drive(drive.to_ascii_lowercase()), text[3..].split(is_separator))
            }
            (Some(first), Some(second), _)
                if (first, second) == ('\\', '\\') || cfg!(windows) && is_separator(first) && is_separator(second) =>
            {
                let mut parts = text[2..].split(is_separator);
                let mut name = || parts.next().filter(|part| !part.is_empty() && !matches!(*part, "?" | "."));
                let (Some(server), Some(share)) = (name(), name()) else { return Err(InvalidPath::Strange) };
                let root = Root::Share { server: server.to_lowercase(), share: share.to_lowercase() };
                Self::windows(root, parts)
            }
            _ => Err(InvalidPath::NotAbsolute),
        }
    }

    fn windows<'a>(root: Root, parts: impl Iterator<Item = &'a str>) -> Result<Self, InvalidPath> {
        let mut components = Vec::new();
        for part in parts.filter(|part| !part.is_empty() && *part != ".") {
            // Windows drops such ends: "a. " is "a" there, and ".. " would be "..".
            if part.contains(':') || part.ends_with(['.', ' ']) {
                return Err(InvalidPath::Strange);
            }
            components.push(part.to_lowercase());
        }
        Ok(Self { root, components })
    }

    /// Whether this is `folder` or below it. Everything is below `/`, Windows' drives too.
    pub(crate) fn is_within(&self, folder: &Self) -> bool {
        if folder.root == Root::Unix && folder.components.is_empty() {
            return true;
        }
        self.root == folder.root && self.components.starts_with(&folder.components)
    }
}

fn is_separator(character: char) -> bool {
    matches!(character, '/' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> HostPath {
        HostPath::parse(text).expect(text)
    }

    #[test]
    fn a_folder_holds_itself_and_what_is_below_and_no_more() {
        for (inner, folder, within) in [
            ("/home", "/home", true),
            ("/home/", "/home", true),
            ("/home/alice", "/home/", true),
            ("//home///alice/.", "/home", true),
            ("/homestead", "/home", false),
            ("/Home", "/home", false),
            ("/", "/home", false),
            ("/anything", "/", true),
            ("C:\\data", "/", true),
            ("C:\\Data\\x", "c:/data", true),
            ("C:\\database", "C:\\data", false),
            ("D:\\data", "C:\\data", false),
            ("C:/", "C:\\data", false),
            ("\\\\NAS\\Share\\a", "\\\\nas\\share", true),
            ("\\\\nas\\other\\a", "\\\\nas\\share", false),
            ("/data", "C:\\", false),
        ] {
            // There it is a share.
            if cfg!(windows) && inner.starts_with("//") {
                continue;
            }
            assert_eq!(path(inner).is_within(&path(folder)), within, "{inner} in {folder}");
        }
    }

    #[test]
    fn what_is_not_a_plain_absolute_path_is_refused() {
        for (text, error) in [
            ("", InvalidPath::Empty),
            ("/a\0b", InvalidPath::Nul),
            ("etc", InvalidPath::NotAbsolute),
            ("./etc", InvalidPath::NotAbsolute),
            ("-rf", InvalidPath::NotAbsolute),
            ("C:", InvalidPath::NotAbsolute),
            ("C:data", InvalidPath::NotAbsolute),
            ("é:\\x", InvalidPath::NotAbsolute),
            ("\\data", InvalidPath::NotAbsolute),
            ("/a/../b", InvalidPath::ParentFolder),
            ("/a/..", InvalidPath::ParentFolder),
            ("/a\\..\\b", InvalidPath::ParentFolder),
            ("C:\\a\\..\\b", InvalidPath::ParentFolder),
            ("\\\\?\\C:\\a", InvalidPath::Strange),
            ("\\\\.\\pipe\\a", InvalidPath::Strange),
            ("\\\\nas", InvalidPath::Strange),
            ("C:\\a\\.. \\b", InvalidPath::Strange),
            ("C:\\a\\...\\b", InvalidPath::Strange),
            ("C:\\a:stream", InvalidPath::Strange),
        ] {
            assert_eq!(HostPath::parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        /// The oracle is the standard library's own idea of a path, after resolving `..` by hand.
        #[test]
        fn no_text_leads_out_of_its_folder(parts in prop::collection::vec("\\.\\.|\\.|[a-c]{1,2}|", 0..8)) {
            let text = format!("/a/b/{}", parts.join("/"));
            let mut resolved = Vec::new();
            for part in std::path::Path::new(&text).components() {
                match part {
                    std::path::Component::Normal(name) => resolved.push(name),
                    std::path::Component::ParentDir => { resolved.pop(); }
                    _ => {}
                }
            }
            let really_within = resolved.len() >= 2 && resolved[0] == "a" && resolved[1] == "b";
            if let Ok(parsed) = HostPath::parse(&text) {
                prop_assert!(really_within);
                prop_assert!(parsed.is_within(&path("/a/b")));
            } else {
                prop_assert!(parts.iter().any(|part| part == ".."));
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            let _ = HostPath::parse(&text);
        }
    }
}
