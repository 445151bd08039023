//! Pure. How one fleet differs from another: host by host, schedule by schedule, field by field, as the server would make new
//! versions of it. Does not say whether that is good, read the files, or print it.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::fields::{self, Fields};
use super::{Fleet, Host, HostSchedule};
use crate::id::{HostName, RepositoryName};

/// One field that is not what it was. `None`: not set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldChange {
    /// As it is written, such as "cron", "retention.keep_daily".
    pub field: String,
    pub from: Option<Value>,
    pub to: Option<Value>,
}

/// What became of something that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    Added,
    Removed,
    Changed,
}

/// A schedule of a host, or a repository. All fields of one that was added; none of one that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ItemChange {
    pub name: String,
    pub what: What,
    pub fields: Vec<FieldChange>,
}

/// What one host would be sent anew. Nothing of one that is removed: its history stays, its schedules end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostChange {
    pub what: What,
    /// Its repository, and what it is told about that; for a host that is new, only which repository.
    pub settings: Vec<FieldChange>,
    pub schedules: Vec<ItemChange>,
}

/// All differences.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Difference {
    /// server.toml's.
    pub server: Vec<FieldChange>,
    pub repositories: Vec<ItemChange>,
    pub hosts: BTreeMap<HostName, HostChange>,
    /// Hosts of the new fleet that nothing changes for.
    pub unchanged_hosts: usize,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.server.is_empty() && self.repositories.is_empty() && self.hosts.is_empty()
    }

    /// How many hosts this becomes of.
    pub fn count(&self, what: What) -> usize {
        self.hosts.values().filter(|change| change.what == what).count()
    }

    /// Hosts with the same change together, in the order of their first ones.
    pub fn grouped(&self) -> Vec<(Vec<&HostName>, &HostChange)> {
        let mut place: HashMap<&HostChange, usize> = HashMap::new();
        let mut groups: Vec<(Vec<&HostName>, &HostChange)> = Vec::new();
        for (name, change) in &self.hosts {
            let at = *place.entry(change).or_insert(groups.len());
            match groups.get_mut(at) {
                Some((names, _)) => names.push(name),
                None => groups.push((vec![name], change)),
            }
        }
        groups
    }
}

/// What turns `old` into `new`. Both without errors.
pub fn difference(old: &Fleet, new: &Fleet) -> Difference {
    let server = between(&fields::of_settings(&old.settings), &fields::of_settings(&new.settings));
    let repositories = items(&old.repositories, &new.repositories, fields::of_repository);
    let mut settings = Settings { old, new, known: HashMap::new() };
    let mut hosts = BTreeMap::new();
    let mut unchanged_hosts = 0;
    for (name, host) in &new.hosts {
        let before = old.hosts.get(name);
        // The same value where one load knew the other.
        let schedules = match before {
            Some(before) if std::sync::Arc::ptr_eq(before, host) => Vec::new(),
            before => items(&by_id(before.map(|host| &**host)), &by_id(Some(host)), |held| fields::of_schedule(held)),
        };
        let (what, settings) = match before {
            None => (What::Added, Vec::from_iter(repository_of(None, host.repository.as_ref()))),
            Some(before) => (What::Changed, settings.of(before, host)),
        };
        if what == What::Added || !settings.is_empty() || !schedules.is_empty() {
            hosts.insert(name.clone(), HostChange { what, settings, schedules });
        } else {
            unchanged_hosts += 1;
        }
    }
    for name in old.hosts.keys().filter(|name| !new.hosts.contains_key(name)) {
        let gone = HostChange { what: What::Removed, settings: Vec::new(), schedules: Vec::new() };
        hosts.insert(name.clone(), gone);
    }
    Difference { server, repositories, hosts, unchanged_hosts }
}

fn by_id(host: Option<&Host>) -> BTreeMap<&str, &HostSchedule> {
    host.iter().flat_map(|host| &host.schedules).map(|held| (held.schedule.id.as_str(), held)).collect()
}

/// Fields that differ, in the new order, and then those that are gone.
fn between(old: &Fields, new: &Fields) -> Vec<FieldChange> {
    let value = |fields: &Fields, name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone());
    let gone = old.iter().filter(|(name, _)| value(new, name).is_none());
    let names = new.iter().chain(gone).map(|(name, _)| name);
    let changes = names.map(|name| FieldChange { field: name.clone(), from: value(old, name), to: value(new, name) });
    changes.filter(|change| change.from != change.to).collect()
}

fn items<Name: Ord + ToString, T>(
    old: &BTreeMap<Name, T>,
    new: &BTreeMap<Name, T>,
    fields_of: impl Fn(&T) -> Fields,
) -> Vec<ItemChange>
where
    T: PartialEq,
{
    let change = |name: &Name, what, fields| ItemChange { name: name.to_string(), what, fields };
    let there = new.iter().filter_map(|(name, item)| match old.get(name) {
        None => Some(change(name, What::Added, between(&Fields::new(), &fields_of(item)))),
        Some(before) if before == item => None,
        Some(before) => {
            let fields = between(&fields_of(before), &fields_of(item));
            (!fields.is_empty()).then(|| change(name, What::Changed, fields))
        }
    });
    let gone = old.keys().filter(|name| !new.contains_key(name));
    let mut all: Vec<ItemChange> = there.chain(gone.map(|name| change(name, What::Removed, Vec::new()))).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn repository_of(old: Option<&RepositoryName>, new: Option<&RepositoryName>) -> Option<FieldChange> {
    let value = |name: Option<&RepositoryName>| name.map(|name| Value::from(name.as_str()));
    (old != new).then(|| FieldChange { field: "repository".to_owned(), from: value(old), to: value(new) })
}

/// What hosts are sent beside their schedules. The same for all hosts that go from one repository to another.
struct Settings<'a> {
    old: &'a Fleet,
    new: &'a Fleet,
    known: HashMap<(Option<&'a RepositoryName>, Option<&'a RepositoryName>), Vec<FieldChange>>,
}

impl<'a> Settings<'a> {
    fn of(&mut self, before: &'a Host, host: &'a Host) -> Vec<FieldChange> {
        let (old, new) = (self.old, self.new);
        let pair = (before.repository.as_ref(), host.repository.as_ref());
        let all = self.known.entry(pair).or_insert_with(|| {
            let sent = |fleet: &Fleet, name: Option<&RepositoryName>| {
                let repository = name.and_then(|name| fleet.repositories.get(name));
                let mut sent = repository.map(fields::of_repository_for_hosts).unwrap_or_default();
                sent.push(("hook_shell".to_owned(), fleet.settings.hook_shell.as_str().into()));
                sent
            };
            let changed = between(&sent(old, pair.0), &sent(new, pair.1));
            repository_of(pair.0, pair.1).into_iter().chain(changed).collect()
        });
        // Two templates may come to the same for one host.
        let meant = |value: &Option<Value>| value.as_ref().map(|value| for_host(value, &host.name));
        all.iter().filter(|change| meant(&change.from) != meant(&change.to)).cloned().collect()
    }
}

fn for_host(value: &Value, host: &HostName) -> Value {
    match value {
        Value::String(text) => super::for_host(text, host).into(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), for_host(value, host))).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
