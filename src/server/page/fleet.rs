//! Pure. The fleet at a glance: what is wrong first, then every host, then the configuration. What is said of one host is `HostLine`, folded
//! from its state; which hosts are on the page is decided here, by the filter. Does not read state.

use chrono::{DateTime, Utc};

use super::Visitor;
use super::channels::channel_trouble;
use super::fleet_config::{ConfigState, config_facts, config_trouble};
use super::html::{El, Html, Link, all, el};
use super::layout::{Mood, Page, events, host_link, instant_or, mood, section};
use super::shown;
use super::table::{Row, Table};
use crate::id::{HostName, ScheduleId};
use crate::job::JobStatus;
use crate::protocol::job_options::JobKind;
use crate::server::alert_channels_state::ChannelState;
use crate::server::alert_rules;
use crate::server::host_content::HostContent;
use crate::server::host_state::HostState;
use crate::server::view::{Contact, is_online, next_fire};

/// Hosts on one page.
pub const PAGE: usize = 200;
/// Hosts that are listed as wrong; the rest is behind a link.
const MOST_WRONG: usize = 50;
/// What a list has room for of a text, in characters.
const TEXT_LIMIT: usize = 160;

/// In the address: hosts with an older agent.
const BEHIND: &str = "behind";
/// In addresses: the hosts that are not in the configuration any more.
const REMOVED: &str = "removed";

/// What is wrong with a host, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    Conflict,
    Failed,
    Stale,
    Alert,
    Offline,
    NotEnrolled,
}

impl Wrong {
    const ALL: [Self; 6] = [Self::Conflict, Self::Failed, Self::Stale, Self::Alert, Self::Offline, Self::NotEnrolled];

    pub fn word(self) -> &'static str {
        match self {
            Self::Conflict => "in conflict",
            Self::Failed => "failed",
            Self::Stale => "stale",
            Self::Alert => "with an alert",
            Self::Offline => "offline",
            Self::NotEnrolled => "not enrolled",
        }
    }

    fn in_url(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Stale => "stale",
            Self::Alert => "alert",
            Self::Offline => "offline",
            Self::NotEnrolled => "not-enrolled",
        }
    }

    fn mood(self) -> Mood {
        match self {
            Self::Conflict | Self::Failed | Self::Stale => Mood::Bad,
            Self::Alert | Self::Offline => Mood::Doubtful,
            Self::NotEnrolled => Mood::Neutral,
        }
    }
}

/// Which hosts are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// A part of the name.
    pub name: String,
    pub wrong: Option<Wrong>,
    /// Any of what can be wrong.
    pub any_wrong: bool,
    /// Those whose agent is older than the one that is wanted.
    pub behind: bool,
    /// Those that are not in the configuration any more.
    pub removed: bool,
    /// Only names after this one.
    pub after: String,
}

impl Filter {
    /// From the query's `name`, `show` and `after`; `None`: there is nothing like `show`.
    pub fn read(name: &str, show: &str, after: &str) -> Option<Self> {
        let wrong = Wrong::ALL.into_iter().find(|wrong| wrong.in_url() == show);
        let (any_wrong, behind, removed) = (show == "wrong", show == BEHIND, show == REMOVED);
        if wrong.is_none() && !any_wrong && !behind && !removed && !show.is_empty() {
            return None;
        }
        Some(Self { name: name.trim().to_lowercase(), wrong, any_wrong, behind, removed, after: after.to_owned() })
    }

    fn takes(&self, host: &HostLine) -> bool {
        host.name.as_str().contains(&self.name)
            && self.wrong.is_none_or(|wrong| host.wrong.contains(&wrong))
            && (!self.any_wrong || !host.wrong.is_empty())
            && (!self.behind || host.behind)
            && (!self.removed || host.removed)
    }

    fn show(&self) -> &'static str {
        match self {
            Self { any_wrong: true, .. } => "wrong",
            Self { behind: true, .. } => BEHIND,
            Self { removed: true, .. } => REMOVED,
            _ => self.wrong.map_or("", Wrong::in_url),
        }
    }

    fn link(&self, after: &str) -> Link {
        let parameters = [("name", self.name.as_str()), ("show", self.show()), ("after", after)];
        parameters
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .fold(Link::to("/"), |link, (n, v)| link.query(n, v))
    }
}

/// One host as the fleet's page knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostLine {
    pub name: HostName,
    /// The worst first.
    pub wrong: Vec<Wrong>,
    /// It is not in the configuration any more: nothing is expected of it, so it is neither well nor wrong.
    pub removed: bool,
    pub online: bool,
    /// Its agent is older than the one that is wanted. Nothing is wrong with it for that.
    pub behind: bool,
    pub failed: Vec<ScheduleId>,
    pub stale: Vec<ScheduleId>,
    pub last_seen: Option<DateTime<Utc>>,
    /// The newest success of a backup.
    pub last_success: Option<DateTime<Utc>>,
    pub running: Vec<JobKind>,
    pub size_bytes: Option<u64>,
    pub alerts: usize,
    /// The newest one's.
    pub alert_text: Option<String>,
}

impl HostLine {
    pub fn of(
        name: &HostName,
        state: &HostState,
        content: Option<&HostContent>,
        contact: &Contact,
        now: DateTime<Utc>,
    ) -> Self {
        let schedules = content.map_or(&[][..], |content| &content.schedules);
        let memory = |id: &ScheduleId| state.schedules.get(id);
        let is_failed = |id: &ScheduleId| memory(id).is_some_and(|m| m.last_status == Some(JobStatus::Failed));
        let enabled = || schedules.iter().filter(|schedule| schedule.enabled);
        let failed: Vec<_> = enabled().filter(|s| is_failed(&s.id)).map(|s| s.id.clone()).collect();
        let stale: Vec<_> = enabled().filter(|s| is_stale(state, content, &s.id, now)).map(|s| s.id.clone()).collect();
        let is_enrolled = state.enrolled_at.is_some();
        let online = is_enrolled && is_online(contact, now);
        let removed = content.is_none_or(|content| !content.configured);
        let backups = schedules.iter().filter(|schedule| schedule.kind == JobKind::Backup);
        let last_success = match removed {
            // What its schedules were is not known any more; only backups count bytes.
            true => state.schedules.values().filter(|m| !m.runs.is_empty()).filter_map(|m| m.last_success).max(),
            false => backups.filter_map(|schedule| memory(&schedule.id)?.last_success).max(),
        };
        let is_wrong = |wrong: &Wrong| match wrong {
            Wrong::Conflict => state.is_in_conflict(now),
            Wrong::Failed => !failed.is_empty(),
            Wrong::Stale => is_enrolled && !stale.is_empty(),
            Wrong::Alert => state.alerts.iter().any(|alert| alert.acknowledged_by.is_none()),
            Wrong::Offline => is_enrolled && !online && !removed,
            Wrong::NotEnrolled => !is_enrolled && content.is_some_and(|content| content.configured),
        };
        let running = state.jobs.values().filter(|job| job.status == JobStatus::Running);
        Self {
            name: name.clone(),
            wrong: Wrong::ALL.into_iter().filter(is_wrong).collect(),
            removed,
            online,
            behind: state.hello.as_ref().and_then(|hello| content?.is_behind(&hello.agent_version)) == Some(true),
            last_seen: contact.last_seen,
            last_success,
            running: running.map(|job| job.kind).collect(),
            size_bytes: state.repository.as_ref().map(|repository| repository.size_bytes),
            alerts: state.alerts.iter().count(),
            alert_text: state.alerts.iter().last().map(|alert| alert.text.clone()),
            failed,
            stale,
        }
    }

    /// Everything that is wrong with it, each a word of its own, and whether its agent is heard.
    pub fn moods(&self) -> Html {
        let names = |ids: &[ScheduleId]| match ids {
            [one] => format!(": {one}"),
            [] => String::new(),
            more => format!(": {}", more.len()),
        };
        let of_one = |wrong: &Wrong| {
            let word = match wrong {
                Wrong::Failed => format!("failed{}", names(&self.failed)),
                Wrong::Stale => format!("stale{}", names(&self.stale)),
                Wrong::Alert => format!("{} alert{}", self.alerts, if self.alerts == 1 { "" } else { "s" }),
                other => other.word().to_owned(),
            };
            mood(wrong.mood(), word)
        };
        let mut moods: Vec<El> = self.wrong.iter().map(of_one).collect();
        moods.extend(self.behind.then(|| mood(Mood::Neutral, "older agent")));
        moods.extend(self.removed.then(|| mood(Mood::Neutral, "removed")));
        moods.extend(self.running.iter().map(|kind| mood(Mood::Busy, format!("{kind} runs"))));
        if self.online {
            moods.push(mood(Mood::Good, "online"));
        } else if moods.is_empty() {
            moods.push(mood(Mood::Neutral, "no agent"));
        }
        all([el("span").class("moods").with(moods)])
    }
}

/// Whether a schedule had no success for longer than it may.
pub fn is_stale(state: &HostState, content: Option<&HostContent>, id: &ScheduleId, now: DateTime<Utc>) -> bool {
    let Some(max_age) = content.and_then(|content| content.alarms.get(id)?.max_age) else { return false };
    alert_rules::is_stale(max_age, state.schedules.get(id), state, now)
}

/// The earliest next fire of a host's schedules.
pub fn earliest_fire(state: &HostState, content: Option<&HostContent>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let zone = state.hello.as_ref().and_then(|hello| hello.timezone.as_deref());
    content?.schedules.iter().filter_map(|schedule| next_fire(schedule, zone, now)).min()
}

/// The page's hosts, in their order, and the name after which the next page begins.
pub fn page_of<'a>(filter: &Filter, lines: &'a [HostLine]) -> (Vec<&'a HostLine>, Option<&'a HostName>) {
    let mut wanted = lines.iter().filter(|line| line.name.as_str() > filter.after.as_str() && filter.takes(line));
    let page: Vec<&HostLine> = wanted.by_ref().take(PAGE).collect();
    let next = page.last().filter(|_| wanted.next().is_some()).map(|line| &line.name);
    (page, next)
}

/// `lines`: all hosts that the visitor may see, by name. `channels`: none for one who may not see the whole fleet. `fire`: when a host's next fire is.
pub fn fleet_page(
    visitor: &Visitor,
    lines: &[HostLine],
    filter: &Filter,
    config: Option<&ConfigState>,
    channels: &[ChannelState],
    fire: impl Fn(&HostName) -> Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> String {
    let main = all([(
        el("h1").with("Fleet"),
        summary(lines, filter),
        config.and_then(config_trouble),
        channel_trouble(channels, now),
        Some(section("wrong", "What is wrong", wrong_table(lines, now))).filter(|_| filter == &Filter::default()),
        section("hosts", "All hosts", (filter_form(filter), hosts_table(lines, filter, fire, now))),
        config.map(|config| section("config", "Configuration", config_facts(config, now))),
    )]);
    Page { title: "Fleet", visitor: Some(visitor), news: Some(events(None)), main }.into_html()
}

fn summary(lines: &[HostLine], filter: &Filter) -> El {
    let item = |link: Link, is_current: bool, text: El| {
        let link = el("a").link("href", &link);
        let link = if is_current { link.attr("aria-current", "true") } else { link };
        el("li").with(link.with(text))
    };
    let is_now = |wanted: &Filter| filter.show() == wanted.show();
    let every = Filter::default();
    let hosts = if lines.len() == 1 { "host" } else { "hosts" };
    let total = el("span").with(format!("{} {hosts}", shown::count(lines.len() as u64)));
    let mut items = vec![item(every.link(""), is_now(&every), total)];
    for wrong in Wrong::ALL {
        let count = lines.iter().filter(|line| line.wrong.contains(&wrong)).count();
        if count > 0 {
            let wanted = Filter { wrong: Some(wrong), ..Filter::default() };
            let text = format!("{} {}", shown::count(count as u64), wrong.word());
            items.push(item(wanted.link(""), is_now(&wanted), mood(wrong.mood(), text)));
        }
    }
    let behind = lines.iter().filter(|line| line.behind).count();
    if behind > 0 {
        let wanted = Filter { behind: true, ..Filter::default() };
        let text = format!("{} with an older agent", shown::count(behind as u64));
        items.push(item(wanted.link(""), is_now(&wanted), mood(Mood::Neutral, text)));
    }
    let removed = lines.iter().filter(|line| line.removed).count();
    if removed > 0 {
        let wanted = Filter { removed: true, ..Filter::default() };
        let text = format!("{} removed", shown::count(removed as u64));
        items.push(item(wanted.link(""), is_now(&wanted), mood(Mood::Neutral, text)));
    }
    let well = lines.iter().filter(|line| line.wrong.is_empty() && !line.removed).count();
    let well = mood(Mood::Good, format!("{} with nothing wrong", shown::count(well as u64)));
    el("ul").class("summary").attr("aria-label", "Hosts by how they are").with(items).with(el("li").with(well))
}

fn wrong_table(lines: &[HostLine], now: DateTime<Utc>) -> Html {
    let mut wrong: Vec<&HostLine> = lines.iter().filter(|line| !line.wrong.is_empty()).collect();
    wrong.sort_by(|a, b| a.wrong.cmp(&b.wrong).then_with(|| a.name.cmp(&b.name)));
    let mut table = Table::new(
        "Hosts with something wrong, the worst first",
        &["Host", "What", "Newest alert", "Last success", "Last seen"],
    );
    for line in wrong.iter().take(MOST_WRONG) {
        let text = line.alert_text.as_ref().map(|text| shown::cut(text, TEXT_LIMIT));
        table.row(
            Row::new()
                .id(format!("wrong-{}", line.name))
                .cell(host_link(line.name.as_str()))
                .cell(line.moods())
                .cell(text)
                .cell(instant_or(line.last_success, now, "never"))
                .cell(instant_or(line.last_seen, now, "never")),
        );
    }
    let rest = wrong.len().saturating_sub(MOST_WRONG);
    let all_wrong = Filter { any_wrong: true, ..Filter::default() };
    let more =
        el("p").with(el("a").link("href", &all_wrong.link("")).with(format!("{rest} more with something wrong")));
    all([(table.or("Nothing is wrong."), Some(more).filter(|_| rest > 0))])
}

fn filter_form(filter: &Filter) -> El {
    let options = [("", "all"), ("wrong", "with something wrong"), (BEHIND, "with an older agent")].into_iter();
    let options = options.chain(Wrong::ALL.into_iter().map(|wrong| (wrong.in_url(), wrong.word())));
    let options = options.chain([(REMOVED, "removed from the configuration")]);
    let options = options
        .map(|(value, text)| el("option").attr("value", value).flag("selected", value == filter.show()).with(text));
    el("form")
        .attr("method", "get")
        .attr("role", "search")
        .attr("aria-label", "Hosts")
        .link("action", &Link::to("/"))
        .with(el("label").attr("for", "name").with("Name contains"))
        .with(el("input").attr("id", "name").attr("name", "name").attr("type", "search").attr("value", &filter.name))
        .with(el("label").attr("for", "show").with("Show"))
        .with(el("select").attr("id", "show").attr("name", "show").with(options.collect::<Vec<_>>()))
        .with(el("button").attr("type", "submit").with("Filter"))
}

fn hosts_table(
    lines: &[HostLine],
    filter: &Filter,
    fire: impl Fn(&HostName) -> Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Html {
    let (page, next) = page_of(filter, lines);
    let mut table = Table::new("Hosts by name", &["Host", "Status", "Last success", "Next fire", "Repository"]);
    for line in page {
        table.row(
            Row::new()
                .id(format!("host-{}", line.name))
                .cell(host_link(line.name.as_str()))
                .cell(line.moods())
                .cell(instant_or(line.last_success, now, "never"))
                .cell(instant_or(fire(&line.name), now, "none"))
                .cell(line.size_bytes.map(shown::bytes)),
        );
    }
    let nothing = if lines.is_empty() {
        "There are no hosts yet: each is a file in config/hosts."
    } else {
        "No host is like that."
    };
    let first = el("a").link("href", &filter.link("")).with("First page");
    let next =
        next.map(|after| el("a").attr("rel", "next").link("href", &filter.link(after.as_str())).with("Next page"));
    let first = Some(first).filter(|_| !filter.after.is_empty());
    let has_pages = first.is_some() || next.is_some();
    let pages = el("nav").attr("aria-label", "Pages of hosts").class("pages").with(first).with(" ").with(next);
    all([(table.or(nothing), Some(pages).filter(|_| has_pages))])
}

#[cfg(test)]
mod tests;
