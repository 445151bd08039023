//! Edge. Removes the locks that a restic of ours which was killed, or died with the agent, has left, by a plain unlock: that takes stale
//! ones only, so those of others stay. Beside the jobs: no log, and a failure is told in the agent's log. Does not decide when.

use std::time::Duration;

use restic_manager::file_error::chain;
use restic_manager::id::RepositoryName;
use restic_manager::process::{self, Exit, Program};
use restic_manager::protocol::job_options::{JobKind, JobSpec, UnlockOptions};
use restic_manager::repository_target::RepositoryTarget;

use crate::core::Agent;
use crate::own_secrets;
use crate::restic_args::arguments;
use crate::restic_run::{masked, program, question_context};
use crate::restic_version::ResticVersion;

/// An unlock that takes longer is given up; less where `no_progress` is less.
const DEADLINE: Duration = Duration::from_secs(120);

/// Where a job's restic has a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockPlace {
    /// The host's own repository.
    Own,
    /// One that it maintains.
    Maintained(RepositoryTarget),
    /// The second one of its copies.
    CopyTarget(RepositoryName),
}

impl LockPlace {
    /// Of such a job: a copy has a lock in both its repositories. Not of one that has none to begin with: there is no repository
    /// yet, or it is there to remove them.
    pub(crate) fn of(spec: &JobSpec) -> Vec<Self> {
        if matches!(spec.kind(), JobKind::Init | JobKind::Unlock) {
            return Vec::new();
        }
        let first = spec.repository().map_or(Self::Own, |target| Self::Maintained(target.clone()));
        let second = spec.copies_to().map(|to| Self::CopyTarget(to.clone()));
        std::iter::once(first).chain(second).collect()
    }
}

/// Unlocks each of these that agent.toml lets it.
pub(crate) async fn unlock(agent: &Agent, version: ResticVersion, places: &[LockPlace]) {
    for place in places {
        unlock_one(agent, version, place).await;
    }
}

async fn unlock_one(agent: &Agent, version: ResticVersion, place: &LockPlace) {
    if agent.policy.permits_kind(JobKind::Unlock.as_str()).is_err() {
        return;
    }
    let ran = match unlock_program(agent, version, place).await {
        Ok(program) => {
            // Of a storage that is away restic tells nothing for long, and the job itself comes after this.
            let deadline = agent.settings.no_progress.map_or(DEADLINE, |span| span.duration().min(DEADLINE));
            process::run_to_end(&program, deadline).await.map_err(|error| chain(&error))
        }
        Err(error) => Err(error),
    };
    match ran {
        Ok(captured) if captured.exit == Exit::Code(0) => {}
        Ok(captured) => tracing::warn!("unlock: {}", masked(agent, captured.stderr.trim())),
        Err(error) => tracing::warn!("unlock: {}", masked(agent, &error)),
    }
}

async fn unlock_program(agent: &Agent, version: ResticVersion, place: &LockPlace) -> Result<Program, String> {
    let access = match place {
        LockPlace::Own => agent.received.borrow().access(None),
        LockPlace::Maintained(target) => agent.received.borrow().access(Some(target)),
        LockPlace::CopyTarget(to) => agent.received.borrow().copy_access(to),
    }?;
    own_secrets::permits(&agent.settings.secrets, &access)?;
    let unlock = arguments(&JobSpec::Unlock(UnlockOptions::default()), &question_context(agent, version));
    program(agent, unlock.map_err(|refusal| refusal.to_string())?, access).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_copy_has_locks_in_two_repositories_others_in_one_and_some_in_none() {
        let places = |kind: &str, options| LockPlace::of(&JobSpec::parse(kind, Some(options)).expect("a job"));
        let offsite = LockPlace::CopyTarget("offsite".parse().expect("a name"));
        assert_eq!(places("copy", json!({"to": "offsite"})), [LockPlace::Own, offsite]);
        assert_eq!(places("verify", json!({})), [LockPlace::Own]);
        let main = LockPlace::Maintained("main".parse().expect("a target"));
        assert_eq!(places("prune", json!({"repository": "main"})), [main]);
        assert_eq!(places("init", json!({"to": "offsite"})), []);
        assert_eq!(places("unlock", json!({})), []);
    }
}
