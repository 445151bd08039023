//! Pure. A host's effective values: its groups in the listed order, then its own file, field by field; also key by key
//! inside `options` and `retention`. Checks whether what comes out is a schedule.
//! Does not check single values: `raw` has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::raw::RawHost;
use super::raw_schedule::{RawRetention, RawSchedule, ScheduleEntry, Typed};
use super::retention_checks::{check_policy, check_retention, check_source};
use super::{Host, HostSchedule};
use crate::cron_time::CronExpression;
use crate::id::{GroupName, HostName, RepositoryName, ScheduleId};
use crate::problem::{Problem, Severity};
use crate::protocol::job_options::{JobKind, ScheduleOptions};
use crate::protocol::schedule::Schedule;
use crate::retention::RetentionPolicy;
use crate::server::alert_rules::{Absence, Alarms};
use crate::toml_reader::{Place, Placed};

/// What hosts have in common while they are put together.
pub(super) struct Context {
    /// By cron text, the shortest time between two fires.
    gaps: HashMap<String, Option<TimeDelta>>,
}

impl Context {
    pub(super) fn new() -> Self {
        Self { gaps: HashMap::new() }
    }

    pub(super) fn shortest_gap(&mut self, cron: &str) -> Option<TimeDelta> {
        if !self.gaps.contains_key(cron) {
            self.gaps.insert(cron.to_owned(), shortest_gap(cron));
        }
        self.gaps.get(cron).copied().flatten()
    }
}

/// A host and what is not right about it.
#[derive(Debug)]
pub(super) struct Effective {
    pub(super) host: Arc<Host>,
    pub(super) problems: Vec<Problem>,
    /// Where a backup schedule's retention stands, for those that have one.
    pub(super) retentions: Vec<(String, Place)>,
    /// Forget schedules of its own about the snapshots of a backup schedule that has retention itself.
    pub(super) forgets: Vec<(String, Place)>,
    /// What its copy schedules write to.
    pub(super) copies: Vec<(RepositoryName, String, Place)>,
    /// It has no schedules: told unless it maintains a repository.
    pub(super) idle: Option<Problem>,
}

/// Puts a host together. `groups` are those that exist, in the listed order.
pub(super) fn effective_host(
    name: HostName,
    own: &RawHost,
    groups: &[(GroupName, &RawHost)],
    context: &mut Context,
) -> Effective {
    let layers: Vec<&RawHost> = groups.iter().map(|(_, raw)| *raw).chain([own]).collect();
    let timezone = layers.iter().rev().find_map(|raw| raw.timezone.as_ref()).map(|zone| zone.value);
    let repository: Option<RepositoryName> =
        layers.iter().rev().find_map(|raw| raw.repository.as_ref()).map(|name| name.value.clone());
    let mut tags: Vec<String> = Vec::new();
    add_tags(&mut tags, layers.iter().flat_map(|raw| &raw.tags));

    let mut by_id: BTreeMap<&ScheduleId, Vec<Layer<'_>>> = BTreeMap::new();
    for raw in &layers {
        for entry in &raw.schedules {
            by_id.entry(&entry.id).or_default().push(Layer { file: &raw.file, entry });
        }
    }
    let sound = layers.iter().all(|raw| raw.sound);
    let mut problems = Vec::new();
    let mut schedules = Vec::with_capacity(by_id.len());
    let mut merged = Vec::with_capacity(by_id.len());
    for (id, layers) in by_id {
        let layers = Layers(layers);
        if let Some(schedule) = effective_schedule(id, &layers, timezone, &tags, sound, &mut problems) {
            schedules.push(schedule);
            merged.push(layers);
        }
    }
    // Of one that is wrong it is not known what it would have been.
    let all_sound = sound && problems.iter().all(|problem| problem.severity != Severity::Error);
    let mut retentions = Vec::new();
    for (schedule, layers) in schedules.iter().zip(&merged) {
        check_retention(schedule, layers, &schedules, context, &mut problems);
        if all_sound {
            check_source(schedule, layers, &schedules, &mut problems);
        }
        if let Some((file, retention)) = layers.last(|raw| &raw.retention)
            && schedule.schedule.kind == JobKind::Backup
            && !schedule.schedule.retention_policy.is_empty()
        {
            retentions.push((file.to_owned(), retention.place));
        }
    }
    let mut forgets = Vec::new();
    for (schedule, layers) in schedules.iter().zip(&merged).filter(|(held, _)| held.schedule.kind == JobKind::Forget) {
        let source = schedule.schedule.options.schedule.as_ref().unwrap_or(&schedule.schedule.id);
        let keeps = |held: &HostSchedule| {
            let Schedule { id, kind, retention_policy, .. } = &held.schedule;
            id == source && *kind == JobKind::Backup && !retention_policy.is_empty()
        };
        if schedules.iter().any(keeps) {
            let (file, place) = layers.place();
            forgets.push((file.to_owned(), place));
        }
    }
    let copies = schedules.iter().zip(&merged).filter(|(held, _)| held.schedule.kind == JobKind::Copy);
    let copies = copies.filter_map(|(_, layers)| {
        let (file, to) = layers.last(|raw| &raw.to)?;
        Some((to.value.clone(), file.to_owned(), to.place))
    });
    let copies: Vec<_> = copies.collect();
    // A copy of a repository into itself has nothing to do: `load` tells.
    for held in schedules.iter_mut().filter(|held| held.schedule.kind == JobKind::Copy) {
        held.schedule.enabled &= repository.is_none() || held.schedule.options.to != repository;
    }
    let mut idle = None;
    if layers.iter().all(|raw| raw.clean) {
        if schedules.is_empty() {
            let message = "the host has no schedules, so nothing of it is backed up";
            idle = Some(Place::FILE.warning(&own.file, message));
        } else if repository.is_none() {
            let message = "the host has schedules but no repository: write for example repository = \"main\"";
            problems.push(Place::FILE.error(&own.file, message));
        }
    }
    let groups = groups.iter().map(|(name, _)| name.clone()).collect();
    let often_away = layers.iter().rev().find_map(|raw| raw.often_away).unwrap_or(false);
    let offline_after = layers.iter().rev().find_map(|raw| raw.offline_after);
    let absence = Absence::of(often_away, offline_after);
    let host = Arc::new(Host { name, groups, repository, tags, timezone, absence, schedules });
    Effective { host, problems, retentions, forgets, copies, idle }
}

/// An agent takes commands of 256 KiB, in which quotes and backslashes take more room than here.
const LONGEST_LISTS: usize = 120 * 1024;

/// One file's say in a schedule.
pub(super) struct Layer<'a> {
    file: &'a str,
    entry: &'a ScheduleEntry,
}

/// All files' say in a schedule: groups first, the host last. Never empty.
pub(super) struct Layers<'a>(Vec<Layer<'a>>);

impl<'a> Layers<'a> {
    /// The last file that has the field, and what it says.
    pub(super) fn last<T>(&self, field: impl Fn(&'a RawSchedule) -> &'a Typed<T>) -> Option<(&'a str, &'a Placed<T>)> {
        self.0.iter().rev().find_map(|layer| field(&layer.entry.raw).as_ref().map(|value| (layer.file, value)))
    }

    fn value<T: Clone + 'a>(&self, field: impl Fn(&'a RawSchedule) -> &'a Typed<T>) -> Option<T> {
        self.last(field).map(|(_, value)| value.value.clone())
    }

    /// Text that may be empty, which stands for none.
    fn text(&self, field: impl Fn(&'a RawSchedule) -> &'a Typed<String>) -> Option<String> {
        self.value(field).filter(|text| !text.is_empty())
    }

    fn retention(&self) -> RetentionPolicy {
        let layers = self.0.iter().filter_map(|layer| layer.entry.raw.retention.as_ref());
        layers.fold(RawRetention::default(), |under, over| under.overlaid_by(&over.value)).policy()
    }

    fn sound(&self) -> bool {
        self.0.iter().all(|layer| layer.entry.raw.sound)
    }

    /// The file and place that a problem of the whole schedule is told at.
    pub(super) fn place(&self) -> (&'a str, Place) {
        self.0.last().map_or(("", Place::FILE), |layer| (layer.file, layer.entry.place))
    }
}

fn effective_schedule(
    id: &ScheduleId,
    layers: &Layers<'_>,
    timezone: Option<Tz>,
    tags: &[String],
    sound: bool,
    problems: &mut Vec<Problem>,
) -> Option<HostSchedule> {
    let (file, place) = layers.place();
    let sound = sound && layers.sound();
    let mut error = |message: String| {
        if sound {
            problems.push(place.error(file, message));
        }
    };
    let kind = layers.value(|raw| &raw.kind);
    let cron = layers.value(|raw| &raw.cron);
    if kind.is_none() {
        error(format!("schedule {:?} has no kind: write for example kind = \"backup\"", id.as_str()));
    }
    if cron.is_none() {
        error(format!("schedule {:?} has no cron: write for example cron = \"15 2 * * *\"", id.as_str()));
    }
    let (kind, cron) = (kind?, cron?);
    let paths = layers.value(|raw| &raw.paths).unwrap_or_default();
    let excludes = layers.value(|raw| &raw.excludes).unwrap_or_default();
    let retention_policy = layers.retention();
    let listed: usize = paths.iter().chain(&excludes).map(|text| text.len() + 4).sum();
    if listed > LONGEST_LISTS {
        error(format!(
            "schedule {:?} lists {} KiB of paths and excludes, more than {} KiB, which no agent takes: name directories, or split it",
            id.as_str(),
            listed / 1024,
            LONGEST_LISTS / 1024
        ));
    }
    if kind == JobKind::Backup && paths.is_empty() {
        error(format!("backup schedule {:?} has no paths: write for example paths = [\"/etc\"]", id.as_str()));
    }
    if kind == JobKind::Forget && retention_policy.is_empty() && layers.last(|raw| &raw.retention).is_none() {
        error(format!(
            "forget schedule {:?} keeps nothing: write for example retention = {{ keep_daily = 7 }}",
            id.as_str()
        ));
    }
    let options = effective_options(layers);
    if kind == JobKind::Copy && options.to.is_none() {
        error(format!(
            "copy schedule {:?} has no target: write for example options = {{ to = \"offsite\" }}",
            id.as_str()
        ));
    }
    if options.read_data && options.read_data_subset.is_some() {
        error(format!("check schedule {:?} has read_data and read_data_subset: choose one", id.as_str()));
    }
    if sound {
        warn_of_useless(kind, layers, problems);
        check_policy(id, kind, &retention_policy, layers, problems);
    }
    let mut all_tags = Vec::new();
    if kind == JobKind::Backup {
        let own_tags = layers.last(|raw| &raw.tags).map_or(&[][..], |(_, tags)| tags.value.as_slice());
        add_tags(&mut all_tags, tags.iter().chain(own_tags));
    }
    let schedule = Schedule {
        id: id.clone(),
        kind,
        cron_expr: cron,
        timezone: layers.value(|raw| &raw.timezone).or(timezone).map(|zone| zone.name().to_owned()),
        splay: layers.value(|raw| &raw.splay).unwrap_or_default(),
        paths,
        excludes,
        tags: all_tags,
        retention_policy,
        options,
        pre_hook: layers.text(|raw| &raw.pre_hook).filter(|_| kind == JobKind::Backup),
        post_hook: layers.text(|raw| &raw.post_hook).filter(|_| kind == JobKind::Backup),
        enabled: layers.value(|raw| &raw.enabled).unwrap_or(true),
    };
    let default = Alarms::default();
    let alarms = Alarms {
        max_age: layers.value(|raw| &raw.max_age),
        shrink_percent: layers.value(|raw| &raw.shrink).unwrap_or(default.shrink_percent),
        no_new_data: layers.value(|raw| &raw.no_new_data).unwrap_or(default.no_new_data),
    };
    Some(HostSchedule { schedule, alarms, ping_url: layers.value(|raw| &raw.ping_url) })
}

fn effective_options(layers: &Layers<'_>) -> ScheduleOptions {
    ScheduleOptions {
        iexcludes: layers.value(|raw| &raw.iexcludes).unwrap_or_default(),
        one_file_system: layers.value(|raw| &raw.one_file_system).unwrap_or(false),
        exclude_caches: layers.value(|raw| &raw.exclude_caches).unwrap_or(false),
        exclude_if_present: layers.value(|raw| &raw.exclude_if_present).unwrap_or_default(),
        exclude_larger_than: layers.text(|raw| &raw.exclude_larger_than),
        use_fs_snapshot: layers.value(|raw| &raw.use_fs_snapshot).unwrap_or_default(),
        exclude_cloud_files: layers.value(|raw| &raw.exclude_cloud_files).unwrap_or(false),
        incomplete: layers.value(|raw| &raw.incomplete).unwrap_or_default(),
        retries: layers.value(|raw| &raw.retries).and_then(|n| u8::try_from(n).ok()).unwrap_or(0),
        catch_up: layers.value(|raw| &raw.catch_up).unwrap_or(true),
        schedule: layers.value(|raw| &raw.schedule),
        max_unused: layers.text(|raw| &raw.max_unused),
        read_data: layers.value(|raw| &raw.read_data).unwrap_or(false),
        read_data_subset: layers.text(|raw| &raw.read_data_subset),
        hook_timeout: layers.value(|raw| &raw.hook_timeout),
        sample_bytes: layers.value(|raw| &raw.sample_bytes),
        sample_files: layers.value(|raw| &raw.sample_files).and_then(|n| u32::try_from(n).ok()),
        to: layers.value(|raw| &raw.to),
    }
}

/// Appends those that are not there yet.
fn add_tags<'t>(tags: &mut Vec<String>, more: impl IntoIterator<Item = &'t String>) {
    for tag in more {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
}

/// What a schedule says that its kind does not use.
fn warn_of_useless(kind: JobKind, layers: &Layers<'_>, problems: &mut Vec<Problem>) {
    let mut warn = |at: Option<(&str, Place)>, key: &str| {
        if let Some((file, place)) = at {
            problems.push(place.warning(file, format!("{key} means nothing to a {kind} schedule")));
        }
    };
    if kind != JobKind::Backup {
        warn(layers.last(|raw| &raw.paths).map(|(file, value)| (file, value.place)), "paths");
        warn(layers.last(|raw| &raw.excludes).map(|(file, value)| (file, value.place)), "excludes");
        warn(layers.last(|raw| &raw.tags).map(|(file, value)| (file, value.place)), "tags");
        warn(layers.last(|raw| &raw.shrink).map(|(file, value)| (file, value.place)), "alarms.shrink");
        warn(layers.last(|raw| &raw.no_new_data).map(|(file, value)| (file, value.place)), "alarms.no_new_data");
        warn(layers.last(|raw| &raw.pre_hook).map(|(file, value)| (file, value.place)), "pre_hook");
        warn(layers.last(|raw| &raw.post_hook).map(|(file, value)| (file, value.place)), "post_hook");
    }
    if !matches!(kind, JobKind::Backup | JobKind::Forget) {
        warn(layers.last(|raw| &raw.retention).map(|(file, value)| (file, value.place)), "retention");
    }
    if !matches!(kind, JobKind::Copy | JobKind::Forget | JobKind::Verify) {
        warn(layers.last(|raw| &raw.schedule).map(|(file, value)| (file, value.place)), "options.schedule");
    }
    if !matches!(kind, JobKind::Backup | JobKind::Verify) {
        warn(layers.last(|raw| &raw.retries).map(|(file, value)| (file, value.place)), "retries");
    }
    if kind != JobKind::Copy {
        warn(layers.last(|raw| &raw.to).map(|(file, value)| (file, value.place)), "options.to");
    }
    if kind != JobKind::Verify {
        warn(layers.last(|raw| &raw.sample_bytes).map(|(file, value)| (file, value.place)), "options.sample_bytes");
        warn(layers.last(|raw| &raw.sample_files).map(|(file, value)| (file, value.place)), "options.sample_files");
    }
}

/// The shortest of the first gaps between fires; the zone makes no difference that matters here.
fn shortest_gap(cron: &str) -> Option<TimeDelta> {
    const FIRES: usize = 16;
    let expression = CronExpression::parse(cron).ok()?;
    // Any instant does, as long as it is always the same: this is no clock.
    let start: DateTime<Utc> = DateTime::from_timestamp(1_704_067_200, 0)?;
    let next = |at: &DateTime<Utc>| expression.next_after(Tz::UTC, *at);
    let fires: Vec<DateTime<Utc>> = std::iter::successors(next(&start), next).take(FIRES).collect();
    fires.windows(2).map(|pair| pair[1] - pair[0]).min()
}
