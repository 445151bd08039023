//! Pure. restic's repository URLs as far as the agent must understand them: which backend, where credentials go, what makes
//! restic run another program, and whether a pattern of agent.toml names it. Does not reach any repository.

use data_encoding::HEXUPPER;
use restic_manager::wildcard::matches;

/// Where restic keeps a repository, by the URL's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Local,
    Rest,
    S3,
    B2,
    Azure,
    Swift,
    GoogleStorage,
    Sftp,
    Rclone,
}

impl Backend {
    pub(crate) fn of(url: &str) -> Self {
        match url.split_once(':').map(|(prefix, _)| prefix) {
            Some("rest") => Self::Rest,
            Some("s3") => Self::S3,
            Some("b2") => Self::B2,
            Some("azure") => Self::Azure,
            Some("swift") => Self::Swift,
            Some("gs") => Self::GoogleStorage,
            Some("sftp") => Self::Sftp,
            Some("rclone") => Self::Rclone,
            _ => Self::Local,
        }
    }
}

/// Splits a URL around its credentials: what is before them, the credentials, what is after their '@'. As Go's URL parser
/// does, the last '@' before the path ends them.
fn split_credentials(url: &str) -> Option<(&str, &str, &str)> {
    let start = url.find("://")? + 3;
    let length = url[start..].find(['/', '?', '#']).unwrap_or(url.len() - start);
    let at = url[start..start + length].rfind('@')?;
    Some((&url[..start], &url[start..start + at], &url[start + at + 1..]))
}

/// The URL as it may be compared with a pattern. ssh's user is part of the place, as it is not a secret and another user
/// sees other files.
pub(crate) fn without_credentials(url: &str) -> String {
    match split_credentials(url) {
        Some((before, _, after)) if Backend::of(url) != Backend::Sftp => format!("{before}{after}"),
        _ => url.to_owned(),
    }
}

/// A web URL with these credentials in place of any it has, percent-encoded.
pub(crate) fn with_credentials(url: &str, username: &str, password: Option<&str>) -> Result<String, String> {
    let (before, after) = match split_credentials(url) {
        Some((before, _, after)) => (before, after),
        None => {
            let start = url
                .find("://")
                .ok_or("the repository's URL has no place for credentials: write rest:https://host/path")?;
            url.split_at(start + 3)
        }
    };
    let password = password.map(|password| format!(":{}", percent_encoded(password))).unwrap_or_default();
    Ok(format!("{before}{}{password}@{after}", percent_encoded(username)))
}

/// Everything but RFC 3986's unreserved characters is encoded.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&HEXUPPER.encode(&[byte]));
        }
    }
    encoded
}

/// Why the URL may not be given to restic at all; `None`: it may.
pub(crate) fn hazard(url: &str) -> Option<String> {
    if url.is_empty() {
        return Some("there is no repository: the server has sent no repo_url".to_owned());
    }
    if url.contains(['\0', '\n', '\r']) {
        return Some("the repository's URL has a control character".to_owned());
    }
    // ssh would take such a host or user for an option, and its options run programs.
    let place = url.strip_prefix("sftp:").map(|place| place.trim_start_matches('/'));
    let is_option = |place: &str| place.starts_with('-') || place.contains("@-");
    if place.is_some_and(is_option) {
        return Some("the repository's host or user begins with '-', which ssh would take for an option".to_owned());
    }
    None
}

/// Whether a pattern names the URL: `*` stands for any run of characters, everything else for itself; credentials on either
/// side are left out of account. Rules that a bare `*` does not lift:
/// rclone runs a program with settings from the URL, so a pattern must begin with `rclone:`;
/// and no pattern but `*` itself names a URL with `..` in it, because what it then means is not what it looks like.
pub(crate) fn pattern_names(pattern: &str, url: &str) -> bool {
    let url = without_credentials(url);
    if Backend::of(&url) == Backend::Rclone && !pattern.starts_with("rclone:") {
        return false;
    }
    if pattern == "*" {
        return true;
    }
    let decoded = url.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\");
    !decoded.split(['/', '\\', ':']).any(|part| part == "..") && matches(&without_credentials(pattern), &url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_into_the_url_and_replace_others() {
        for (url, user, password, expected) in [
            (
                "rest:https://h:8000/a/",
                "alice",
                Some("p@ss/w:ö%"),
                "rest:https://alice:p%40ss%2Fw%3A%C3%B6%25@h:8000/a/",
            ),
            ("rest:https://old:pw@h/a@b/", "new", Some("x"), "rest:https://new:x@h/a@b/"),
            ("rest:http://h", "a b", None, "rest:http://a%20b@h"),
        ] {
            assert_eq!(with_credentials(url, user, password), Ok(expected.to_owned()));
        }
        assert!(with_credentials("rest:h/a", "alice", None).is_err());
    }

    #[test]
    fn patterns_name_places_and_not_credentials() {
        for (pattern, url, named) in [
            ("*", "/srv/repo", true),
            ("rest:https://backup.example.org/*", "rest:https://backup.example.org/web-1/", true),
            ("rest:https://backup.example.org/*", "rest:https://alice:pw@backup.example.org/web-1/", true),
            ("rest:https://backup.example.org/*", "rest:https://backup.example.org.evil.org/web-1/", false),
            ("rest:https://backup.example.org/*", "rest:https://evil.org/rest:https://backup.example.org/", false),
            ("rest:https://backup.example.org/*", "rest:https://backup.example.org@evil.org/web-1/", false),
            ("rest:https://backup.example.org/*", "rest:https://evil.org/@backup.example.org/", false),
            ("rest:https://backup.example.org/*", "rest:https://evil.org?@backup.example.org/", false),
            ("rest:https://backup.example.org/*", "rest:https://evil.org#@backup.example.org/", false),
            ("sftp:backup@nas:*", "sftp:backup@nas:/srv", true),
            ("sftp:backup@nas:*", "sftp:root@nas:/srv", false),
            ("sftp://backup@nas/*", "sftp://root@nas/srv", false),
            ("/srv/*/repo", "/srv/a/b/repo", true),
            ("/srv/*", "/srv/../etc", false),
            ("rest:https://h/a/*", "rest:https://h/a/%2E%2e/b", false),
            ("rest:https://h/a/*", "rest:https://h/a/..%2fb", false),
            ("*", "/srv/../etc", true),
            ("*", "rclone:remote:x", false),
            ("rclone:remote:*", "rclone:remote:x", true),
            ("rclone:remote:*", "rclone::sftp,ssh=evil:x", false),
            ("", "/srv", false),
        ] {
            assert_eq!(pattern_names(pattern, url), named, "{pattern} names {url}");
        }
    }

    #[test]
    fn a_url_that_makes_ssh_take_options_is_a_hazard() {
        for url in [
            "",
            "/srv/a\nb",
            "sftp:-oProxyCommand=x:/srv",
            "sftp://-oProxyCommand=x/srv",
            "sftp:a@-oProxyCommand=x:/srv",
        ] {
            assert!(hazard(url).is_some(), "{url}");
        }
        for url in ["/srv/-repo", "sftp:backup@nas:/srv/-x", "rest:https://h/", "s3:s3.amazonaws.com/bucket"] {
            assert_eq!(hazard(url), None, "{url}");
        }
    }
}
