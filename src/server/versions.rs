//! Pure. Which versions of desired state a host gets: one for each change of what it should have, and one above an agent's that
//! knows more than our state does. Versions only grow. Does not write them or send anything.

use super::fact::{Fact, Versioned};
use super::host_content::HostContent;
use super::host_state::HostState;

/// The schedule set and settings a host should have against those it was told: a new version for each that differs. A content
/// of an older configuration than the one that the present version comes from is another server's that has not caught up: it
/// changes nothing.
pub fn decide_versions(state: &HostState, content: &HostContent) -> Vec<Fact> {
    let is_newer = |wanted: &Option<Versioned>| wanted.as_ref().and_then(|w| w.adopted_at) > content.adopted_at;
    if is_newer(&state.schedule_wanted) || is_newer(&state.config_wanted) {
        return Vec::new();
    }
    let next = |wanted: &Option<Versioned>, hash: &str| match wanted {
        Some(wanted) if wanted.hash == hash => None,
        wanted => Some(wanted.as_ref().map_or(0, |w| w.version) + 1),
    };
    // No hash: the settings cannot be known at the moment (a secret's file is missing), so there is nothing to tell.
    let known = !content.config_hash.is_empty();
    let config = known.then(|| next(&state.config_wanted, &content.config_hash)).flatten();
    versioned(content, config, next(&state.schedule_wanted, &content.schedule_hash))
}

/// `agent_has` are versions and hashes that an agent reported; one above ours, or as high with other content, means that our state
/// is older than the agent's, so a new version goes above. Only for what this server knows to be wanted.
pub fn decide_versions_of_agent(state: &HostState, content: &HostContent, agent_has: AgentHas<'_>) -> Vec<Fact> {
    let next = |wanted: &Option<Versioned>, hash: &str, has: Option<(u64, &str)>| {
        let wanted = wanted.as_ref().filter(|wanted| wanted.hash == hash)?;
        let (version, its) = has.filter(|(version, _)| (1..ABSURD_VERSION).contains(version))?;
        let is_ahead = version > wanted.version || (version == wanted.version && its != hash);
        is_ahead.then_some(version + 1)
    };
    let config = next(&state.config_wanted, &content.config_hash, agent_has.config);
    versioned(content, config, next(&state.schedule_wanted, &content.schedule_hash, agent_has.schedule))
}

/// In the order in which they reach the agent: what a job needs, before what makes jobs.
fn versioned(content: &HostContent, config: Option<u64>, schedule: Option<u64>) -> Vec<Fact> {
    let versioned = |version: u64, hash: &str| Versioned {
        version,
        hash: hash.to_owned(),
        commit: content.commit.clone(),
        dirty: content.dirty,
        adopted_at: content.adopted_at,
        repository: None,
    };
    let config = config.map(|version| {
        let repository = content.known_repository();
        Fact::ConfigVersioned(Versioned { repository, ..versioned(version, &content.config_hash) })
    });
    let schedule = schedule.map(|version| Fact::ScheduleVersioned(versioned(version, &content.schedule_hash)));
    config.into_iter().chain(schedule).collect()
}

/// What a polling agent says it has: version and hash of each; `None` where it did not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct AgentHas<'a> {
    pub schedule: Option<(u64, &'a str)>,
    pub config: Option<(u64, &'a str)>,
}

/// A version that no agent can have got from a server, and from which counting on might overflow: 2^53, where JSON's numbers
/// end for many readers.
const ABSURD_VERSION: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::*;

    fn versions(facts: &[Fact]) -> Vec<(String, u64)> {
        let version = |fact: &Fact| match fact {
            Fact::ScheduleVersioned(v) | Fact::ConfigVersioned(v) => v.version,
            other => unreachable!("a version was expected: {other:?}"),
        };
        types(facts).into_iter().zip(facts.iter().map(version)).collect()
    }

    fn both(version: u64) -> Vec<(String, u64)> {
        vec![("config.versioned".to_owned(), version), ("schedule.versioned".to_owned(), version)]
    }

    #[test]
    fn versions_grow_with_each_change_also_back_and_not_without_one() {
        let mut folded = Folded::default();
        let (first, second) =
            (content(), HostContent { schedule_hash: "s2".to_owned(), config_hash: "c2".to_owned(), ..content() });
        for (content, version) in [(&first, 1), (&second, 2), (&first, 3)] {
            let facts = decide_versions(&folded.state, content);
            assert_eq!(versions(&facts), both(version));
            folded.add(facts);
            assert_eq!(decide_versions(&folded.state, content), []);
        }
        let one = HostContent { schedule_hash: "s9".to_owned(), ..first };
        assert_eq!(versions(&decide_versions(&folded.state, &one)), [("schedule.versioned".to_owned(), 4)]);
    }

    #[test]
    fn a_server_with_an_older_configuration_changes_nothing() {
        let of = |adopted: &str, hash: &str| HostContent {
            adopted_at: Some(at(adopted)),
            schedule_hash: hash.to_owned(),
            ..content()
        };
        let (older, newer) = (of("2026-11-23T10:00:00Z", "s1"), of("2026-11-23T11:00:00Z", "s2"));
        let mut folded = Folded::default();
        folded.add(decide_versions(&folded.state, &older));
        folded.add(decide_versions(&folded.state, &newer));
        assert_eq!(decide_versions(&folded.state, &older), []);
        // Nor does an agent that has been told of the newer one make it do so.
        let has = AgentHas { schedule: Some((2, "s2")), config: None };
        assert_eq!(decide_versions_of_agent(&folded.state, &older, has), []);
        let newest = of("2026-11-23T12:00:00Z", "s1");
        assert_eq!(versions(&decide_versions(&folded.state, &newest)), [("schedule.versioned".to_owned(), 3)]);
    }

    #[test]
    fn an_agent_at_or_above_our_version_with_other_content_gets_one_above_its_own() {
        let mut folded = Folded::default();
        let with = |version, schedule, config| AgentHas {
            schedule: Some((version, schedule)),
            config: Some((version, config)),
        };
        assert_eq!(decide_versions_of_agent(&folded.state, &content(), with(7, "x", "y")), [], "nothing is wanted yet");
        folded.add(decide_versions(&folded.state, &content()));
        for (has, expected) in [
            (with(0, "", ""), vec![]),
            (with(1, "s1", "c1"), vec![]),
            // Ours is the older state: above the agent's, so that it tells us again what it has applied.
            (with(7, "s1", "c1"), both(8)),
            (with(1, "x", "y"), both(2)),
            (with(7, "x", "y"), both(8)),
            // No server made these: they are not taken as a reason to count on from there.
            (with(u64::MAX, "x", "y"), vec![]),
            (with(ABSURD_VERSION, "x", "y"), vec![]),
        ] {
            assert_eq!(versions(&decide_versions_of_agent(&folded.state, &content(), has)), expected, "{has:?}");
        }
        folded.add(decide_versions_of_agent(&folded.state, &content(), with(7, "x", "y")));
        assert_eq!(
            decide_versions_of_agent(&folded.state, &content(), with(7, "x", "y")),
            [],
            "the agent only has to fetch it"
        );
    }
}
