//! Pure. What becomes of a configuration directory that was read: it is adopted, refused, or left alone, since several servers
//! may read directories of their own. Does not read, write or install.

use serde::{Deserialize, Serialize};

use super::fleet_state::FleetState;
use crate::problem::{Problem, Severity};

/// What is to be done about the files as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// They are good and new: they run from now on.
    Adopt,
    /// They have errors that nobody was told of yet.
    Reject,
    /// They have errors, and that is known: what was adopted last runs.
    StillRefused,
    /// They are what runs.
    Runs,
    /// They are good and not what runs: another server adopted something else after them.
    Differs,
}

/// What a server remembers of its directory, across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorySeen {
    /// For people: which machine, which path.
    pub of: String,
    pub hash: String,
}

/// Decides. `changed`: the files differ from what this server last saw there. A directory that stayed as it was is no news, so
/// that of two servers in the middle of a deployment the one that is behind does not undo what the other has adopted.
pub fn decide_adoption(state: &FleetState, hash: &str, has_errors: bool, changed: bool) -> Adoption {
    let runs = state.adopted.as_ref().is_some_and(|adopted| adopted.hash == hash);
    match (has_errors, changed) {
        (true, true) if state.rejected_hash.as_deref() != Some(hash) => Adoption::Reject,
        (true, _) => Adoption::StillRefused,
        // Adopted anew where something was refused since: the refusal ends.
        (false, true) if !runs || state.rejected_hash.is_some() => Adoption::Adopt,
        (false, _) if runs => Adoption::Runs,
        (false, _) => Adoption::Differs,
    }
}

/// Whether a directory has changed, by what was last seen there. One that no server has read before is a change only where it
/// can undo nobody's work.
pub fn has_changed(seen: Option<&str>, hash: &str, state: &FleetState, in_company: bool) -> bool {
    match seen {
        Some(seen) => seen != hash,
        None => state.adopted.is_none() || !in_company,
    }
}

/// A directory without any file of a configuration while hosts run one: a mount that is missing, or a deployment that has removed
/// and not yet copied. It is refused, since it would disable every host; who means that leaves a `server.toml`.
pub fn emptied(state: &FleetState, has_files: bool) -> Option<Problem> {
    let hosts = state.adopted.as_ref().map_or(0, |adopted| adopted.hosts);
    (!has_files && hosts > 0).then(|| Problem {
        file: "server.toml".to_owned(),
        line: 0,
        column: 0,
        severity: Severity::Error,
        message: format!(
            "the directory has no file of a configuration, and {hosts} hosts run one, which they keep: is it mounted? To disable all hosts, leave a server.toml, which may be empty"
        ),
    })
}

/// Whether the running configuration's commit, and whether it is dirty, are to be written anew: the directory has the same files
/// and says something else of them than the journal. Of several servers with directories of their own, one tells when that
/// changes in its own: `before` is what it said at the last look, `None` at the first.
pub fn is_committed_anew(state: &FleetState, now: &CommitTold, before: Option<&CommitTold>, in_company: bool) -> bool {
    let Some(adopted) = &state.adopted else { return false };
    let differs = (&adopted.commit, adopted.dirty) != (&now.commit, now.dirty);
    let is_ours = adopted.from.as_ref() == Some(&now.from);
    differs && before.map_or(is_ours || !in_company, |before| before != now)
}

/// What a directory says of its files: the commit, whether they are not its, and which directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTold {
    pub commit: Option<String>,
    pub dirty: Option<bool>,
    pub from: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::fleet_state::ConfigAdopted;

    fn state(adopted: Option<&str>, rejected: Option<&str>) -> FleetState {
        let of = |hash: &str| ConfigAdopted { hash: hash.to_owned(), commit: None, dirty: None, hosts: 1, from: None };
        FleetState { adopted: adopted.map(of), rejected_hash: rejected.map(str::to_owned), ..FleetState::default() }
    }

    #[test]
    fn every_case_has_its_answer() {
        use Adoption::*;
        let cases = [
            (None, None, "a", false, true, Adopt),
            (Some("a"), None, "a", false, true, Runs),
            (Some("a"), None, "b", false, true, Adopt),
            (Some("a"), None, "b", false, false, Differs),
            (Some("a"), None, "a", false, false, Runs),
            (Some("a"), None, "x", true, true, Reject),
            (Some("a"), Some("x"), "x", true, true, StillRefused),
            (Some("a"), Some("x"), "x", true, false, StillRefused),
            (Some("a"), None, "x", true, false, StillRefused),
            (Some("a"), Some("x"), "a", false, true, Adopt),
            (Some("a"), Some("x"), "a", false, false, Runs),
        ];
        for (adopted, rejected, hash, has_errors, changed, expected) in cases {
            let state = state(adopted, rejected);
            assert_eq!(
                decide_adoption(&state, hash, has_errors, changed),
                expected,
                "{adopted:?} {rejected:?} {hash} {changed}"
            );
        }
    }

    #[test]
    fn an_empty_directory_disables_nothing() {
        let ran = state(Some("a"), None);
        assert!(emptied(&ran, false).is_some_and(|problem| problem.severity == Severity::Error));
        assert_eq!((emptied(&ran, true), emptied(&FleetState::default(), false)), (None, None));
    }

    #[test]
    fn a_commit_is_told_by_the_server_whose_directory_changed() {
        let of = |commit: &str, dirty: bool| CommitTold {
            commit: Some(commit.to_owned()),
            dirty: Some(dirty),
            from: "here".to_owned(),
        };
        let mut ran = state(Some("a"), None);
        assert!(!is_committed_anew(&FleetState::default(), &of("1", false), None, false));
        assert!(is_committed_anew(&ran, &of("1", false), None, false), "the first look of the only server");
        assert!(!is_committed_anew(&ran, &of("1", false), None, true), "of one of several");
        assert!(is_committed_anew(&ran, &of("1", false), Some(&of("1", true)), true));
        assert!(!is_committed_anew(&ran, &of("1", true), Some(&of("1", true)), true), "others say otherwise");
        if let Some(adopted) = &mut ran.adopted {
            (adopted.commit, adopted.dirty, adopted.from) = (Some("1".to_owned()), Some(true), Some("here".to_owned()));
        }
        assert!(is_committed_anew(&ran, &of("2", true), None, true));
        assert!(!is_committed_anew(&ran, &of("1", true), Some(&of("2", true)), true), "it is written already");
    }

    #[test]
    fn an_unknown_directory_is_a_change_unless_others_run_something() {
        let ran = state(Some("a"), None);
        assert!(has_changed(None, "b", &ran, false) && !has_changed(None, "b", &ran, true));
        assert!(has_changed(None, "b", &FleetState::default(), true));
        assert!(has_changed(Some("a"), "b", &ran, true) && !has_changed(Some("b"), "b", &ran, false));
    }
}
