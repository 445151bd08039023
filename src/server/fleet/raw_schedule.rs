//! Pure. One `[[schedule]]` as it was typed, each value with its place and checked alone.
//! Does not know whether the values make a schedule together: `effective` puts a group's and a host's together first.

use chrono_tz::Tz;

use super::rules;
use super::secret_text::{SecretText, read_ping_url};
use crate::cron_time::CronExpression;
use crate::id::{RepositoryName, ScheduleId};
use crate::protocol::job_options::{FsSnapshot, IncompleteMeans, JobKind};
use crate::protocol::text::Span;
use crate::retention::RetentionPolicy;
use crate::toml_reader::{Place, Placed, TableReader, nearest, shown};

/// A value that may be absent, and where it stands.
pub(super) type Typed<T> = Option<Placed<T>>;

/// What was typed; absent keys leave a group's value or the default.
#[derive(Debug, Default)]
pub(super) struct RawSchedule {
    /// False where a value of it is wrong: what seems to be absent may be that.
    pub(super) sound: bool,
    pub(super) kind: Typed<JobKind>,
    pub(super) cron: Typed<String>,
    pub(super) timezone: Typed<Tz>,
    pub(super) splay: Typed<Span>,
    pub(super) paths: Typed<Vec<String>>,
    pub(super) excludes: Typed<Vec<String>>,
    pub(super) tags: Typed<Vec<String>>,
    pub(super) retention: Typed<RawRetention>,
    pub(super) retries: Typed<u64>,
    pub(super) max_age: Typed<Span>,
    pub(super) incomplete: Typed<IncompleteMeans>,
    pub(super) catch_up: Typed<bool>,
    pub(super) pre_hook: Typed<String>,
    pub(super) post_hook: Typed<String>,
    pub(super) hook_timeout: Typed<Span>,
    pub(super) enabled: Typed<bool>,
    pub(super) ping_url: Typed<SecretText>,
    // What `alarms` holds:
    /// Percent; 0: not watched.
    pub(super) shrink: Typed<u8>,
    /// Runs; 0: not watched.
    pub(super) no_new_data: Typed<u32>,
    // What `options` holds:
    pub(super) iexcludes: Typed<Vec<String>>,
    pub(super) one_file_system: Typed<bool>,
    pub(super) exclude_caches: Typed<bool>,
    pub(super) exclude_if_present: Typed<Vec<String>>,
    /// Empty: none.
    pub(super) exclude_larger_than: Typed<String>,
    pub(super) use_fs_snapshot: Typed<FsSnapshot>,
    pub(super) exclude_cloud_files: Typed<bool>,
    pub(super) schedule: Typed<ScheduleId>,
    /// Empty: none.
    pub(super) max_unused: Typed<String>,
    pub(super) read_data: Typed<bool>,
    /// Empty: none.
    pub(super) read_data_subset: Typed<String>,
    pub(super) sample_bytes: Typed<u64>,
    pub(super) sample_files: Typed<u64>,
    pub(super) to: Typed<RepositoryName>,
}

const IN_SCHEDULE: [&str; 5] = ["retries", "incomplete", "catch_up", "hook_timeout", "max_age"];
const IN_OPTIONS: [&str; 14] = [
    "iexcludes",
    "one_file_system",
    "exclude_caches",
    "exclude_if_present",
    "exclude_larger_than",
    "use_fs_snapshot",
    "exclude_cloud_files",
    "schedule",
    "max_unused",
    "read_data",
    "read_data_subset",
    "sample_bytes",
    "sample_files",
    "to",
];

/// The sizes of so many runs are remembered.
const MOST_RUNS_WITHOUT_NEW_DATA: u64 = 30;

/// `"50%"`: of how much less than before is told; `"off"`: 0.
struct Shrink(u8);

impl std::str::FromStr for Shrink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            if text == "off" { Some(0) } else { text.strip_suffix('%').and_then(|number| number.parse().ok()) };
        let number = number.filter(|number| (0..=99).contains(number));
        number.map(Self).ok_or_else(|| format!("{} is no share: write for example \"50%\", or \"off\"", shown(text)))
    }
}

/// Each is named to restic.
const MOST_SAMPLE_FILES: u64 = 500;

/// `"500M"`: a size as restic writes it, in bytes.
struct SampleBytes(u64);

impl std::str::FromStr for SampleBytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']);
        let unit = text.chars().last().and_then(|last| "KMGT".find(last.to_ascii_uppercase()));
        let shift = unit.map_or(0, |at| 10 * (at + 1));
        let plain = digits.len() <= 6 && text.len() <= digits.len() + 1 && digits.bytes().all(|b| b.is_ascii_digit());
        let bytes = digits.parse().ok().filter(|number| plain && *number > 0).map(|number: u64| number << shift);
        bytes.map(Self).ok_or_else(|| format!("{} is no size: write for example \"500M\" or \"2G\"", shown(text)))
    }
}

/// Longer ones would have a fire wait past the next.
const LONGEST_SPLAY: Span = Span::from_secs(7 * 86_400);
/// Longer than a day, and the next day's backup would not run.
const LONGEST_HOOK: Span = Span::from_secs(86_400);

/// Reads one table. Without a usable id there is nothing to hold its values by.
pub(super) fn read_schedule(table: &mut TableReader<'_>) -> (Typed<ScheduleId>, RawSchedule) {
    let problems_before = table.problem_count();
    let id = read_id(table);
    let mut raw = RawSchedule {
        kind: read_kind(table),
        cron: read_cron(table, "cron"),
        timezone: read_timezone(table),
        splay: table.parsed("splay"),
        paths: read_list(table, "paths", rules::path),
        excludes: read_list(table, "excludes", rules::pattern),
        tags: read_list(table, "tags", rules::tag),
        retention: table.table("retention", read_retention),
        retries: table.integer("retries", 0..=10),
        max_age: table.parsed("max_age"),
        incomplete: table.choice("incomplete", &[("warn", IncompleteMeans::Warn), ("fail", IncompleteMeans::Fail)]),
        catch_up: table.boolean("catch_up"),
        pre_hook: read_checked(table, "pre_hook", rules::hook),
        post_hook: read_checked(table, "post_hook", rules::hook),
        hook_timeout: table.parsed("hook_timeout"),
        enabled: table.boolean("enabled"),
        ping_url: read_ping_url(table),
        ..RawSchedule::default()
    };
    if let Some(splay) = &raw.splay
        && splay.value > LONGEST_SPLAY
    {
        table.error(splay.place, format!("splay is at most {LONGEST_SPLAY}"));
    }
    if let Some(age) = &raw.max_age
        && age.value.is_zero()
    {
        table.error(age.place, "max_age is longer than nothing: leave it out for no limit");
    }
    if let Some(timeout) = &raw.hook_timeout
        && (timeout.value.is_zero() || timeout.value > LONGEST_HOOK)
    {
        table.error(timeout.place, format!("hook_timeout is between 1s and {LONGEST_HOOK}"));
    }
    table.table("alarms", |alarms| {
        raw.shrink = alarms.parsed::<Shrink>("shrink").map(|share| share.map(|share| share.0));
        let runs = alarms.integer("no_new_data", 0..=MOST_RUNS_WITHOUT_NEW_DATA);
        raw.no_new_data = runs.map(|runs| runs.map(|runs| u32::try_from(runs).unwrap_or(u32::MAX)));
    });
    table.table("options", |options| read_options(options, &mut raw));
    table.misplaced(&IN_OPTIONS, "into options = { ... }");
    table.report_unknown();
    raw.sound = table.problem_count() == problems_before;
    (id, raw)
}

fn read_options(options: &mut TableReader<'_>, raw: &mut RawSchedule) {
    raw.iexcludes = read_list(options, "iexcludes", rules::pattern);
    raw.one_file_system = options.boolean("one_file_system");
    raw.exclude_caches = options.boolean("exclude_caches");
    raw.exclude_if_present = read_list(options, "exclude_if_present", rules::pattern);
    raw.exclude_larger_than = read_checked(options, "exclude_larger_than", rules::size);
    raw.use_fs_snapshot = options.choice(
        "use_fs_snapshot",
        &[("off", FsSnapshot::Off), ("try", FsSnapshot::Try), ("require", FsSnapshot::Require)],
    );
    raw.exclude_cloud_files = options.boolean("exclude_cloud_files");
    raw.schedule = options.parsed("schedule");
    raw.max_unused = read_checked(options, "max_unused", rules::max_unused);
    raw.read_data = options.boolean("read_data");
    raw.read_data_subset = read_checked(options, "read_data_subset", |text| rules::read_data_subset(text, false));
    raw.sample_bytes = options.parsed::<SampleBytes>("sample_bytes").map(|size| size.map(|size| size.0));
    raw.sample_files = options.integer("sample_files", 1..=MOST_SAMPLE_FILES);
    raw.to = options.parsed("to");
    options.misplaced(&IN_SCHEDULE, "beside options, not into it");
}

fn read_id(table: &mut TableReader<'_>) -> Typed<ScheduleId> {
    if table.place_of("id").is_none() {
        // Asked for also where absent, so that a misspelled one gets a suggestion.
        let _: Typed<String> = table.string("id");
        table.missing("id", "id = \"system\"");
        return None;
    }
    let id: Placed<ScheduleId> = table.parsed("id")?;
    if id.value.as_str().contains(':') {
        table.error(id.place, format!("id {:?} has a ':', which maintenance keeps for itself", id.value.as_str()));
        return None;
    }
    Some(id)
}

fn read_kind(table: &mut TableReader<'_>) -> Typed<JobKind> {
    let text = table.string("kind")?;
    match text.value.parse::<JobKind>() {
        Ok(JobKind::Restore) => {
            table.error(text.place, "kind \"restore\" cannot be scheduled: ask for a restore when it is needed");
            None
        }
        Ok(kind) if kind.is_query() => {
            table.error(
                text.place,
                format!("kind \"{kind}\" cannot be scheduled: it is a question, asked when somebody wants to know"),
            );
            None
        }
        Ok(kind) => Some(Placed { value: kind, place: text.place }),
        Err(error) => {
            let hint = nearest(&text.value, JobKind::ALL.map(JobKind::as_str));
            let hint = hint.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            table.error(text.place, format!("kind: {error}{hint}"));
            None
        }
    }
}

/// A cron expression that is due at some time.
pub(super) fn read_cron<'d>(table: &mut TableReader<'d>, key: &'d str) -> Typed<String> {
    let text = table.string(key)?;
    check_cron(table, key, text)
}

/// The same for text that was read already.
pub(super) fn check_cron(table: &TableReader<'_>, key: &str, text: Placed<String>) -> Typed<String> {
    match CronExpression::parse(&text.value) {
        Ok(_) => Some(text),
        Err(error) => {
            table.error(text.place, format!("{key}: {error}"));
            None
        }
    }
}

/// An IANA zone's name.
pub(super) fn read_timezone(table: &mut TableReader<'_>) -> Typed<Tz> {
    let text = table.string("timezone")?;
    if let Ok(zone) = text.value.parse::<Tz>() {
        return Some(Placed { value: zone, place: text.place });
    }
    let hint = nearest(&text.value, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
    let hint = hint.map_or("write for example \"Europe/London\"".to_owned(), |near| format!("did you mean {near:?}?"));
    table.error(text.place, format!("timezone {} is not an IANA time zone; {hint}", shown(&text.value)));
    None
}

/// A list of texts that each follow a rule.
pub(super) fn read_list<'d>(
    table: &mut TableReader<'d>,
    key: &'d str,
    rule: impl Fn(&str) -> rules::Checked,
) -> Typed<Vec<String>> {
    let list = table.strings(key)?;
    let mut all_right = true;
    for item in &list.value {
        if let Err(message) = rule(&item.value) {
            table.error(item.place, format!("{key}: {message}"));
            all_right = false;
        }
    }
    all_right.then(|| list.map(|items| items.into_iter().map(|item| item.value).collect()))
}

/// Text that follows a rule, or is empty, which stands for none.
pub(super) fn read_checked<'d>(
    table: &mut TableReader<'d>,
    key: &'d str,
    rule: impl Fn(&str) -> rules::Checked,
) -> Typed<String> {
    let text = table.string(key)?;
    if !text.value.is_empty()
        && let Err(message) = rule(&text.value)
    {
        table.error(text.place, format!("{key}: {message}"));
        return None;
    }
    Some(text)
}

/// The rules of `retention`; absent ones leave a group's.
#[derive(Debug, Clone, Default)]
pub(super) struct RawRetention {
    counts: [Option<u32>; 6],
    /// Empty: none.
    spans: [Option<String>; 6],
    tags: Option<Vec<String>>,
}

const COUNTS: [&str; 6] = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"];
const SPANS: [&str; 6] = [
    "keep_within",
    "keep_within_hourly",
    "keep_within_daily",
    "keep_within_weekly",
    "keep_within_monthly",
    "keep_within_yearly",
];

/// More would overflow restic's own counting on 32-bit hosts, and is "all" anyway.
const LARGEST_COUNT: u64 = 1_000_000;

fn read_retention(table: &mut TableReader<'_>) -> RawRetention {
    let mut raw = RawRetention::default();
    for (slot, key) in raw.counts.iter_mut().zip(COUNTS) {
        *slot = table.integer(key, 0..=LARGEST_COUNT).and_then(|count| u32::try_from(count.value).ok());
    }
    for (slot, key) in raw.spans.iter_mut().zip(SPANS) {
        *slot = table.string(key).map(|span| span.value);
    }
    raw.tags = read_list(table, "keep_tags", rules::tag).map(|tags| tags.value);
    for problem in RawRetention::default().overlaid_by(&raw).policy().problems() {
        table.error(table.place(), format!("retention: {problem}"));
    }
    raw
}

impl RawRetention {
    /// This one, with what the other one has in its place, rule by rule.
    pub(super) fn overlaid_by(mut self, over: &Self) -> Self {
        for (mine, theirs) in self.counts.iter_mut().zip(over.counts) {
            *mine = theirs.or(*mine);
        }
        for (mine, theirs) in self.spans.iter_mut().zip(&over.spans) {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
        if over.tags.is_some() {
            self.tags.clone_from(&over.tags);
        }
        self
    }

    pub(super) fn policy(&self) -> RetentionPolicy {
        let [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly] =
            self.counts.map(Option::unwrap_or_default);
        let [within, hourly, daily, weekly, monthly, yearly] =
            self.spans.clone().map(|span| span.filter(|text| !text.is_empty()));
        RetentionPolicy {
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_within: within,
            keep_within_hourly: hourly,
            keep_within_daily: daily,
            keep_within_weekly: weekly,
            keep_within_monthly: monthly,
            keep_within_yearly: yearly,
            keep_tags: self.tags.clone().unwrap_or_default(),
        }
    }
}

/// One file's entry for a schedule id.
#[derive(Debug)]
pub(super) struct ScheduleEntry {
    pub(super) id: ScheduleId,
    pub(super) place: Place,
    pub(super) raw: RawSchedule,
}

/// All `[[schedule]]` of a file, each id once.
pub(super) fn read_schedules(table: &mut TableReader<'_>) -> Vec<ScheduleEntry> {
    let mut first: std::collections::BTreeMap<ScheduleId, Place> = std::collections::BTreeMap::new();
    let mut entries = Vec::new();
    for Placed { value: (id, raw), place } in table.tables("schedule", read_schedule) {
        let Some(id) = id else { continue };
        if let Some(earlier) = first.get(&id.value) {
            table.error(id.place, format!("schedule {:?} is in line {} already", id.value.as_str(), earlier.line));
            continue;
        }
        first.insert(id.value.clone(), id.place);
        entries.push(ScheduleEntry { id: id.value, place, raw });
    }
    entries
}
