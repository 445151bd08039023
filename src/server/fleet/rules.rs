//! Pure. The rules for single values: paths, tags, URLs, environment, sizes. Each answers what is wrong, as a sentence
//! that says what to write instead. Does not know where a value stands or how values fit together.

use crate::program_version::ProgramVersion;
use crate::toml_reader::shown;

/// The result of a check: the sentence is the problem.
pub(super) type Checked = Result<(), String>;

/// A path to back up: absolute on Linux or Windows.
pub(super) fn path(text: &str) -> Checked {
    no_controls("a path", text)?;
    if is_absolute(text) {
        return Ok(());
    }
    Err(format!("{} is not an absolute path: write for example \"/etc\" or \"C:\\\\Users\"", shown(text)))
}

/// A version of our own programs.
pub(super) fn program_version(text: &str) -> Checked {
    let wrong = |_| format!("{} is no version: write for example \"1.2.0\" or \"1.2.0-rc.1\"", shown(text));
    text.parse::<ProgramVersion>().map(|_| ()).map_err(wrong)
}

/// A few words on one line.
pub(super) fn words(text: &str) -> Checked {
    if !text.is_empty() && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err("is empty or has control characters, such as a line break: leave it out, or write one line".to_owned())
}

/// Names of hosts, with `*`.
pub(super) fn host_pattern(text: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'*');
    if !text.is_empty() && text.bytes().all(ok) {
        return Ok(());
    }
    Err(format!("{} is no host's name with *: write for example \"web-*\"", shown(text)))
}

/// restic takes any pattern; an empty one or one with a line break cannot be meant.
pub(super) fn pattern(text: &str) -> Checked {
    no_controls("a pattern", text)
}

/// A tag that restic keeps as it is and that the agent does not use itself.
pub(super) fn tag(text: &str) -> Checked {
    no_controls("a tag", text)?;
    if text.contains(',') {
        return Err(format!("{} has a comma, which restic takes for two tags: write them as two", shown(text)));
    }
    if text.starts_with("schedule:") || text.starts_with("job:") {
        return Err(format!("{} begins like a tag that the agent sets itself: choose another", shown(text)));
    }
    Ok(())
}

/// A repository's URL: one of restic's backends, `{host}` the only placeholder, no password in it.
/// The problem does not repeat the URL, which may hold one.
pub(super) fn url(text: &str) -> Checked {
    no_controls("url", text).map_err(|_| "url is empty or has control characters".to_owned())?;
    placeholders(text).map_err(|message| format!("url {message}"))?;
    let rest =
        text.split_once("://").map_or_else(|| text.split_once(':').map_or("", |(_, rest)| rest), |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
        return Err("url holds a password: put the user into username and the password into credential".to_owned());
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err("url needs restic's backend in front: write \"rest:https://...\" or \"s3:https://...\"".to_owned());
    }
    const BACKENDS: [&str; 9] = ["local", "sftp", "rest", "s3", "azure", "b2", "gs", "swift", "rclone"];
    match text.split_once(':') {
        Some(("local", path)) if !is_absolute(path) => Err("url is a local path and must be absolute".to_owned()),
        Some((backend, _)) if BACKENDS.contains(&backend) => Ok(()),
        _ if is_absolute(text) => Ok(()),
        Some((backend, _)) if !backend.contains('/') => {
            Err(format!("url begins with {}; restic's backends are {}", shown(backend), BACKENDS.join(", ")))
        }
        _ => Err("url is a local path and must be absolute".to_owned()),
    }
}

/// `{host}` is the only placeholder.
pub(super) fn placeholders(text: &str) -> Checked {
    if text.replace("{host}", "").contains(['{', '}']) {
        return Err("has a placeholder other than {host}".to_owned());
    }
    Ok(())
}

/// A variable of restic's environment: no secret, nothing that the agent sets, nothing that loads programs.
pub(super) fn environment(name: &str, value: &str) -> Checked {
    let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !valid {
        return Err(format!("{} is not a name of an environment variable", shown(name)));
    }
    let upper = name.to_ascii_uppercase();
    const OF_RESTIC: [&str; 3] = ["RESTIC_COMPRESSION", "RESTIC_PACK_SIZE", "RESTIC_READ_CONCURRENCY"];
    if upper.starts_with("RESTIC_") && !OF_RESTIC.contains(&upper.as_str()) {
        return Err(format!("{name} is set by the agent itself"));
    }
    if upper == "PATH" || upper.starts_with("LD_") || upper.starts_with("DYLD_") {
        return Err(format!("{name} decides which programs run and cannot be set from here"));
    }
    let secret = ["PASSWORD", "SECRET", "TOKEN"].iter().any(|word| upper.contains(word))
        || upper.ends_with("_KEY")
        || upper.ends_with("_SAS");
    if secret && !upper.ends_with("_FILE") {
        return Err(format!("{name} is a secret and never written here: put it into a file that credential names"));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("{name} has control characters"));
    }
    Ok(())
}

/// restic's sizes: "500K", "100M", "2G", "1T".
pub(super) fn size(text: &str) -> Checked {
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']);
    let ok = digits.bytes().all(|b| b.is_ascii_digit())
        && (1..=15).contains(&digits.len())
        && text.len() <= digits.len() + 1;
    if ok { Ok(()) } else { Err(format!("{} is not a size: write for example \"100M\" or \"2G\"", shown(text))) }
}

/// How much unused data prune may leave: "10%", "5G", "unlimited".
pub(super) fn max_unused(text: &str) -> Checked {
    if text == "unlimited" || is_percentage(text) || size(text).is_ok() {
        return Ok(());
    }
    Err(format!("{} is neither a share nor a size: write for example \"10%\", \"5G\" or \"unlimited\"", shown(text)))
}

/// How much data check reads: "1/12", "5%", "2G", and in maintenance "rolling/12".
pub(super) fn read_data_subset(text: &str, in_maintenance: bool) -> Checked {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=256).contains(n));
    if let Some(parts) = text.strip_prefix("rolling/") {
        if number(parts).is_none() {
            return Err(format!("{} is no rolling part: write \"rolling/12\" (1 to 256)", shown(text)));
        }
        if !in_maintenance {
            return Err(
                "\"rolling/\" is for a repository's [maintenance]: write for example \"1/12\" or \"5%\"".to_owned()
            );
        }
        return Ok(());
    }
    let part = text.split_once('/').is_some_and(|(n, t)| number(n).zip(number(t)).is_some_and(|(n, t)| n <= t));
    if part || (is_percentage(text) && text != "0%") || size(text).is_ok() {
        return Ok(());
    }
    Err(format!("{} is no part of the data: write for example \"1/12\", \"5%\" or \"2G\"", shown(text)))
}

/// A hook: a program's name, or text for a shell. Empty: none, where a group has one.
pub(super) fn hook(text: &str) -> Checked {
    if text.len() > 16 * 1024 {
        return Err("is longer than 16 KiB: put it into a file of the agent's hooks.d".to_owned());
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(format!("{} has control characters", shown(text)));
    }
    Ok(())
}

/// A file of the server's own, or a directory: anything but nothing.
pub(super) fn file_path(text: &str) -> Checked {
    no_controls("a path", text)
}

/// Whether a path lies below one of the roots, by its text: `.` and `..` are resolved, links are not. `None`: one of both is absolute and
/// the other begins at the configuration directory, or above it further than the other; whoever reads the file knows, by real paths.
/// `{host}` cannot change the answer, because no host's name has `/` or begins with a dot.
pub(super) fn is_below(path: &str, roots: &[String]) -> Option<bool> {
    let path = normalized(path);
    let ups = |parts: &[&str]| parts.iter().take_while(|part| **part == "..").count();
    let of_one = |root: &String| {
        let root = normalized(root);
        if path.0 != root.0 || ups(&path.1) < ups(&root.1) {
            return None;
        }
        Some(path.1.len() > root.1.len() && path.1.starts_with(&root.1))
    };
    let answers: Vec<Option<bool>> = roots.iter().map(of_one).collect();
    if answers.contains(&Some(true)) {
        return Some(true);
    }
    if answers.contains(&None) { None } else { Some(false) }
}

/// Whether the path is absolute, and its parts; `..` stays only at the front of a relative one.
fn normalized(path: &str) -> (bool, Vec<&str>) {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => {
                parts.pop();
            }
            ("..", None) if absolute => {}
            _ => parts.push(part),
        }
    }
    (absolute, parts)
}

fn is_absolute(text: &str) -> bool {
    let bytes = text.as_bytes();
    let drive = matches!(bytes, [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic());
    text.starts_with('/') || text.starts_with("\\\\") || drive
}

fn is_percentage(text: &str) -> bool {
    text.strip_suffix('%')
        .filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.') && number.len() <= 8)
        .and_then(|number| number.parse::<f64>().ok())
        .is_some_and(|number| (0.0..=100.0).contains(&number))
}

fn no_controls(what: &str, text: &str) -> Checked {
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} has control characters", shown(text)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: impl Fn(&str) -> Checked, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(rule(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn paths_are_absolute_on_either_system() {
        check(path, &["/", "/etc", "C:\\Users", "d:/data", "\\\\nas\\share"], &["", "etc", "~/x", "C:", "-v", "/a\nb"]);
    }

    #[test]
    fn tags_are_single_and_not_the_agents() {
        check(tag, &["linux", "a b", "é"], &["", "a,b", "schedule:x", "job:1", "a\u{1b}"]);
    }

    #[test]
    fn urls_are_restics_and_hold_no_password() {
        let good = [
            "rest:https://backup.example.org/{host}/",
            "sftp:user@host.example.org:/srv/restic",
            "sftp://user@host.example.org:2222//srv/restic",
            "s3:https://s3.example.org/bucket/{host}",
            "/srv/restic/{host}",
            "local:/srv",
            "C:\\restic",
            "b2:bucket:path",
            "rest:https://host.example.org/a@b:c/",
        ];
        let bad = [
            "",
            "rest:https://user:hunter2@backup.example.org/",
            "s3:key:hunter2@s3.example.org/bucket",
            "https://backup.example.org/",
            "srv/restic",
            "ftp:server",
            "/srv/{hsot}",
            "local:srv",
        ];
        check(url, &good, &bad);
        for text in bad {
            assert!(!url(text).expect_err(text).contains("hunter2"));
        }
    }

    #[test]
    fn the_environment_holds_no_secrets_and_runs_nothing() {
        check(
            |name| environment(name, "x"),
            &["AWS_DEFAULT_REGION", "RESTIC_PACK_SIZE", "AWS_WEB_IDENTITY_TOKEN_FILE"],
            &[
                "",
                "1A",
                "A-B",
                "A=B",
                "AWS_SECRET_ACCESS_KEY",
                "B2_ACCOUNT_KEY",
                "OS_AUTH_TOKEN",
                "RESTIC_PASSWORD_COMMAND",
                "restic_repository",
                "LD_PRELOAD",
                "PATH",
            ],
        );
        assert!(environment("A", "x\n").is_err());
    }

    #[test]
    fn amounts_are_restics() {
        check(size, &["1", "100M", "2g"], &["", "M", "1.5G", "10MB", "-1"]);
        check(max_unused, &["10%", "0%", "unlimited", "5G"], &["", "101%", "all", "%", "-1%"]);
        check(
            |text| read_data_subset(text, false),
            &["1/12", "256/256", "5%", "2.5%", "2G"],
            &["", "0/12", "13/12", "1/257", "0%", "rolling/12", "a/b"],
        );
        check(|text| read_data_subset(text, true), &["rolling/12", "1/1"], &["rolling/0", "rolling/"]);
    }

    #[test]
    fn a_path_below_a_root_stays_below_it() {
        let roots = ["/run/secrets".to_owned(), "../secrets/".to_owned()];
        check(
            |path| is_below(path, &roots).unwrap_or_default().then_some(()).ok_or_else(String::new),
            &["/run/secrets/rest/{host}", "/run/./secrets//a", "/run/secrets/a/../b", "../secrets/x", "./../secrets/x"],
            &[
                "/run/secrets",
                "/run/secrets/../x",
                "/run/secretsx/a",
                "run/secrets/a",
                "../secrets/../x",
                "secrets/x",
                "/run/secrets/{host}/../../x",
                "../../secrets/x",
                "",
            ],
        );
    }

    #[test]
    fn what_only_real_paths_can_tell_is_not_judged_by_texts() {
        let of =
            |path: &str, roots: &[&str]| is_below(path, &roots.iter().map(|&root| root.to_owned()).collect::<Vec<_>>());
        for (path, root) in
            [("../secrets/x", "/etc/secrets"), ("/etc/secrets/x", "../secrets"), ("../secrets/x", "../../etc/secrets")]
        {
            assert_eq!(of(path, &[root]), None, "{path} below {root}");
        }
        assert_eq!(of("../secrets/x", &["/etc/secrets", "../secrets"]), Some(true));
        assert_eq!(of("/etc/secrets/../shadow", &["/etc/secrets"]), Some(false));
        assert_eq!(of("../../secrets/x", &["../secrets"]), Some(false));
        assert_eq!(of("/x", &[]), Some(false));
    }
}
