//! Pure. What the policy says of a restore once restic has told whose the snapshot is and which paths it has.
//! Does not ask restic.

use restic_manager::protocol::job_options::{JobSpec, RestoreOptions};
use restic_manager::wildcard::matches;

use super::{Policy, permits_path};
use crate::host_path::HostPath;
use crate::latest_snapshot::in_snapshot;
use crate::restic_args::values::literal;

impl Policy {
    /// Whether files may be written over at these paths, also by where the links on the disk lead.
    pub(crate) fn permits_in_place(
        &self,
        paths: &[String],
        real: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        for text in paths {
            let within = |path: &HostPath| self.restore_roots.iter().any(|(_, root)| path.is_within(root));
            permits_path(text, within, "restore_roots", "restored in place")?;
            let target = RestoreOptions { target: Some(text.clone()), ..RestoreOptions::default() };
            self.permits_real(&JobSpec::Restore(target), &real)?;
        }
        Ok(())
    }

    /// Whether another host's snapshots may be read and restored here; its own always.
    pub(crate) fn permits_snapshots_of(&self, own: &str, host: &str) -> Result<(), String> {
        if host == own || self.restore_from.iter().any(|pattern| matches(pattern, host)) {
            return Ok(());
        }
        Err(format!(
            "the snapshot is of host {host:?}, and other hosts' may not be read or restored on this one: add {host:?} to restore_from in [policy] of agent.toml"
        ))
    }
}

/// The paths on this host that a restore in place writes over: those that are named as `ls` shows them, else the snapshot's. What a
/// snapshot says its paths are need not be all that is in it, so these are also what restic is told to restore: `as_includes`.
pub(crate) fn written_over(named: &[String], snapshot_paths: &[String]) -> Result<Vec<String>, String> {
    if named.is_empty() {
        return Ok(snapshot_paths.to_vec());
    }
    let is_of_windows = snapshot_paths.iter().any(|path| !path.starts_with('/'));
    let host_path = |text: &String| match text.strip_prefix('/').and_then(|rest| rest.split_once('/')) {
        _ if !text.starts_with('/') => Err(format!("{text:?} is no whole path: write it as `ls` shows it")),
        _ if text.contains(char::REPLACEMENT_CHARACTER) => Err(format!(
            "the name of {text:?} is not UTF-8, so what it would write over cannot be judged: restore it into a directory"
        )),
        Some((drive, rest)) if is_of_windows => Ok(format!("{drive}:\\{}", rest.replace('/', "\\"))),
        _ => Ok(text.clone()),
    };
    named.iter().map(host_path).collect()
}

/// A restore in place takes no patterns: what they would write over is not known before.
pub(crate) fn no_patterns(include: &[String]) -> Result<(), String> {
    match include.iter().find(|text| text.contains(['*', '?', '[', '\\'])) {
        Some(text) => Err(format!(
            "include {text:?}: a restore in place takes no patterns; whole paths, as `ls` shows them, go into `paths`, where they are taken letter for letter"
        )),
        None => Ok(()),
    }
}

/// Patterns that fit these paths of a snapshot and nothing else.
pub(crate) fn as_includes(paths: &[String]) -> Vec<String> {
    paths.iter().map(|path| literal(&in_snapshot(path))).collect()
}

/// Where a restore in place goes: the root of everything, on Windows of the one drive that the snapshot is of.
pub(crate) fn place(snapshot_paths: &[String]) -> Result<String, String> {
    let drive = |path: &String| {
        let mut characters = path.chars();
        match (characters.next(), characters.next()) {
            (Some(letter), Some(':')) if letter.is_ascii_alphabetic() => Some(letter.to_ascii_uppercase()),
            _ => None,
        }
    };
    let mut drives: Vec<Option<char>> = snapshot_paths.iter().map(drive).collect();
    drives.sort_unstable();
    drives.dedup();
    match drives[..] {
        [None] => Ok("/".to_owned()),
        [Some(letter)] => Ok(format!("{letter}:\\")),
        [] => Err("the snapshot names no paths: restore it into a directory".to_owned()),
        _ => Err("the snapshot is of more than one drive: restore it into a directory".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RawPolicy;
    use super::*;

    fn policy(raw: RawPolicy) -> Policy {
        Policy::try_from(raw).expect("a good policy")
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn in_place_needs_a_root_above_everything_that_is_written_over() {
        let policy = policy(RawPolicy { restore_roots: texts(&["/srv", "/restore"]), ..RawPolicy::default() });
        let same = |path: &str| Ok(path.to_owned());
        assert_eq!(policy.permits_in_place(&texts(&["/srv/data", "/restore"]), same), Ok(()));
        let refusal = policy.permits_in_place(&texts(&["/srv/data", "/etc"]), same).expect_err("not below a root");
        assert!(refusal.contains("\"/etc\"") && refusal.contains("restore_roots"), "{refusal}");
        let leads_out = |path: &str| Ok(path.replace("/srv/link", "/etc"));
        assert!(policy.permits_in_place(&texts(&["/srv/link/x"]), leads_out).is_err());
    }

    #[test]
    fn other_hosts_snapshots_are_for_who_is_listed() {
        let policy = policy(RawPolicy { restore_from: texts(&["web-*", "db-1"]), ..RawPolicy::default() });
        for (host, permitted) in [("own", true), ("web-7", true), ("db-1", true), ("db-12", false), ("a-web-1", false)]
        {
            assert_eq!(policy.permits_snapshots_of("own", host).is_ok(), permitted, "{host}");
        }
        let refusal = Policy::default().permits_snapshots_of("own", "web-1").expect_err("own only by default");
        assert!(refusal.contains("restore_from"), "{refusal}");
    }

    #[test]
    fn what_is_written_over_is_whole_paths_and_restic_is_told_so() {
        let of = |include: &[&str]| written_over(&texts(include), &texts(&["/etc", "/srv/a [1]"]));
        assert_eq!(of(&[]), Ok(texts(&["/etc", "/srv/a [1]"])));
        assert_eq!(of(&["/etc/fstab"]), Ok(texts(&["/etc/fstab"])));
        for no_path in ["*.conf", "fstab", "", "/srv/bad\u{fffd}"] {
            assert!(of(&["/etc/fstab", no_path]).is_err(), "{no_path}");
        }
        for pattern in ["/srv/*", "/srv/a[1]", "/a\\b"] {
            assert!(no_patterns(&texts(&["/etc/fstab", pattern])).is_err(), "{pattern}");
        }
        assert_eq!(no_patterns(&texts(&["/etc/fstab"])), Ok(()));
        assert_eq!(as_includes(&texts(&["/etc", "/srv/a [1]"])), ["/etc", "/srv/a [[]1]"]);
        let of_windows = written_over(&texts(&["/C/Users/x"]), &texts(&["C:\\Users"]));
        assert_eq!(of_windows, Ok(texts(&["C:\\Users\\x"])));
        assert_eq!(as_includes(&texts(&["C:\\Users\\a[1]"])), ["/C/Users/a[[]1]"]);
    }

    #[test]
    fn each_drive_is_a_place_of_its_own() {
        assert_eq!(place(&texts(&["/etc", "/srv"])), Ok("/".to_owned()));
        assert_eq!(place(&texts(&["C:\\Users", "c:\\x"])), Ok("C:\\".to_owned()));
        assert!(place(&texts(&["C:\\Users", "D:\\x"])).is_err() && place(&[]).is_err());
    }
}
