//! Pure. What is wrong or useless about a repository's `[maintenance]` that one value alone does not show.
//! Does not look at hosts: `load` does.

use super::raw::RawRepository;
use crate::problem::Problem;
use crate::toml_reader::Placed;

/// Maintenance that does nothing, or half of what is meant.
pub(super) fn warn_of_maintenance(raw: &RawRepository, has_retention: bool, problems: &mut Vec<Problem>) {
    let Some(Placed { value: work, place }) = raw.maintenance.as_ref().filter(|_| raw.clean) else { return };
    let mut warn = |message: &str| problems.push(place.warning(&raw.file, message));
    match (&work.forget, &work.prune) {
        (None, None) if work.check.is_none() => {
            warn("[maintenance] does nothing: write for example forget = \"30 4 * * *\"");
        }
        (Some(_), _) if !has_retention => {
            warn("forget has nothing to do: no backup schedule in this repository has retention");
        }
        (Some(_), None) => {
            warn("the data of forgotten snapshots stays: write for example prune = \"0 5 * * SUN\"");
        }
        _ => {}
    }
}

/// Both ways lead to the same: what is each host's by itself is so for maintenance too.
pub(super) fn check_maintenance_url(raw: &RawRepository, problems: &mut Vec<Problem>) {
    let Some(url) = raw.maintenance.as_ref().and_then(|work| work.value.url.as_ref()).filter(|_| raw.clean) else {
        return;
    };
    let is_per_host = |url: &str| url.contains("{host}");
    if !url.value.is_empty() && is_per_host(&url.value) != is_per_host(&raw.url) {
        let (has, lacks) = if is_per_host(&raw.url) {
            ("the repository's url", "this one")
        } else {
            ("this one", "the repository's url")
        };
        let message = format!("{has} has {{host}} and {lacks} has not: both must lead to the same data");
        problems.push(url.place.error(&raw.file, message));
    }
}
