//! Pure. The restore browser: what a folder of a snapshot holds, what is selected of it, and the one line that restores that, which the button
//! does too. Without a script the line is for the whole folder. Does not ask the agent.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::Visitor;
use super::html::{El, Html, Link, all, el};
use super::layout::{Mood, Page, events, host_link, job_path, notice, section};
use super::shown;
use super::table::{Row, Table};
use crate::id::JobId;

/// Entries of a folder on one page.
pub const PAGE: usize = 500;

/// A folder of a host's snapshot.
pub struct Folder<'a> {
    pub host: &'a str,
    pub snapshot: &'a str,
    /// As `ls` has it, with `/` before each part.
    pub path: &'a str,
    /// Where this server is reached, such as `https://backup.example.org`.
    pub server: &'a str,
}

/// What came of asking what is in it.
pub enum Asked {
    /// Entries as the agent tells them; `next`: the cursor of those that follow.
    Entries {
        entries: Vec<Value>,
        next: Option<String>,
        is_cut: bool,
    },
    NotYet(JobId),
    Refused(String),
    /// Another site's page led here, and what it wants is not done unasked.
    NotAsked,
}

/// The restore browser at one folder of a snapshot, as whole HTML.
pub fn snapshot_page(visitor: &Visitor, folder: &Folder<'_>, asked: &Asked, now: DateTime<Utc>) -> String {
    let short: String = folder.snapshot.chars().take(8).collect();
    let title = format!("{short} of {}", folder.host);
    let (content, news) = match asked {
        Asked::Entries { entries, next, is_cut } => {
            (entries_table(folder, entries, next.as_deref(), *is_cut, now), None)
        }
        Asked::NotYet(job) => (not_yet(folder, *job), Some(events(Some(folder.host)))),
        Asked::Refused(why) => (all([notice(Mood::Bad, el("p").with(why))]), None),
        Asked::NotAsked => {
            let link = el("a").link("href", &folder.link(folder.path)).with("Ask the host what is in this folder");
            (all([el("p").with(link)]), None)
        }
    };
    let heading = el("h1").with("Snapshot ").with(el("code").with(short)).with(" of ").with(host_link(folder.host));
    let main = all([(
        heading,
        crumbs(folder),
        section("entries", "Files", content),
        section("restore-section", "Restore", restore(visitor, folder)),
    )]);
    Page { title: &title, visitor: Some(visitor), news, main }.into_html()
}

impl Folder<'_> {
    fn link(&self, path: &str) -> Link {
        Link::to("/hosts").segment(self.host).segment("snapshots").segment(self.snapshot).query("path", path)
    }

    fn restore_path(&self) -> Link {
        Link::to("/v1/hosts").segment(self.host).segment("restore")
    }
}

fn crumbs(folder: &Folder<'_>) -> El {
    let mut items = vec![el("a").link("href", &folder.link("/")).with("All")];
    let mut path = String::new();
    for part in folder.path.split('/').filter(|part| !part.is_empty()) {
        path.push('/');
        path.push_str(part);
        items.push(el("a").link("href", &folder.link(&path)).with(part));
    }
    let last = items.len() - 1;
    let items = items.into_iter().enumerate().map(|(index, item)| {
        let separator = (index > 0).then(|| el("span").attr("aria-hidden", "true").with("/ "));
        let item = if index == last { el("span").attr("aria-current", "page").with(item) } else { item };
        el("li").with(separator).with(item)
    });
    el("nav").class("crumbs").attr("aria-label", "Folders above").with(el("ul").with(items.collect::<Vec<_>>()))
}

fn not_yet(folder: &Folder<'_>, job: JobId) -> Html {
    let again = folder.link(folder.path).query("job", job);
    let again = el("a").link("href", &again).with("Look again");
    let job = el("a").link("href", &job_path(job)).with("job");
    all([el("p").with("The host is being asked, by this ").with(job).with(". ").with(again)])
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn entries_table(folder: &Folder<'_>, entries: &[Value], next: Option<&str>, is_cut: bool, now: DateTime<Utc>) -> Html {
    let mut table = Table::new("What is in this folder", &["Name", "Size", "Changed", "Permissions"]);
    for (index, entry) in entries.iter().enumerate() {
        let (name, path, kind) = (text(entry, "name"), text(entry, "path"), text(entry, "type"));
        let id = format!("entry-{index}");
        let check = el("input")
            .attr("type", "checkbox")
            .class("needs-script")
            .attr("id", &id)
            .attr("aria-label", format!("Select {name}"))
            .exact_attr("value", path);
        let shown_name = match kind {
            "dir" => el("a").link("href", &folder.link(path)).with(name).with("/"),
            "file" => el("span").with(name),
            other => el("span").with(name).with(el("small").with(format!(" {other}"))),
        };
        let changed = text(entry, "mtime").parse::<DateTime<Utc>>().ok();
        table.row(
            Row::new()
                .cell((check, shown_name))
                .cell(entry.get("size").and_then(Value::as_u64).map(shown::bytes))
                .cell(changed.map(|at| shown::instant(at, now)))
                .cell(
                    Some(el("code").with(text(entry, "permissions")))
                        .filter(|_| !text(entry, "permissions").is_empty()),
                ),
        );
    }
    let next = next.map(|after| {
        let to = folder.link(folder.path).query("after", after);
        el("nav")
            .class("pages")
            .attr("aria-label", "Pages of this folder")
            .with(el("a").attr("rel", "next").link("href", &to).with("Next page"))
    });
    let cut = is_cut.then(|| notice(Mood::Doubtful, el("p").with("There is more than the agent tells at once: go into a folder, or look for a file with GET /v1/hosts/{host}/find.")));
    all([(cut, table.or("Nothing."), next)])
}

/// The paths of a restore of the whole folder: nothing said is everything.
fn whole(folder: &Folder<'_>) -> Value {
    if folder.path == "/" { json!([]) } else { json!([folder.path]) }
}

/// A shell's word that is this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn restore(visitor: &Visitor, folder: &Folder<'_>) -> Html {
    let whole = whole(folder);
    let body = json!({"snapshot": folder.snapshot, "paths": whole});
    let before = "curl -sS --fail-with-body -H @- -H 'Content-Type: application/json' -d ";
    // By way of standard input: everybody on a machine may see the arguments of its programs.
    let url = quoted(&format!("{}{}", folder.server, folder.restore_path().as_str()));
    let after = format!(" {url} <<<\"Authorization: Bearer $TOKEN\"");
    let line = format!("{before}{}{after}", quoted(&body.to_string()));
    let chosen = el("div")
        .class("needs-script")
        .with(el("h3").with("Selected"))
        .with(el("p").attr("id", "none-chosen").class("nothing").with("Nothing: the whole folder is restored."))
        .with(el("ul").attr("id", "chosen"));
    let command = el("pre")
        .class("command")
        .attr("id", "command")
        .attr("role", "region")
        .attr("aria-label", "The restore as one line")
        .attr("tabindex", "0");
    let explained = "The same with curl in bash; TOKEN is an operator's token. By default the agent makes a new directory below its restore root, and the job's log says which.";
    let button = el("button").attr("type", "submit").class("needs-script").with("Restore");
    let form = el("form")
        .attr("id", "restore")
        .class("column")
        .link("data-post", &folder.restore_path())
        .exact_attr("data-snapshot", folder.snapshot)
        .exact_attr("data-all", &whole.to_string())
        .exact_attr("data-before", before)
        .exact_attr("data-after", &after)
        .with(chosen)
        .with(choices())
        .with(el("p").with(explained))
        .with(command.with(line))
        .with(Some(button).filter(|_| visitor.may_change()));
    let viewer = "Your token may look, and not restore: an operator's may.";
    all([(Some(el("p").class("nothing").with(viewer)).filter(|_| !visitor.may_change()), form)])
}

/// Where to: a fresh directory unless somebody says otherwise.
fn choices() -> El {
    let choice = |value: &str, is_first: bool, text: &str| {
        let id = format!("where-{value}");
        let radio = el("input")
            .attr("type", "radio")
            .attr("name", "where")
            .attr("id", &id)
            .attr("value", value)
            .flag("checked", is_first);
        el("label").attr("for", id).with(radio).with(text)
    };
    let field = |name: &'static str, label: &str| {
        let input = el("input")
            .attr("type", "text")
            .attr("id", name)
            .attr("name", name)
            .attr("autocomplete", "off")
            .attr("spellcheck", "false");
        el("label").attr("for", name).with(label).with(el("br")).with(input)
    };
    el("fieldset")
        .class("needs-script")
        .with(el("legend").with("Where to"))
        .with(choice("fresh", true, "A new directory that the agent chooses"))
        .with(choice("directory", false, "This directory, which is not there yet:"))
        .with(field("target", "Directory on the host"))
        .with(choice("in-place", false, "In place, over what is there:"))
        .with(field("confirm", "The host's name, to confirm that files are written over"))
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;
    use crate::server::access::Role;
    use crate::server::folded::{id, noon};

    fn folder(path: &str) -> Folder<'_> {
        Folder { host: "web-1", snapshot: "deadbeef00", path, server: "https://backup.example.org" }
    }

    fn shown(role: Role, folder: &Folder<'_>, asked: &Asked) -> String {
        snapshot_page(&Visitor { name: "ops".to_owned(), role, is_limited: false }, folder, asked, noon())
    }

    fn entries(names: &[&str]) -> Asked {
        let entry = |name: &&str| json!({"name": name, "path": format!("/data/{name}"), "type": "dir", "mtime": "2026-11-23T11:00:00+01:00"});
        Asked::Entries { entries: names.iter().map(entry).collect(), next: None, is_cut: false }
    }

    #[test]
    fn a_folder_leads_into_its_folders_and_above_and_each_entry_can_be_selected_as_it_is() {
        let page = shown(Role::Operator, &folder("/data/a b"), &entries(&["it's [1]"]));
        for part in [
            "value=\"/data/it&#39;s [1]\"",
            "snapshots/deadbeef00?path=%2Fdata%2Fit%27s%20%5B1%5D\"",
            "?path=%2Fdata%2Fa%20b\">a b</a>",
            "Restore</button>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!shown(Role::Viewer, &folder("/"), &entries(&[])).contains(">Restore</button>"));
    }

    #[test]
    fn the_line_is_one_that_a_shell_takes_apart_as_it_was_meant() {
        let folder = Folder { path: "/data/it's $HOME", ..folder("/") };
        let page = shown(Role::Operator, &folder, &entries(&[]));
        let line = r#"-d &#39;{&quot;paths&quot;:[&quot;/data/it&#39;\&#39;&#39;s $HOME&quot;],&quot;snapshot&quot;:&quot;deadbeef00&quot;}&#39; &#39;https://backup.example.org/v1/hosts/web-1/restore&#39;"#;
        assert!(page.contains(line), "{page}");
        let whole = shown(Role::Operator, &super::tests::folder("/"), &entries(&[]));
        assert!(whole.contains("{&quot;paths&quot;:[],"), "{whole}");
    }

    #[test]
    fn what_is_not_known_yet_is_waited_for_and_what_is_refused_is_said() {
        let page = shown(Role::Operator, &folder("/"), &Asked::NotYet(id(1)));
        assert!(
            page.contains("data-news=\"/v1/events?wait=30&amp;limit=100&amp;host=web-1\"")
                && page.contains("&amp;job=00000000"),
            "{page}"
        );
        assert!(shown(Role::Operator, &folder("/"), &Asked::Refused("offline".to_owned())).contains("offline"));
        assert!(shown(Role::Operator, &folder("/"), &Asked::NotAsked).contains("Ask the host"));
    }

    #[test]
    fn nothing_in_a_snapshot_runs() {
        for text in HOSTILE {
            let here = Folder { path: text, snapshot: text, server: text, ..folder("/") };
            assert_tame(&shown(Role::Operator, &here, &entries(&[text])));
            assert_tame(&shown(Role::Viewer, &here, &Asked::Refused(text.to_owned())));
        }
    }
}
