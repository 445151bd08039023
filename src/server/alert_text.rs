//! Pure. What a message says: a title, a text for people, and the JSON that programs get. What agents said is made harmless: one
//! line, no control characters, nothing that changes the direction of writing. Does not send.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::alert::Severity;
use super::alert_sends::{Due, Message};
use super::alert_told::Told;
use crate::id::ChannelName;

const TITLE_LIMIT: usize = 150;
const TEXT_LIMIT: usize = 1000;
/// Alerts that a message lists.
const MOST_LINES: usize = 100;

/// On one line, at most so many characters.
pub fn clean(text: &str, limit: usize) -> String {
    let is_hidden = |c: char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}');
    let is_space = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '\u{2028}' | '\u{2029}');
    let visible = text.chars().filter(|c| !is_hidden(*c)).map(|c| if is_space(c) { ' ' } else { c });
    let mut cleaned: String = visible.take(limit + 1).collect();
    if cleaned.chars().count() > limit {
        cleaned = cleaned.chars().take(limit.saturating_sub(3)).collect::<String>() + "...";
    }
    cleaned.trim().to_owned()
}

/// The worst of what it is about.
pub fn severity(message: &Message) -> Severity {
    let open = message.dues.iter().map(|due| due.alert.kind.severity());
    open.max().unwrap_or(Severity::Warning)
}

/// On one line.
pub fn title(message: &Message) -> String {
    let title = match (message.what, message.dues.as_slice()) {
        (Told::Test, _) => "restic-manager: a test of this channel".to_owned(),
        (Told::Digest, dues) => {
            let (open, ended): (Vec<&Due>, Vec<&Due>) = dues.iter().partition(|due| due.ended_at.is_none());
            let count = |count: usize| format!("{count} alert{}", if count == 1 { "" } else { "s" });
            let is_open = if open.is_empty() {
                "no alert is open".to_owned()
            } else {
                let are = if open.len() == 1 { "is" } else { "are" };
                format!("{} {are} open ({})", count(open.len()), hosts(&open))
            };
            let has_ended = match ended.len() {
                0 => String::new(),
                1 => ", 1 has ended".to_owned(),
                ended => format!(", {ended} have ended"),
            };
            format!("restic-manager: {is_open}{has_ended}")
        }
        (what, [due]) => {
            let word = if what == Told::Resolved { "resolved: " } else { "" };
            format!("{word}{}: {}", whose(due), about(due))
        }
        (what, dues) => {
            let word = if what == Told::Resolved { "resolved alerts" } else { "alerts" };
            format!("{} {word} of {}", dues.len(), hosts(&dues.iter().collect::<Vec<_>>()))
        }
    };
    clean(&title, TITLE_LIMIT)
}

fn hosts(dues: &[&Due]) -> String {
    let mut names: Vec<&str> = dues.iter().map(|due| whose(due)).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [one] => (*one).to_owned(),
        [one, other] => format!("{one} and {other}"),
        names => format!("{} hosts", names.len()),
    }
}

/// The page that shows what the message is about: the job that failed, the host, or all alerts. `None`: nobody knows where pages are.
pub fn link(message: &Message, public_url: Option<&str>) -> Option<String> {
    let url = public_url?;
    Some(match message.dues.as_slice() {
        [] => format!("{url}/"),
        [one] => page_of(one, url),
        [first, rest @ ..] => match &first.host {
            Some(host) if rest.iter().all(|due| due.host.as_ref() == Some(host)) => format!("{url}/hosts/{host}"),
            _ => format!("{url}/alerts"),
        },
    })
}

/// Names and ids need no encoding in a path.
fn page_of(due: &Due, url: &str) -> String {
    match (&due.host, due.alert.job_id) {
        (Some(_), Some(job)) if due.ended_at.is_none() => format!("{url}/jobs/{job}"),
        (Some(host), _) => format!("{url}/hosts/{host}"),
        (None, _) => format!("{url}/#config"),
    }
}

fn whose(due: &Due) -> &str {
    due.host.as_ref().map_or("the fleet", |host| host.as_str())
}

fn about(due: &Due) -> String {
    let schedule = due.alert.schedule_id.as_ref().map_or(String::new(), |id| format!(" ({id})"));
    format!("{}{schedule}", due.alert.kind.as_str())
}

fn shown(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Several lines.
pub fn text(message: &Message, public_url: Option<&str>) -> String {
    let mut text = String::new();
    if message.what == Told::Test {
        text += "Alerts of restic-manager arrive here.\n";
    }
    let is_short = message.dues.len() > 1 || message.what == Told::Digest;
    for (index, due) in message.dues.iter().enumerate() {
        if index == MOST_LINES {
            let _ = writeln!(text, "... and {} more: see GET /v1/alerts", message.dues.len() - index);
            break;
        }
        if is_short {
            // Those that are open come first.
            let before = index.checked_sub(1).and_then(|before| message.dues.get(before));
            let is_first = before.is_none_or(|before| before.ended_at.is_some() != due.ended_at.is_some());
            if message.what == Told::Digest && is_first {
                text += match (due.ended_at, index) {
                    (None, _) => "Open:\n",
                    (Some(_), 0) => "Ended:\n",
                    (Some(_), _) => "\nEnded:\n",
                };
            }
            let ended = due.ended_at.map_or(String::new(), |at| format!(", ended {}", shown(at)));
            let said = clean(&due.alert.text, TEXT_LIMIT / 4);
            let _ =
                writeln!(text, "{}: {}, since {}{ended}: {said}", whose(due), about(due), shown(due.alert.raised_at));
            continue;
        }
        let _ = writeln!(text, "{}\n", clean(&due.alert.text, TEXT_LIMIT));
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<9}{value}");
        };
        row("host", whose(due).to_owned());
        row("alert", format!("{} ({})", due.alert.kind.as_str(), due.alert.kind.severity().as_str()));
        due.alert.schedule_id.iter().for_each(|id| row("schedule", id.to_string()));
        due.alert.job_id.iter().for_each(|id| row("job", id.to_string()));
        row("since", shown(due.alert.raised_at));
        due.ended_at.iter().for_each(|at| row("ended", shown(*at)));
        due.alert.acknowledged_by.iter().for_each(|by| row("seen by", clean(by, 60)));
    }
    if let Some(url) = link(message, public_url) {
        let _ = writeln!(text, "\n{url}");
    }
    text
}

/// For programs. `text` is what Slack, Mattermost and their like show.
pub fn json(message: &Message, channel: &ChannelName, public_url: Option<&str>, now: DateTime<Utc>) -> Value {
    let alerts: Vec<Value> = message.dues.iter().map(|due| alert(due, public_url)).collect();
    let mut body = json!({
        "id": message.id,
        "type": format!("alert.{}", message.what.as_str()),
        "channel": channel,
        "sent_at": time(now),
        "title": title(message),
        "text": format!("{}\n{}", title(message), text(message, public_url)),
        "alerts": alerts,
    });
    if let Some(url) = link(message, public_url) {
        body["url"] = url.into();
    }
    body
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn alert(due: &Due, public_url: Option<&str>) -> Value {
    let mut view = json!({
        "id": due.alert.id,
        "kind": due.alert.kind,
        "severity": due.alert.kind.severity(),
        "text": clean(&due.alert.text, TEXT_LIMIT),
        "raised_at": time(due.alert.raised_at),
    });
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            view[key] = value.into();
        }
    };
    add("host", due.host.as_ref().map(ToString::to_string));
    add("schedule_id", due.alert.schedule_id.as_ref().map(ToString::to_string));
    add("job_id", due.alert.job_id.map(|id| id.to_string()));
    add("ended_at", due.ended_at.map(time));
    add("url", public_url.map(|url| page_of(due, url)));
    add("acknowledged_by", due.alert.acknowledged_by.as_ref().map(|by| clean(by, 60)));
    view
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::alert::{Alert, AlertKind};
    use crate::server::folded::{host, id, noon, schedule};

    fn message(text: &str) -> Message {
        let alert = Alert {
            id: id(1),
            kind: AlertKind::BackupFailed,
            schedule_id: Some(schedule("system")),
            job_id: Some(id(2)),
            text: text.to_owned(),
            raised_at: noon(),
            acknowledged_by: None,
            told: std::collections::BTreeMap::new(),
        };
        Message::new(Told::Raised, vec![Due { host: Some(host()), alert, ended_at: None }])
    }

    #[test]
    fn hostile_text_stays_one_harmless_line() {
        let hostile = "a\r\nBcc: x@y\n\n.\r\nQUIT\u{1b}[31m\u{202e}gnp\u{2066}\u{200b}\u{85}\u{2028}\0</script>";
        let message = message(hostile);
        let cleaned = clean(hostile, 1000);
        assert!(!cleaned.chars().any(|c| c.is_control() || ('\u{200b}'..='\u{2069}').contains(&c)), "{cleaned:?}");
        assert!(cleaned.starts_with("a  Bcc: x@y"), "{cleaned:?}");
        assert_eq!(title(&message), "web-1: backup_failed (system)");
        let text = text(&message, None);
        assert!(text.lines().all(|line| !line.starts_with("Bcc") && line != "."), "{text}");
        let json = json(&message, &"hook".parse().expect("a name"), Some("https://b"), noon());
        assert!(!json.to_string().contains("\\u202e"), "{json}");
        assert_eq!(json["alerts"][0]["text"], cleaned);
    }

    #[test]
    fn a_message_leads_to_the_page_of_what_it_is_about() {
        let url = Some("https://b.example/rm");
        let mut one = message("disk full");
        let job = format!("https://b.example/rm/jobs/{}", id::<crate::id::JobId>(2));
        assert_eq!(link(&one, url), Some(job.clone()));
        assert!(text(&one, url).ends_with(&format!("\n{job}\n")));
        let json = json(&one, &"hook".parse().expect("a name"), url, noon());
        assert_eq!((&json["url"], &json["alerts"][0]["url"]), (&job.as_str().into(), &job.as_str().into()));
        assert_eq!(link(&one, None), None);
        one.dues[0].ended_at = Some(noon());
        assert_eq!(link(&one, url).as_deref(), Some("https://b.example/rm/hosts/web-1"), "its end is no job's");
        let same = Message::new(Told::Raised, vec![one.dues[0].clone(), one.dues[0].clone()]);
        assert_eq!(link(&same, url).as_deref(), Some("https://b.example/rm/hosts/web-1"));
        one.dues[0].host = None;
        assert_eq!(link(&one, url).as_deref(), Some("https://b.example/rm/#config"));
        let mixed = Message::new(Told::Raised, vec![one.dues[0].clone(), same.dues[0].clone()]);
        assert_eq!(link(&mixed, url).as_deref(), Some("https://b.example/rm/alerts"));
        assert_eq!(link(&Message::new(Told::Test, Vec::new()), url).as_deref(), Some("https://b.example/rm/"));
    }

    #[test]
    fn a_digest_says_how_things_are_and_lists_what_is_open_first() {
        let due = message("disk full").dues.remove(0);
        let ended = Due { ended_at: Some(noon()), ..due.clone() };
        let titled =
            |dues: &[&Due]| title(&Message::new(Told::Digest, dues.iter().map(|due| (*due).clone()).collect()));
        assert_eq!(titled(&[&due]), "restic-manager: 1 alert is open (web-1)");
        assert_eq!(titled(&[&due, &due, &ended]), "restic-manager: 2 alerts are open (web-1), 1 has ended");
        assert_eq!(titled(&[&ended, &ended]), "restic-manager: no alert is open, 2 have ended");
        let both = text(&Message::new(Told::Digest, vec![due.clone(), ended.clone()]), None);
        let lines: Vec<&str> = both.lines().collect();
        assert_eq!((lines[0], lines[2], lines[3]), ("Open:", "", "Ended:"), "{both}");
        assert!(text(&Message::new(Told::Digest, vec![ended]), None).starts_with("Ended:\nweb-1: backup_failed"));
        let many = text(&Message::new(Told::Digest, vec![due; 150]), None);
        assert!(many.contains("... and 50 more"), "{many}");
    }

    #[test]
    fn what_is_too_long_is_cut() {
        assert_eq!(clean("abcdefgh", 6), "abc...");
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert!(text(&message(&"x".repeat(100_000)), None).len() < 1400);
    }
}
