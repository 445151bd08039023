//! Pure. Who changed what, newest first. Does not read the log.

use chrono::{DateTime, Utc};

use super::Visitor;
use super::html::{Link, all, el};
use super::layout::{Page, events, host_link, job_path};
use super::shown;
use super::table::{Row, Table};
use crate::server::audit::Entry;

/// Changes on one page.
pub const PAGE: usize = 100;

/// `more`: there are older ones.
pub fn audit_page(visitor: &Visitor, entries: &[Entry], more: bool, now: DateTime<Utc>) -> String {
    let mut table = Table::new("Changes, newest first", &["When", "What", "By", "Host", "Job", "From"]);
    for entry in entries {
        let change = &entry.change;
        // A unit variant always is a text.
        let action = serde_json::to_value(change.action).unwrap_or_default();
        let job = change.job.map(|job| {
            let short = job.to_string().chars().take(8).collect::<String>();
            el("a").link("href", &job_path(job)).attr("aria-label", format!("Job {short}")).with(el("code").with(short))
        });
        table.row(
            Row::new()
                .id(format!("change-{}", entry.seq))
                .cell(shown::instant(entry.at, now))
                .cell(el("code").with(action.as_str().unwrap_or_default()))
                .cell(format!("{} ({})", change.by, change.role))
                .cell(change.host.as_ref().map(|host| host_link(host.as_str())))
                .cell(job)
                .cell(change.client.to_string()),
        );
    }
    let older = entries.last().filter(|_| more).map(|entry| {
        let to = Link::to("/audit").query("before", entry.seq);
        el("nav")
            .attr("aria-label", "Pages of changes")
            .class("pages")
            .with(el("a").attr("rel", "next").link("href", &to).with("Older"))
    });
    let main = all([(el("h1").with("Audit"), table.or("Nobody has changed anything."), older)]);
    Page { title: "Audit", visitor: Some(visitor), news: Some(events(None)), main }.into_html()
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;
    use crate::server::access::Role;
    use crate::server::audit::{Action, Change};
    use crate::server::folded::{host, id, noon};

    fn entry(by: &str) -> Entry {
        let client = [192, 0, 2, 1].into();
        let change = Change {
            by: by.to_owned(),
            role: "admin".to_owned(),
            action: Action::JobRestore,
            host: Some(host()),
            job: Some(id(3)),
            client,
        };
        Entry { seq: 7, at: noon(), change }
    }

    #[test]
    fn a_change_says_who_what_where_and_from_where() {
        let visitor = Visitor { name: "boss".to_owned(), role: Role::Admin, is_limited: false };
        let page = audit_page(&visitor, &[entry("ops")], true, noon());
        for part in ["job.restore", "ops (admin)", "192.0.2.1", "/hosts/web-1", "/audit?before=7", "12:00"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(audit_page(&visitor, &[], false, noon()).contains("Nobody has changed"));
        for text in HOSTILE {
            assert_tame(&audit_page(&visitor, &[entry(text)], false, noon()));
        }
    }
}
