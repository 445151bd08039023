//! Pure. From the texts of a configuration directory to the checked fleet, with every problem at once.
//! The fleet holds what could be understood; with an error in it, it is refused as a whole by whoever asked.
//! Does not read the directory, nor the files of secrets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::channels::Channel;
use super::effective::{Context, Effective, effective_host};
use super::maintenance::maintenance_schedules;
use super::maintenance_checks::{check_maintenance_url, warn_of_maintenance};
use super::raw::{RawHost, RawMaintenance, RawRepository, Whose, read_host, read_repository};
use super::remembered::{Remembered, TypedFile};
use super::settings::{ServerSettings, read_settings};
use super::{Fleet, Group, Host, Maintenance, Repository, SecretRef, SecretSource, rules};
use crate::id::{GroupName, HostName, RepositoryName};
use crate::parallel;
use crate::problem::{Problem, Severity};
use crate::protocol::text::is_secret_name;
use crate::toml_reader::{Place, Placed, nearest, shown};

/// A configuration directory's files: paths relative to it, with `/`, and texts.
pub type Texts = BTreeMap<String, Arc<str>>;

/// Checks everything. Problems are sorted by place, and each is there once, however many hosts share its cause.
/// `memory` is what the load before left, and then what this one leaves: work that would give the same again is not done again.
pub fn load_again(files: &Texts, memory: &mut Remembered) -> (Fleet, Vec<Problem>) {
    memory.begin();
    read_new_hosts(files, memory);
    let mut problems = Vec::new();
    let typed = read_files(files, memory, &mut problems);
    let fleet = check(typed, memory, &mut problems);
    memory.forget_unused();
    problems.sort();
    problems.dedup();
    (fleet, problems)
}

/// Checks everything, with nothing remembered.
pub fn load<T: AsRef<str>>(files: &BTreeMap<String, T>) -> (Fleet, Vec<Problem>) {
    let files = files.iter().map(|(path, text)| (path.clone(), Arc::from(text.as_ref()))).collect();
    load_again(&files, &mut Remembered::default())
}

/// Whether any of them stops the fleet from being used.
pub fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

/// Whether a file of the directory is part of the fleet: TOML, and nothing of its path is hidden.
pub fn is_fleet_file(path: &str) -> bool {
    path.ends_with(".toml") && !path.split('/').any(|part| part.starts_with('.'))
}

/// All files as they were typed.
#[derive(Default)]
struct Typed {
    settings: ServerSettings,
    repositories: BTreeMap<RepositoryName, RawRepository>,
    groups: BTreeMap<GroupName, Arc<RawHost>>,
    hosts: BTreeMap<HostName, Arc<RawHost>>,
}

/// Reads what is new of many hosts, on as many threads as there are processors.
fn read_new_hosts(files: &Texts, memory: &mut Remembered) {
    let is_host = |file: &str| is_fleet_file(file) && file.starts_with("hosts/");
    let new: Vec<_> = files.iter().filter(|(file, text)| is_host(file) && memory.is_new(file, text)).collect();
    let typed = parallel::map(&new, |(file, text)| {
        TypedFile::read(text, |problems| read_host(file, text, Whose::Host, problems))
    });
    new.iter().zip(typed).for_each(|((file, _), typed)| memory.add(file, typed));
}

fn read_layer(
    file: &str,
    text: &Arc<str>,
    whose: Whose,
    memory: &mut Remembered,
    problems: &mut Vec<Problem>,
) -> Arc<RawHost> {
    let typed = memory.file(file, text, |problems| read_host(file, text, whose, problems));
    problems.extend_from_slice(&typed.problems);
    Arc::clone(&typed.raw)
}

fn read_files(files: &Texts, memory: &mut Remembered, problems: &mut Vec<Problem>) -> Typed {
    let mut typed = Typed::default();
    for (file, text) in files.iter().filter(|(file, _)| is_fleet_file(file)) {
        match file.strip_suffix(".toml").unwrap_or(file).split_once('/') {
            None if file == "server.toml" => typed.settings = read_settings(file, text, problems),
            // A sample of what lies on hosts; an agent reads its own.
            None if file == "agent.toml" => {}
            Some(("repositories", name)) => {
                if let Some(name) = file_name(file, name, problems) {
                    typed.repositories.insert(name, read_repository(file, text, problems));
                }
            }
            Some(("groups", name)) => {
                if let Some(name) = file_name(file, name, problems) {
                    typed.groups.insert(name, read_layer(file, text, Whose::Group, memory, problems));
                }
            }
            Some(("hosts", name)) => {
                if let Some(name) = file_name(file, name, problems) {
                    typed.hosts.insert(name, read_layer(file, text, Whose::Host, memory, problems));
                }
            }
            _ => problems.push(Place::FILE.error(file, stray_file(file))),
        }
    }
    typed
}

fn file_name<T: FromStr<Err: Display>>(file: &str, name: &str, problems: &mut Vec<Problem>) -> Option<T> {
    if name.contains('/') {
        problems.push(Place::FILE.error(file, stray_file(file)));
        return None;
    }
    name.parse().map_err(|error| problems.push(Place::FILE.error(file, format!("the file's name: {error}")))).ok()
}

fn stray_file(file: &str) -> String {
    let places = ["server.toml", "agent.toml", "hosts", "groups", "repositories"];
    let first = file.split('/').next().unwrap_or_default();
    let hint = match nearest(first, places) {
        Some(near) if near != first => format!("; did you mean {near}?"),
        _ => String::new(),
    };
    format!(
        "no such file belongs here: there are server.toml, agent.toml, hosts/*.toml, groups/*.toml and repositories/*.toml{hint}"
    )
}

fn check(typed: Typed, memory: &mut Remembered, problems: &mut Vec<Problem>) -> Fleet {
    let Typed { settings, repositories: raw_repositories, groups: raw_groups, hosts: raw_hosts } = typed;
    let mut suggestions = Suggestions::default();
    let mut groups: BTreeMap<GroupName, Group> =
        raw_groups.keys().map(|name| (name.clone(), Group::default())).collect();
    let mut users: BTreeMap<RepositoryName, Vec<HostName>> = BTreeMap::new();
    let mut with_retention: BTreeSet<RepositoryName> = BTreeSet::new();
    let mut context = Context::new();
    let mut hosts = BTreeMap::new();

    for raw in raw_groups.values().chain(raw_hosts.values()) {
        if let Some(name) = &raw.repository
            && !raw_repositories.contains_key(&name.value)
        {
            let known = || raw_repositories.keys().map(RepositoryName::as_str);
            let message = suggestions.unknown("repository", name.value.as_str(), known);
            problems.push(name.place.error(&raw.file, message));
        }
    }
    let elected = elected_hosts(&raw_repositories);
    for (name, raw) in &raw_hosts {
        let mut listed: Vec<(GroupName, &Arc<RawHost>)> = Vec::with_capacity(raw.groups.len());
        for Placed { value: group, place } in &raw.groups {
            let Some(raw_group) = raw_groups.get(group) else {
                let known = || raw_groups.keys().map(GroupName::as_str);
                problems.push(place.error(&raw.file, suggestions.unknown("group", group.as_str(), known)));
                continue;
            };
            if listed.iter().any(|(earlier, _)| earlier == group) {
                problems.push(place.error(&raw.file, format!("group {:?} is listed twice", group.as_str())));
                continue;
            }
            listed.push((group.clone(), raw_group));
            if let Some(group) = groups.get_mut(group) {
                group.hosts.push(name.clone());
            }
        }
        let layers: Vec<&Arc<RawHost>> = listed.iter().map(|(_, raw)| *raw).chain([raw]).collect();
        let effective = memory.host(name, &layers, || {
            let groups: Vec<(GroupName, &RawHost)> = listed.iter().map(|(name, raw)| (name.clone(), &***raw)).collect();
            effective_host(name.clone(), raw, &groups, &mut context)
        });
        problems.extend_from_slice(&effective.problems);
        problems.extend(effective.idle.clone().filter(|_| !elected.contains_key(name)));
        if let Some(repository) = &effective.host.repository {
            if let Some(raw) = raw_repositories.get(repository) {
                warn_of_retention(repository, raw, &effective, problems);
            }
            if !effective.retentions.is_empty() {
                with_retention.insert(repository.clone());
            }
            users.entry(repository.clone()).or_default().push(name.clone());
        }
        for (to, file, place) in &effective.copies {
            if !raw_repositories.contains_key(to) {
                let known = || raw_repositories.keys().map(RepositoryName::as_str);
                problems.push(place.error(file, suggestions.unknown("repository", to.as_str(), known)));
            } else if effective.host.repository.as_ref() == Some(to) {
                // No error: a host whose repository is lost is pointed at its copy, in one line.
                let message = format!("repository {:?} is the host's own at present: nothing is copied", to.as_str());
                problems.push(place.warning(file, message));
            } else {
                // What is kept of the host's snapshots there is maintained as in its own.
                let users = users.entry(to.clone()).or_default();
                if users.last() != Some(name) {
                    users.push(name.clone());
                }
                if !effective.retentions.is_empty() {
                    with_retention.insert(to.clone());
                }
            }
        }
        hosts.insert(name.clone(), Arc::clone(&effective.host));
    }
    if hosts.is_empty() {
        problems.push(Place::FILE.warning("hosts", "there is no host, so nothing is backed up"));
    }
    if raw_hosts.values().chain(raw_groups.values()).all(|raw| raw.clean) {
        let unused =
            groups.iter().filter(|(_, group)| group.hosts.is_empty()).filter_map(|(name, _)| raw_groups.get(name));
        problems.extend(unused.map(|raw| Place::FILE.warning(&raw.file, "no host is in this group")));
        let unused = raw_repositories.iter().filter(|(name, _)| !users.contains_key(name));
        problems.extend(unused.map(|(_, raw)| Place::FILE.warning(&raw.file, "no host uses this repository")));
    }
    warn_of_equal_urls(&raw_repositories, problems);
    let mut repositories = BTreeMap::new();
    for (name, raw) in raw_repositories {
        let known = || raw_hosts.keys().map(HostName::as_str);
        if let Some(RawMaintenance { host: Some(host), .. }) = raw.maintenance.as_ref().map(|raw| &raw.value)
            && !raw_hosts.contains_key(&host.value)
        {
            problems.push(host.place.error(&raw.file, suggestions.unknown("host", host.value.as_str(), known)));
        }
        warn_of_maintenance(&raw, with_retention.contains(&name), problems);
        check_maintenance_url(&raw, problems);
        repositories.insert(name.clone(), repository(name, raw, &settings, problems));
    }
    let of_channels = settings.channels.iter().flat_map(Channel::secrets);
    let schedules = hosts.values().flat_map(|host: &Arc<Host>| &host.schedules);
    let of_pings = schedules.filter_map(|held| held.ping_url.as_ref()?.source());
    of_channels.chain(of_pings).for_each(|source| check_secret(source, &settings, problems));
    for (name, maintained) in &elected {
        if let Some(host) = hosts.get_mut(name) {
            let maintained = maintained.iter().filter_map(|repository| repositories.get(repository));
            let schedules = maintained.flat_map(|repository| maintenance_schedules(repository, host)).collect();
            *host = memory.elected(host, schedules);
        }
    }
    Fleet { settings, repositories, groups, hosts, users, elected }
}

/// What each host maintains.
fn elected_hosts(repositories: &BTreeMap<RepositoryName, RawRepository>) -> BTreeMap<HostName, Vec<RepositoryName>> {
    let mut elected: BTreeMap<HostName, Vec<RepositoryName>> = BTreeMap::new();
    for (name, raw) in repositories {
        if let Some(RawMaintenance { host: Some(host), .. }) = raw.maintenance.as_ref().map(|raw| &raw.value) {
            elected.entry(host.value.clone()).or_default().push(name.clone());
        }
    }
    elected
}

/// Retention that nobody applies, and retention that two would apply.
fn warn_of_retention(
    repository: &RepositoryName,
    raw: &RawRepository,
    effective: &Effective,
    problems: &mut Vec<Problem>,
) {
    let name = repository.as_str();
    let forgets = raw.maintenance.as_ref().is_some_and(|work| work.value.forget.is_some());
    if forgets {
        let message = format!(
            "the maintenance of repository {name:?} forgets these snapshots too, by the retention of the backup schedule: remove one of both"
        );
        problems.extend(effective.forgets.iter().map(|(file, place)| place.warning(file, message.clone())));
        return;
    }
    let lacks = if raw.maintenance.is_some() { "no forget in its [maintenance]" } else { "no [maintenance]" };
    let message = format!("retention has no effect: repository {name:?} has {lacks} (or add a forget schedule)");
    problems.extend(effective.retentions.iter().map(|(file, place)| place.warning(file, message.clone())));
}

/// Jobs of one repository take turns; those of two that are the same place do not know of each other.
fn warn_of_equal_urls(repositories: &BTreeMap<RepositoryName, RawRepository>, problems: &mut Vec<Problem>) {
    let mut first: HashMap<&str, &RepositoryName> = HashMap::new();
    for (name, raw) in repositories.iter().filter(|(_, raw)| !raw.url.is_empty()) {
        let url = raw.url.trim_end_matches('/');
        if let Some(earlier) = first.get(url) {
            let message = format!(
                "url is that of repository {:?} too: only jobs of one and the same repository wait for each other, so let hosts use one of them",
                earlier.as_str()
            );
            problems.push(Place::FILE.warning(&raw.file, message));
        } else {
            first.insert(url, name);
        }
    }
}

fn repository(
    name: RepositoryName,
    raw: RawRepository,
    settings: &ServerSettings,
    problems: &mut Vec<Problem>,
) -> Repository {
    let maintenance = raw.maintenance.and_then(|raw| {
        let raw = raw.value;
        Some(Maintenance {
            host: raw.host?.value,
            url: raw.url.map(|url| url.value).filter(|url| !url.is_empty()),
            username: raw.username,
            credential: raw.credential,
            password: raw.password,
            forget: raw.forget,
            prune: raw.prune,
            check: raw.check,
        })
    });
    let of_maintenance = maintenance.iter().flat_map(|work| [&work.credential, &work.password]);
    for source in [&raw.credential, &raw.password].into_iter().chain(of_maintenance).flatten() {
        check_secret(source, settings, problems);
    }
    Repository {
        name,
        url: raw.url,
        username: raw.username,
        credential: raw.credential,
        password: raw.password,
        env: raw.env,
        max_parallel: raw.max_parallel,
        limit_upload_kib: raw.limit_upload_kib,
        limit_download_kib: raw.limit_download_kib,
        retry_lock: raw.retry_lock,
        maintenance,
    }
}

fn check_secret(source: &SecretSource, settings: &ServerSettings, problems: &mut Vec<Problem>) {
    let mut error = |message: String| problems.push(source.place.error(&source.file, message));
    match &source.secret {
        SecretRef::File(path) => {
            if let Err(message) = rules::file_path(path).and_then(|()| rules::placeholders(path)) {
                error(format!("the secret's file {} {message}", shown(path)));
                return;
            }
            let roots: Vec<String> = settings.secret_roots.iter().map(|root| shown(root)).collect();
            let roots = if roots.is_empty() { "none".to_owned() } else { roots.join(", ") };
            let path_shown = shown(path);
            match rules::is_below(path, &settings.secret_roots) {
                Some(true) => {}
                Some(false) => error(format!("the secret's file {path_shown} is not below server.toml's secret_roots ({roots})")),
                None => problems.push(source.place.warning(
                    &source.file,
                    format!("whether the secret's file {path_shown} is below server.toml's secret_roots ({roots}) is only known where it is read: write both as absolute paths, or both relative"),
                )),
            }
        }
        SecretRef::Command(name) if !settings.secret_commands.contains_key(name) => {
            let known = settings.secret_commands.keys().map(String::as_str);
            let hint = nearest(name, known).map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            error(format!("no secret command {} in server.toml's [secret_commands]{hint}", shown(name)));
        }
        SecretRef::Agent(name) if !is_secret_name(name) => {
            error(format!("the agent's secret {} is no name: use 1 to 63 of a-z, A-Z, 0-9, '_' and '-'", shown(name)));
        }
        SecretRef::Command(_) | SecretRef::Agent(_) => {}
    }
}

/// Suggestions for unknown names. They are remembered and bounded, because ten thousand hosts may name the same
/// missing group, or each another one.
#[derive(Default)]
struct Suggestions {
    made: HashMap<String, String>,
}

impl Suggestions {
    const MOST: usize = 100;

    fn unknown<'k, Known: Iterator<Item = &'k str>>(
        &mut self,
        what: &str,
        name: &str,
        known: impl Fn() -> Known,
    ) -> String {
        let key = format!("{what} {name}");
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        let mut message = format!("no {what} {name:?}");
        if self.made.len() >= Self::MOST {
            return message;
        }
        match nearest(name, known()) {
            Some(near) => message.push_str(&format!("; did you mean {near:?}?")),
            None if known().next().is_none() => message.push_str(&format!("; there is no {what} at all")),
            None => {}
        }
        self.made.insert(key, message.clone());
        message
    }
}
