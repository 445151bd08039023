//! Pure. Hosts', groups' and repositories' files as they were typed, each value with its place and checked alone.
//! Does not follow references from one file to another: `load` and `effective` do.

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::raw_schedule::{
    ScheduleEntry, Typed, check_cron, read_checked, read_cron, read_list, read_schedules, read_timezone,
};
use super::{SecretRef, SecretSource, rules};
use crate::id::{GroupName, HostName, RepositoryName};
use crate::problem::Problem;
use crate::protocol::text::Span;
use crate::toml_reader::{Place, Placed, TableReader, read_document};

/// A host's file, or a group's, which is the same without groups.
#[derive(Debug)]
pub(super) struct RawHost {
    pub(super) file: String,
    /// False where the file is no TOML: what looks wrong in the rest may follow from that.
    pub(super) sound: bool,
    /// False where anything in it is wrong: what seems to be absent may be that.
    pub(super) clean: bool,
    pub(super) groups: Vec<Placed<GroupName>>,
    pub(super) repository: Typed<RepositoryName>,
    pub(super) tags: Vec<String>,
    pub(super) timezone: Typed<Tz>,
    pub(super) often_away: Option<bool>,
    pub(super) offline_after: Option<Span>,
    pub(super) schedules: Vec<ScheduleEntry>,
}

/// Whose file a `RawHost` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Host,
    Group,
}

/// Reads a host's or a group's file.
pub(super) fn read_host(file: &str, text: &str, whose: Whose, problems: &mut Vec<Problem>) -> RawHost {
    let read = |top: &mut TableReader<'_>| {
        let groups = match whose {
            Whose::Host => top.parsed_list("groups").unwrap_or_default(),
            Whose::Group => {
                top.misplaced(&["groups"], "into a host's file: a group has no groups");
                Vec::new()
            }
        };
        RawHost {
            file: file.to_owned(),
            sound: true,
            clean: true,
            groups,
            repository: top.parsed("repository"),
            tags: read_list(top, "tags", rules::tag).map_or_else(Vec::new, |tags| tags.value),
            timezone: read_timezone(top),
            often_away: top.boolean("often_away").map(|often| often.value),
            offline_after: read_offline_after(top),
            schedules: read_schedules(top),
        }
    };
    let problems_before = problems.len();
    let (mut raw, sound) = read_document(file, text, problems, read);
    raw.sound = sound;
    raw.clean = problems.len() == problems_before;
    raw
}

#[derive(Debug)]
pub(super) struct RawRepository {
    pub(super) file: String,
    /// False where anything in it is wrong: what seems to be absent may be that.
    pub(super) clean: bool,
    pub(super) url: String,
    pub(super) username: Option<String>,
    pub(super) credential: Option<SecretSource>,
    pub(super) password: Option<SecretSource>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) max_parallel: Option<u32>,
    pub(super) limit_upload_kib: u64,
    pub(super) limit_download_kib: u64,
    pub(super) retry_lock: Span,
    pub(super) maintenance: Typed<RawMaintenance>,
}

#[derive(Debug)]
pub(super) struct RawMaintenance {
    pub(super) host: Typed<HostName>,
    pub(super) url: Typed<String>,
    pub(super) username: Option<String>,
    pub(super) credential: Option<SecretSource>,
    pub(super) password: Option<SecretSource>,
    pub(super) forget: Option<String>,
    pub(super) prune: Option<super::MaintenancePrune>,
    pub(super) check: Option<super::MaintenanceCheck>,
}

/// A repository that waits for a lock longer than this would hold the host's only place for jobs.
const LONGEST_RETRY_LOCK: Span = Span::from_secs(86_400);

/// Reads a repository's file.
pub(super) fn read_repository(file: &str, text: &str, problems: &mut Vec<Problem>) -> RawRepository {
    let read = |top: &mut TableReader<'_>| {
        let url = read_url(top);
        let username = read_checked(top, "username", rules::placeholders).map(|name| name.value);
        let retry_lock: Typed<Span> = top.parsed("retry_lock");
        if let Some(span) = &retry_lock
            && span.value > LONGEST_RETRY_LOCK
        {
            top.error(span.place, format!("retry_lock is at most {LONGEST_RETRY_LOCK}"));
        }
        let credential = read_secret(top, "credential");
        if top.place_of("password").is_none() {
            top.missing("password", "password = { file = \"/run/secrets/restic/{host}\" }");
        }
        RawRepository {
            file: file.to_owned(),
            clean: true,
            url,
            username: username.filter(|name| !name.is_empty()),
            credential,
            password: read_secret(top, "password"),
            env: read_environment(top),
            max_parallel: top.integer("max_parallel", 1..=100_000).and_then(|n| u32::try_from(n.value).ok()),
            limit_upload_kib: top.integer("limit_upload_kib", 0..=LIMIT_KIB).map_or(0, |limit| limit.value),
            limit_download_kib: top.integer("limit_download_kib", 0..=LIMIT_KIB).map_or(0, |limit| limit.value),
            retry_lock: retry_lock.map_or(Span::default(), |span| span.value),
            maintenance: top.table("maintenance", read_maintenance),
        }
    };
    let problems_before = problems.len();
    let (mut raw, _) = read_document(file, text, problems, read);
    raw.clean = problems.len() == problems_before;
    raw
}

/// Agents are heard every half minute or so: less than this would be told of ordinary restarts.
const SHORTEST_OFFLINE: Span = Span::from_secs(120);

fn read_offline_after(top: &mut TableReader<'_>) -> Option<Span> {
    let span: Placed<Span> = top.parsed("offline_after")?;
    if span.value < SHORTEST_OFFLINE {
        top.error(span.place, format!("offline_after is at least {SHORTEST_OFFLINE}"));
        return None;
    }
    Some(span.value)
}

/// restic multiplies by 1024 in a signed 64-bit number.
const LIMIT_KIB: u64 = 1 << 40;

fn read_url(top: &mut TableReader<'_>) -> String {
    if top.place_of("url").is_none() {
        // Asked for also where absent, so that a misspelled one gets a suggestion.
        let _: Typed<String> = top.string("url");
        top.missing("url", "url = \"rest:https://backup.example.org/{host}/\"");
        return String::new();
    }
    let Some(url) = top.string("url") else { return String::new() };
    if let Err(message) = rules::url(&url.value) {
        top.error(url.place, message);
        return String::new();
    }
    url.value
}

fn read_environment(top: &mut TableReader<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in top.texts_by_name("env").map(|env| env.value).unwrap_or_default() {
        match rules::environment(&name, &value.value) {
            Ok(()) => {
                env.insert(name, value.value);
            }
            Err(message) => top.error(value.place, format!("env: {message}")),
        }
    }
    env
}

/// Exactly one of `file`, `command` and `agent`. A literal is refused, and never repeated in the problem.
pub(super) fn read_secret<'d>(table: &mut TableReader<'d>, key: &'d str) -> Option<SecretSource> {
    let file = table.file().to_owned();
    let literal = |reader: &mut TableReader<'d>, text: Placed<String>| {
        let message = format!("{key} is never written here: write {{ file = \"/run/secrets/...\" }}");
        reader.error(text.place, message);
        None
    };
    let found = table.text_or_table(key, literal, |table| read_reference(table, key))?;
    Some(SecretSource { secret: found.value?, file, place: found.place })
}

/// The reference to a secret that a table is.
pub(super) fn read_reference(table: &mut TableReader<'_>, key: &str) -> Option<SecretRef> {
    let found = [
        table.string("file").map(|text| text.map(SecretRef::File)),
        table.string("command").map(|text| text.map(SecretRef::Command)),
        table.string("agent").map(|text| text.map(SecretRef::Agent)),
    ];
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(secret), None) => Some(secret.value),
        (None, _) => {
            table.error(table.place(), format!("{key} names no secret: write {{ file = \"/run/secrets/...\" }}"));
            None
        }
        (Some(_), Some(_)) => {
            table.error(table.place(), format!("{key} has more than one of file, command and agent: choose one"));
            None
        }
    }
}

fn read_maintenance(table: &mut TableReader<'_>) -> RawMaintenance {
    if table.place_of("host").is_none() {
        table.missing("host", "host = \"backup-1\"");
    }
    RawMaintenance {
        host: table.parsed("host"),
        url: read_checked(table, "url", rules::url),
        username: table.string("username").map(|name| name.value),
        credential: read_secret(table, "credential"),
        password: read_secret(table, "password"),
        forget: read_work(table, "forget", |_, _| (), |cron, ()| cron),
        prune: read_work(
            table,
            "prune",
            |prune, _| read_checked(prune, "max_unused", rules::max_unused),
            |cron, max| {
                let max_unused = max.map(|text| text.value).filter(|text| !text.is_empty());
                super::MaintenancePrune { cron, max_unused }
            },
        ),
        check: read_work(
            table,
            "check",
            |check, place| {
                let subset = read_checked(check, "read_data_subset", |text| rules::read_data_subset(text, true))
                    .map(|t| t.value);
                let subset = subset.filter(|text| !text.is_empty());
                let read_data = check.boolean("read_data").is_some_and(|read| read.value);
                if read_data && subset.is_some() {
                    check.error(place, "maintenance.check has read_data and read_data_subset: choose one");
                }
                (subset, read_data)
            },
            |cron, (read_data_subset, read_data)| super::MaintenanceCheck { cron, read_data_subset, read_data },
        ),
    }
}

/// `key = "cron"`, or `key = { cron = "...", more }`.
fn read_work<'d, More: Default, Work>(
    table: &mut TableReader<'d>,
    key: &'d str,
    more: impl FnOnce(&mut TableReader<'d>, Place) -> More,
    work: impl FnOnce(String, More) -> Work,
) -> Option<Work> {
    let text = |reader: &mut TableReader<'d>, text| (check_cron(reader, key, text), More::default());
    let read = |table: &mut TableReader<'d>| {
        if table.place_of("cron").is_none() {
            table.missing("cron", "cron = \"0 5 * * SUN\"");
        }
        let place = table.place();
        (read_cron(table, "cron"), more(table, place))
    };
    let (cron, more) = table.text_or_table(key, text, read)?.value;
    Some(work(cron?.value, more))
}
