//! Pure. What becomes of a configuration directory that was read: it is adopted, refused, or left alone, since several servers
//! may read directories of their own. Does not read, write or install.

use serde::{Deserialize, Serialize};

use super::fleet_state::FleetState;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::fleet_state::ConfigAdopted;

    fn state(adopted: Option<&str>, rejected: Option<&str>) -> FleetState {
        let of = |hash: &str| ConfigAdopted { hash: hash.to_owned(), commit: None, hosts: 1, from: None };
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
    fn an_unknown_directory_is_a_change_unless_others_run_something() {
        let ran = state(Some("a"), None);
        assert!(has_changed(None, "b", &ran, false) && !has_changed(None, "b", &ran, true));
        assert!(has_changed(None, "b", &FleetState::default(), true));
        assert!(has_changed(Some("a"), "b", &ran, true) && !has_changed(Some("b"), "b", &ran, false));
    }
}
