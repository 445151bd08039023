//! Pure. What all pages have in common: the frame with its landmarks, the navigation, words for statuses that do not rely on colour,
//! and buttons. Does not know what a page is about.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::Visitor;
use super::html::{Content, El, Html, Link, all, el};
use super::parts::{ICON, SCRIPT, STYLE};
use super::shown;
use crate::job::{Job, JobStatus};
use crate::server::access::Role;

/// A page before it is one.
pub struct Page<'a> {
    pub title: &'a str,
    /// `None`: whoever it is was not let in.
    pub visitor: Option<&'a Visitor>,
    /// Where the script waits for news; `None`: there will be none.
    pub news: Option<Link>,
    pub main: Html,
}

/// How a thing is: a word with a sign and a colour, of which the word is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    Good,
    Neutral,
    Busy,
    Doubtful,
    Bad,
}

impl Mood {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "mood good",
            Self::Neutral => "mood neutral",
            Self::Busy => "mood busy",
            Self::Doubtful => "mood doubtful",
            Self::Bad => "mood bad",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Neutral => "–",
            Self::Busy => "▶",
            Self::Doubtful => "!",
            Self::Bad => "✕",
        }
    }
}

/// A word with its mood.
pub fn mood(mood: Mood, word: impl Content) -> El {
    let sign = el("span").attr("aria-hidden", "true").with(mood.sign());
    el("span").class(mood.class()).with(sign).with(" ").with(word)
}

/// A job's status and its mood.
pub fn status_of(job: &Job) -> (Mood, &'static str) {
    match job.status {
        JobStatus::Succeeded if job.incomplete => (Mood::Doubtful, "incomplete"),
        JobStatus::Succeeded => (Mood::Good, "succeeded"),
        JobStatus::Failed => (Mood::Bad, "failed"),
        JobStatus::Cancelled => (Mood::Neutral, "cancelled"),
        JobStatus::Running => (Mood::Busy, "running"),
        JobStatus::Queued => (Mood::Neutral, "queued"),
    }
}

pub fn host_link(name: &str) -> El {
    el("a").class("host").link("href", &host_path(name)).with(name)
}

pub fn host_path(name: &str) -> Link {
    Link::to("/hosts").segment(name)
}

pub fn job_path(id: impl std::fmt::Display) -> Link {
    Link::to("/jobs").segment(id)
}

pub fn heading(level: &'static str, id: &'static str, text: impl Content) -> El {
    el(level).attr("id", id).with(text)
}

/// A part of the page with a heading of its own.
pub fn section(id: &'static str, title: &str, content: impl Content) -> El {
    let heading_id = format!("{id}-title");
    let title = el("h2").attr("id", &heading_id).with(title);
    el("section").attr("id", id).attr("aria-labelledby", heading_id).with(title).with(content)
}

/// Something that must be seen.
pub fn notice(mood: Mood, content: impl Content) -> El {
    let class = if mood >= Mood::Bad { "notice bad" } else { "notice doubtful" };
    el("div").class(class).with(content)
}

/// Names and values, those without a value left out.
pub fn facts(list: Vec<(&'static str, Option<Html>)>) -> El {
    let pairs = list.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let pairs = pairs.map(|(name, value)| el("div").with(el("dt").with(name)).with(el("dd").with(value)));
    el("dl").with(pairs.collect::<Vec<_>>())
}

/// A button by which the script posts JSON; without a script it is not shown.
pub fn button(text: &str, label: &str, to: &Link, body: &Value, question: Option<&str>) -> El {
    let button = el("button").attr("type", "button").class("needs-script").attr("aria-label", label);
    let button = button.link("data-post", to).exact_attr("data-body", &body.to_string());
    let button = match question {
        Some(question) => button.attr("data-ask", question),
        None => button,
    };
    button.with(text)
}

impl Page<'_> {
    pub fn into_html(self) -> String {
        let head = el("head")
            .with(el("meta").attr("charset", "utf-8"))
            .with(el("meta").attr("name", "viewport").attr("content", "width=device-width, initial-scale=1"))
            .with(el("meta").attr("name", "color-scheme").attr("content", "light dark"))
            .with(el("title").with(format!("{} · restic-manager", self.title)))
            .with(el("link").attr("rel", "icon").link("href", &ICON.link()))
            .with(el("link").attr("rel", "stylesheet").link("href", &STYLE.link()))
            .with(el("script").link("src", &SCRIPT.link()).flag("defer", true));
        let mut main = el("main").attr("id", "main").attr("tabindex", "-1");
        if let Some(news) = &self.news {
            main = main.link("data-news", news);
        }
        let footer =
            el("footer").with(el("p").with(concat!(
                "All times are UTC unless it says otherwise. restic-manager ",
                env!("CARGO_PKG_VERSION")
            )));
        let body = el("body")
            .with(el("a").class("skip").link("href", &Link::here("main")).with("Skip to the content"))
            .with(self.header())
            .with(main.with(self.main))
            .with(footer);
        Html::document(el("html").attr("lang", "en").with(head).with(body))
    }

    fn header(&self) -> El {
        let home = el("a").class("home").link("href", &Link::to("/")).with("restic-manager");
        let header = el("header").with(home);
        let Some(visitor) = self.visitor else { return header };
        let mut places = vec![("Fleet", Link::to("/")), ("Alerts", Link::to("/alerts"))];
        if visitor.role >= Role::Admin && !visitor.is_limited {
            places.push(("Audit", Link::to("/audit")));
        }
        let items = places.into_iter().map(|(name, to)| {
            let link = el("a").link("href", &to);
            let link = if self.title == name { link.attr("aria-current", "page") } else { link };
            el("li").with(link.with(name))
        });
        let limited = if visitor.is_limited { ", some hosts" } else { "" };
        header
            .with(el("nav").attr("aria-label", "Pages").with(el("ul").with(items.collect::<Vec<_>>())))
            .with(el("p").class("who").with(format!("{} ({}{limited})", visitor.name, visitor.role)))
            .with(el("p").attr("id", "live").attr("role", "status"))
            .with(el("p").attr("id", "problem").attr("role", "alert"))
    }
}

/// Where the script waits for what happens, on one host or all.
pub fn events(host: Option<&str>) -> Link {
    let link = Link::to("/v1/events").query("wait", 30).query("limit", 100);
    match host {
        Some(host) => link.query("host", host),
        None => link,
    }
}

/// An instant, or that it never was.
pub fn instant_or(at: Option<DateTime<Utc>>, now: DateTime<Utc>, none: &str) -> Html {
    match at {
        Some(at) => all([shown::instant(at, now)]),
        None => all([el("span").class("nothing").with(none)]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;

    #[test]
    fn a_page_has_its_landmarks_and_only_an_admin_of_all_sees_where_the_audit_is() {
        for (role, is_limited, sees) in [
            (Role::Viewer, false, false),
            (Role::Operator, false, false),
            (Role::Admin, true, false),
            (Role::Admin, false, true),
        ] {
            let visitor = Visitor { name: "ops".to_owned(), role, is_limited };
            let page = Page { title: "Fleet", visitor: Some(&visitor), news: None, main: Html::default() }.into_html();
            assert_eq!(page.contains("/audit"), sees, "{role} {is_limited}");
            for landmark in ["<header>", "<nav aria-label", "<main id=\"main\"", "<footer>", "<html lang=\"en\">"] {
                assert!(page.contains(landmark), "{landmark}");
            }
            assert!(page.contains("aria-current=\"page\">Fleet</a>"));
        }
    }

    #[test]
    fn names_that_mean_harm_stay_names() {
        for text in HOSTILE {
            let visitor = Visitor { name: text.to_owned(), role: Role::Viewer, is_limited: true };
            let main =
                all([button(text, text, &Link::to("/x").segment(text), &Value::String(text.to_owned()), Some(text))]);
            assert_tame(
                &Page { title: text, visitor: Some(&visitor), news: Some(events(Some(text))), main }.into_html(),
            );
        }
    }
}
