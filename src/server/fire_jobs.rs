//! Pure. The jobs that one fire of a schedule makes, or one request to run it now: usually one, for maintenance one for each thing
//! there is to do, put together from the configuration of that moment. Does not decide whether the fire makes any.

use super::fact::JobQueued;
use super::fleet::maintenance::{maintained_repository, maintenance_jobs};
use super::host_content::HostContent;
use super::host_state::HostState;
use crate::id::JobId;
use crate::protocol::job_options::JobSpec;
use crate::protocol::schedule::Schedule;

/// What a run of the schedule does, at least one thing. The error says why there is nothing to do.
pub fn specs_of(state: &HostState, content: Option<&HostContent>, schedule: &Schedule) -> Result<Vec<JobSpec>, String> {
    if maintained_repository(&schedule.id).is_none() {
        return Ok(vec![schedule.job_spec()]);
    }
    let fleet = content.and_then(|content| content.maintains.as_deref());
    let fleet = fleet.ok_or_else(|| format!("{} is not maintained by this host", schedule.id))?;
    let nothing = Default::default();
    let rolled = state.schedules.get(&schedule.id).map_or(&nothing, |memory| &memory.rolled);
    maintenance_jobs(fleet, schedule, rolled)
}

/// These jobs as `first` is, with ids by their number. The one with number 0 comes last: while its line is not in the files (power
/// loss may keep any beginning of a batch) nothing is decided, and deciding it again makes the same jobs.
pub fn queued_jobs(
    state: &HostState,
    specs: Vec<JobSpec>,
    first: &JobQueued,
    id_of: impl Fn(usize) -> JobId,
) -> Vec<JobQueued> {
    let of_one = |(n, spec): (usize, JobSpec)| JobQueued {
        job_id: id_of(n),
        kind: spec.kind(),
        options: spec.options_json(),
        part: (n > 0).then_some(n),
        idempotency: first.idempotency.clone().filter(|_| n == 0),
        ..first.clone()
    };
    let all = specs.into_iter().enumerate().map(of_one).rev();
    all.filter(|queued| queued.part.is_none() || state.job(queued.job_id).is_none()).collect()
}
