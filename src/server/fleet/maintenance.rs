//! Pure. What one elected host does for a repository: the schedules that it gets for it, and the jobs that a fire of one makes, as
//! the configuration of that moment has it. Does not decide when: the host's own cron does.
//!
//! The schedules say nothing of other hosts, so that a change to one of those is no change to this one.

use std::collections::BTreeMap;

use super::{Fleet, Host, HostSchedule, MaintenanceCheck, Repository};
use crate::id::{HostName, RepositoryName, ScheduleId};
use crate::protocol::job_options::{
    CheckOptions, ForgetOptions, JobKind, JobSpec, PruneOptions, ScheduleOptions, UnlockOptions,
};
use crate::protocol::schedule::Schedule;
use crate::protocol::text::Span;
use crate::repository_target::RepositoryTarget;
use crate::retention::RetentionPolicy;
use crate::server::alert_rules::Alarms;

/// Hosts in one forget: each is an argument of restic's.
const HOSTS_AT_ONCE: usize = 200;

/// `read_data_subset` of a check whose every run reads the next part: this, and the number of parts.
const ROLLING: &str = "rolling/";

/// The schedules that the elected host gets for this repository, at most three, sorted by id.
pub fn maintenance_schedules(repository: &Repository, host: &Host) -> Vec<HostSchedule> {
    let Some(work) = &repository.maintenance else { return Vec::new() };
    let schedule = |kind: JobKind, cron: &str, options: ScheduleOptions| {
        let schedule = Schedule {
            id: schedule_id(&repository.name, kind)?,
            kind,
            cron_expr: cron.to_owned(),
            timezone: host.timezone.map(|zone| zone.name().to_owned()),
            splay: Span::default(),
            paths: Vec::new(),
            excludes: Vec::new(),
            tags: Vec::new(),
            retention_policy: RetentionPolicy::default(),
            options,
            pre_hook: None,
            post_hook: None,
            enabled: true,
        };
        Some(HostSchedule { schedule, alarms: Alarms { shrink_percent: 0, ..Alarms::default() }, ping_url: None })
    };
    let check = work.check.as_ref().and_then(|MaintenanceCheck { cron, read_data_subset, read_data }| {
        let (read_data_subset, read_data) = (read_data_subset.clone(), *read_data);
        schedule(JobKind::Check, cron, ScheduleOptions { read_data_subset, read_data, ..ScheduleOptions::default() })
    });
    let forget = work.forget.as_ref().and_then(|cron| schedule(JobKind::Forget, cron, ScheduleOptions::default()));
    let prune = work.prune.as_ref().and_then(|prune| {
        let options = ScheduleOptions { max_unused: prune.max_unused.clone(), ..ScheduleOptions::default() };
        schedule(JobKind::Prune, &prune.cron, options)
    });
    [check, forget, prune].into_iter().flatten().collect()
}

fn schedule_id(repository: &RepositoryName, kind: JobKind) -> Option<ScheduleId> {
    format!("maintenance:{repository}:{kind}").parse().ok()
}

/// Whose maintenance a schedule is; `None`: it is one of the host's own.
pub fn maintained_repository(id: &ScheduleId) -> Option<RepositoryName> {
    let (repository, _) = id.as_str().strip_prefix("maintenance:")?.rsplit_once(':')?;
    repository.parse().ok()
}

/// Whether each host has a repository of its own.
pub fn is_per_host(repository: &Repository) -> bool {
    repository.url.contains("{host}")
}

/// The second repositories that the host's copy schedules write to, or its own part of them, each once.
pub fn copy_targets<'a>(fleet: &'a Fleet, host: &Host) -> Vec<(RepositoryTarget, &'a Repository)> {
    let copies = host.schedules.iter().map(|held| &held.schedule).filter(|schedule| schedule.kind == JobKind::Copy);
    let named = copies.filter_map(|schedule| fleet.repositories.get(schedule.options.to.as_ref()?));
    let of_one = |repository: &'a Repository| {
        let host = is_per_host(repository).then(|| host.name.clone());
        (RepositoryTarget { repository: repository.name.clone(), host }, repository)
    };
    let once: BTreeMap<&RepositoryName, &Repository> = named.map(|repository| (&repository.name, repository)).collect();
    once.into_values().map(of_one).collect()
}

/// What there is to maintain: the repository, or each host's part of it.
pub fn targets(fleet: &Fleet, repository: &Repository) -> Vec<RepositoryTarget> {
    let target = |host: Option<HostName>| RepositoryTarget { repository: repository.name.clone(), host };
    if is_per_host(repository) {
        fleet.hosts_of(&repository.name).iter().map(|host| target(Some(host.clone()))).collect()
    } else {
        vec![target(None)]
    }
}

/// The jobs of a fire of one of `maintenance_schedules`, at least one. `rolled`: how many parts of each target's data the schedule
/// has read. The error says why there is nothing to do.
pub fn maintenance_jobs(
    fleet: &Fleet,
    schedule: &Schedule,
    rolled: &BTreeMap<String, u64>,
) -> Result<Vec<JobSpec>, String> {
    let repository = maintained_repository(&schedule.id).and_then(|name| fleet.repositories.get(&name));
    let repository = repository.ok_or_else(|| format!("the repository of {} is gone", schedule.id))?;
    let targets = targets(fleet, repository);
    if targets.is_empty() {
        return Err(format!("no host uses repository {}", repository.name));
    }
    let options = &schedule.options;
    let jobs: Vec<JobSpec> = match schedule.kind {
        JobKind::Forget => targets.into_iter().flat_map(|target| forgets(fleet, &target)).collect(),
        JobKind::Prune => {
            let max_unused = &options.max_unused;
            let prune =
                |target| PruneOptions { max_unused: max_unused.clone(), dry_run: false, repository: Some(target) };
            targets.into_iter().map(prune).map(JobSpec::Prune).collect()
        }
        JobKind::Check => {
            let check = |target: RepositoryTarget| {
                let part = options.read_data_subset.as_ref().map(|subset| next_part(subset, &target, rolled));
                CheckOptions { read_data: options.read_data, read_data_subset: part, repository: Some(target) }
            };
            targets.into_iter().map(check).map(JobSpec::Check).collect()
        }
        JobKind::Unlock => {
            let unlock = |target| UnlockOptions { remove_all: false, repository: Some(target) };
            targets.into_iter().map(unlock).map(JobSpec::Unlock).collect()
        }
        _ => Vec::new(),
    };
    if jobs.is_empty() {
        return Err(format!("no backup schedule in repository {} has retention", repository.name));
    }
    Ok(jobs)
}

/// For each schedule id and each policy that hosts have for it, a forget of just those hosts. Snapshots of a disabled schedule
/// age as well: it was told not to make new ones, not to keep the old ones for ever.
fn forgets(fleet: &Fleet, target: &RepositoryTarget) -> Vec<JobSpec> {
    let mut alike: BTreeMap<(&ScheduleId, &RetentionPolicy), Vec<HostName>> = BTreeMap::new();
    let hosts = match &target.host {
        Some(host) => std::slice::from_ref(host),
        None => fleet.hosts_of(&target.repository),
    };
    for host in hosts.iter().filter_map(|name| fleet.hosts.get(name)) {
        let backups = host.schedules.iter().map(|held| &held.schedule).filter(|held| held.kind == JobKind::Backup);
        for schedule in backups.filter(|schedule| !schedule.retention_policy.is_empty()) {
            alike.entry((&schedule.id, &schedule.retention_policy)).or_default().push(host.name.clone());
        }
    }
    let of_some = |schedule: &ScheduleId, policy: &RetentionPolicy, hosts: &[HostName]| {
        JobSpec::Forget(ForgetOptions {
            schedule: Some(schedule.clone()),
            retention_policy: policy.clone(),
            dry_run: false,
            repository: Some(target.clone()),
            hosts: hosts.to_vec(),
        })
    };
    alike
        .into_iter()
        .flat_map(|((schedule, policy), hosts)| {
            hosts.chunks(HOSTS_AT_ONCE).map(|some| of_some(schedule, policy, some)).collect::<Vec<_>>()
        })
        .collect()
}

/// `rolling/12` as the part that is next: after the twelfth the first again. Other subsets as they are.
fn next_part(subset: &str, target: &RepositoryTarget, rolled: &BTreeMap<String, u64>) -> String {
    match subset.strip_prefix(ROLLING).and_then(|parts| parts.parse::<u64>().ok()).filter(|parts| *parts > 0) {
        Some(parts) => format!("{}/{parts}", rolled.get(&target.to_string()).copied().unwrap_or(0) % parts + 1),
        None => subset.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::fleet::load::load;

    const WORK: &str = "password = { file = \"/run/secrets/p\" }\n[maintenance]\nhost = \"nas\"\nforget = \"30 4 * * *\"\n\
                        prune = { cron = \"@weekly\", max_unused = \"10%\" }\ncheck = { cron = \"@weekly\", read_data_subset = \"rolling/3\" }\n";

    fn fleet(url: &str, hosts: &[(&str, &str)]) -> Fleet {
        let mut files = BTreeMap::from([("repositories/main.toml".to_owned(), format!("url = {url:?}\n{WORK}"))]);
        for (host, more) in hosts {
            let text = format!(
                "repository = \"main\"\n[[schedule]]\nid = \"x\"\nkind = \"backup\"\ncron = \"@daily\"\npaths = [\"/etc\"]\n{more}"
            );
            files.insert(format!("hosts/{host}.toml"), text);
        }
        let (fleet, problems) = load(&files);
        assert!(!crate::server::fleet::load::has_errors(&problems), "{problems:?}");
        fleet
    }

    fn jobs(fleet: &Fleet, kind: &str, rolled: &[(&str, u64)]) -> Result<Vec<String>, String> {
        let nas = fleet.hosts.get(&"nas".parse().expect("a name")).expect("the elected host");
        let id = format!("maintenance:main:{kind}").parse().expect("an id");
        let schedule = &nas.schedule(&id).expect("its schedule").schedule;
        let rolled = rolled.iter().map(|(target, count)| ((*target).to_owned(), *count)).collect();
        let jobs = maintenance_jobs(fleet, schedule, &rolled)?;
        Ok(jobs.iter().map(|job| format!("{} {}", job.kind(), job.options_json())).collect())
    }

    #[test]
    fn forget_takes_those_hosts_together_that_keep_the_same_of_a_schedule() {
        let seven = "retention = { keep_daily = 7 }\n";
        let disabled = "retention = { keep_daily = 7 }\nenabled = false\n";
        let two = "retention = { keep_last = 2 }\n[[schedule]]\nid = \"y\"\nkind = \"backup\"\ncron = \"@daily\"\npaths = [\"/srv\"]\n";
        let fleet = fleet("/srv/all", &[("nas", ""), ("a", seven), ("b", two), ("c", disabled)]);
        let (two, seven) = (
            r#"forget {"hosts":["b"],"repository":"main","retention_policy":{"keep_last":2},"schedule":"x"}"#,
            r#"forget {"hosts":["a","c"],"repository":"main","retention_policy":{"keep_daily":7},"schedule":"x"}"#,
        );
        let mut found = jobs(&fleet, "forget", &[]).expect("jobs");
        found.sort();
        assert_eq!(found, [seven, two]);
    }

    #[test]
    fn many_hosts_are_several_jobs_and_none_is_left_out() {
        let names: Vec<String> = (0..450).map(|n| format!("h{n}")).chain(["nas".to_owned()]).collect();
        let hosts: Vec<(&str, &str)> =
            names.iter().map(|name| (name.as_str(), "retention = { keep_last = 1 }\n")).collect();
        let fleet = fleet("/srv/all", &hosts);
        let found = jobs(&fleet, "forget", &[]).expect("jobs");
        assert_eq!(found.len(), 3);
        assert_eq!(found.iter().map(|job| job.matches("\"h").count() - 1).sum::<usize>(), 450);
    }

    #[test]
    fn where_each_host_has_its_own_there_is_a_job_for_each() {
        let fleet = fleet("/srv/{host}", &[("nas", ""), ("a", "retention = { keep_last = 1 }\n")]);
        let one = r#"forget {"hosts":["a"],"repository":"main/a","retention_policy":{"keep_last":1},"schedule":"x"}"#;
        assert_eq!(jobs(&fleet, "forget", &[]), Ok(vec![one.to_owned()]));
        let prunes = ["a", "nas"].map(|host| format!(r#"prune {{"max_unused":"10%","repository":"main/{host}"}}"#));
        assert_eq!(jobs(&fleet, "prune", &[]), Ok(prunes.to_vec()));
        let checks = [("a", "2/3"), ("nas", "1/3")]
            .map(|(host, part)| format!(r#"check {{"read_data_subset":"{part}","repository":"main/{host}"}}"#));
        assert_eq!(jobs(&fleet, "check", &[("main/a", 4), ("main/nas", 3)]), Ok(checks.to_vec()));
    }

    #[test]
    fn without_retention_there_is_nothing_to_forget_and_that_is_said() {
        let fleet = fleet("/srv/all", &[("nas", "")]);
        assert!(jobs(&fleet, "forget", &[]).expect_err("nothing").contains("retention"));
        assert_eq!(jobs(&fleet, "prune", &[]).expect("one").len(), 1);
    }

    #[test]
    fn another_hosts_edit_changes_no_schedule_of_the_elected_one() {
        let schedules =
            |fleet: &Fleet| fleet.hosts.get(&"nas".parse().expect("a name")).expect("there").schedules.clone();
        let before = schedules(&fleet("/srv/{host}", &[("nas", ""), ("a", "")]));
        assert_eq!(before.len(), 4);
        assert_eq!(
            before,
            schedules(&fleet("/srv/{host}", &[("nas", ""), ("a", "retention = { keep_last = 1 }\n"), ("b", "")]))
        );
    }
}
