//! Pure. server.toml's `[alerts]`: the channels on which alerts are told, each with what it wants to hear.
//! Does not send, and reads no secret: channels refer to theirs.

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::raw::read_secret;
use super::raw_schedule::{read_list, read_timezone};
use super::secret_text::{SecretText, check_own, masked_address, read_secret_text, web_address};
use super::{SecretSource, rules};
use crate::id::ChannelName;
use crate::server::alert::{AlertKind, Severity};
use crate::toml_reader::{Placed, TableReader, shown};

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub name: ChannelName,
    pub way: Way,
    /// Empty: all.
    pub kinds: Vec<AlertKind>,
    pub min_severity: Severity,
    /// Host names with `*`; empty: all, and the fleet's own.
    pub hosts: Vec<String>,
    /// In place of each alert by itself, all of a day at this time.
    pub digest: Option<Digest>,
    /// Whether the end of an alert is told too.
    pub send_resolved: bool,
    /// A certificate authority beside the system's, PEM. Relative paths begin at the configuration directory.
    pub ca_file: Option<String>,
}

/// Minutes after midnight, and the zone of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    pub minute: u16,
    pub timezone: Tz,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Webhook(Webhook),
    Ntfy(Ntfy),
    Smtp(Smtp),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: SecretText,
    /// The key of the signature.
    pub secret: Option<SecretSource>,
    pub headers: BTreeMap<String, SecretText>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ntfy {
    /// With the topic as the last part of its path.
    pub url: SecretText,
    pub token: Option<SecretSource>,
    /// Of an alert that is raised, 1 to 5; `None`: by its severity.
    pub priority: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    pub username: Option<String>,
    pub password: Option<SecretSource>,
    pub from: String,
    pub to: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// Asked for on a plain connection; without it nothing is sent.
    StartTls,
    /// From the first byte on.
    Tls,
    None,
}

impl Channel {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<&SecretSource> {
        match &self.way {
            Way::Webhook(Webhook { url, secret, headers }) => {
                let texts = [url].into_iter().chain(headers.values()).filter_map(SecretText::source);
                texts.chain(secret).collect()
            }
            Way::Ntfy(Ntfy { url, token, .. }) => url.source().into_iter().chain(token).collect(),
            Way::Smtp(Smtp { password, .. }) => password.iter().collect(),
        }
    }

    /// smtp, webhook or ntfy.
    pub fn kind(&self) -> &'static str {
        match self.way {
            Way::Webhook(_) => "webhook",
            Way::Ntfy(_) => "ntfy",
            Way::Smtp(_) => "smtp",
        }
    }
}

/// Reads `[alerts]`.
pub(super) fn read_alerts(alerts: &mut TableReader<'_>) -> Vec<Channel> {
    let mut channels = Vec::new();
    alerts.table("channels", |table| {
        for name in table.names() {
            let channel = table.table(name, |channel| read_channel(channel, name));
            channels.extend(channel.and_then(|channel| channel.value));
        }
    });
    channels
}

/// Everything is asked for, also of the other kinds, so that all problems are told at once.
fn read_channel(table: &mut TableReader<'_>, name: &str) -> Option<Channel> {
    let name: Option<ChannelName> = name.parse().map_err(|error| table.error(table.place(), format!("{error}"))).ok();
    if table.place_of("kind").is_none() {
        table.missing("kind", "kind = \"webhook\"");
    }
    type Read = for<'d> fn(&mut TableReader<'d>) -> Option<Way>;
    let kinds: [(&str, Read); 3] = [("smtp", read_smtp), ("webhook", read_webhook), ("ntfy", read_ntfy)];
    let kind = table.choice("kind", &kinds);
    let way = match &kind {
        Some(read) => (read.value)(table),
        None => {
            // What the rest means depends on it.
            table.accept_anything();
            None
        }
    };
    let names: Vec<(&'static str, AlertKind)> = AlertKind::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    let kinds = table.strings("kinds").map(|list| {
        let find = |text: &Placed<String>| match names.iter().find(|(word, _)| *word == text.value) {
            Some((_, kind)) => Some(*kind),
            None => {
                let words = names.iter().map(|(word, _)| *word);
                let hint = crate::toml_reader::nearest(&text.value, words.clone());
                let hint = hint.map_or_else(
                    || format!("there are {}", words.collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean {near:?}?"),
                );
                table.error(text.place, format!("kinds: {} is no kind of alert; {hint}", shown(&text.value)));
                None
            }
        };
        list.value.iter().filter_map(find).collect()
    });
    let severities = [("warning", Severity::Warning), ("error", Severity::Error)];
    let min_severity = table.choice("min_severity", &severities).map(|found| found.value);
    let hosts = read_list(table, "hosts", rules::host_pattern).map(|hosts| hosts.value);
    let digest = table.parsed::<TimeOfDay>("digest");
    let timezone = read_timezone(table);
    if let (None, Some(zone)) = (table.place_of("digest"), &timezone) {
        table.error(zone.place, "timezone is that of digest: write digest = \"08:00\" too");
    }
    let send_resolved = table.boolean("send_resolved").is_some_and(|on| on.value);
    let ca_file = table.string("ca_file").map(|path| path.value).filter(|path| !path.is_empty());
    let timezone = timezone.map_or(Tz::UTC, |zone| zone.value);
    let channel = Channel {
        name: name?,
        way: way?,
        kinds: kinds.unwrap_or_default(),
        min_severity: min_severity.unwrap_or(Severity::Warning),
        hosts: hosts.unwrap_or_default(),
        digest: digest.map(|time| Digest { minute: time.value.0, timezone }),
        send_resolved,
        ca_file,
    };
    for source in channel.secrets() {
        if let Err(message) = check_own(source, false) {
            table.error(source.place, message);
        }
    }
    Some(channel)
}

/// "08:00".
struct TimeOfDay(u16);

impl std::str::FromStr for TimeOfDay {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2);
        let number = |text: &str, below: u16| text.parse().ok().filter(|n: &u16| *n < below);
        let time = parts.and_then(|(hour, minute)| Some(number(hour, 24)? * 60 + number(minute, 60)?));
        time.map(Self).ok_or_else(|| format!("{} is no time of day: write for example \"08:00\"", shown(text)))
    }
}

fn read_address<'d>(
    table: &mut TableReader<'d>,
    example: &str,
    rule: fn(&str) -> Result<(), String>,
) -> Option<SecretText> {
    if table.place_of("url").is_none() {
        table.missing("url", example);
    }
    let url = read_secret_text(table, "url", rule)?;
    if matches!(&url.value, SecretText::Written(text) if is_in_clear(text)) {
        table.warning(url.place, "url begins with http://: what is told, and any token, can be read on the way");
    }
    Some(url.value)
}

/// Without TLS, to another machine.
fn is_in_clear(url: &str) -> bool {
    let host = url.strip_prefix("http://").map(|rest| rest.split(['/', ':', '?']).next().unwrap_or_default());
    host.is_some_and(|host| host != "localhost" && !host.starts_with("127.") && !host.starts_with("[::1"))
}

fn read_webhook(table: &mut TableReader<'_>) -> Option<Way> {
    let url = read_address(table, "url = \"https://hooks.example.org/backups\"", web_address);
    let secret = read_secret(table, "secret");
    let headers = table.table("headers", |headers| {
        let mut read = BTreeMap::new();
        for name in headers.names() {
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let lower = name.to_ascii_lowercase();
            if !is_name || matches!(lower.as_str(), "content-length" | "content-type" | "host" | "transfer-encoding") {
                headers.error(headers.place_of(name).unwrap_or_default(), format!("{} cannot be set", shown(name)));
            }
            let is_secret =
                ["authorization", "token", "key", "secret", "cookie"].iter().any(|word| lower.contains(word));
            let rule = move |text: &str| match text {
                _ if is_secret => {
                    Err("is a secret and never written here: write { file = \"/run/secrets/...\" }".to_owned())
                }
                _ if text.chars().any(|c| !(' '..='~').contains(&c)) => {
                    Err("has characters that no header has".to_owned())
                }
                _ => Ok(()),
            };
            read.extend(read_secret_text(headers, name, rule).map(|text| (name.to_owned(), text.value)));
        }
        read
    });
    Some(Way::Webhook(Webhook { url: url?, secret, headers: headers.map_or_else(BTreeMap::new, |h| h.value) }))
}

fn read_ntfy(table: &mut TableReader<'_>) -> Option<Way> {
    let url = read_address(table, "url = \"https://ntfy.sh/my-topic\"", topic_address);
    let token = read_secret(table, "token");
    let priority = table.integer("priority", 1..=5).and_then(|n| u8::try_from(n.value).ok());
    Some(Way::Ntfy(Ntfy { url: url?, token, priority }))
}

fn topic_address(text: &str) -> Result<(), String> {
    web_address(text)?;
    if masked_address(text) == text {
        // As a server shows its files to `plan`.
        return Ok(());
    }
    let path = text.splitn(4, '/').nth(3).unwrap_or_default();
    let topic = path.rsplit('/').next().unwrap_or_default();
    let is_topic = !topic.is_empty() && topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_topic { Ok(()) } else { Err("has no topic at its end, as https://ntfy.sh/my-topic has".to_owned()) }
}

fn read_smtp(table: &mut TableReader<'_>) -> Option<Way> {
    let mut required = |key: &'static str, example: &str| {
        if table.place_of(key).is_none() {
            table.missing(key, example);
        }
        table.string(key)
    };
    let host = required("host", "host = \"mail.example.org\"");
    let from = required("from", "from = \"restic-manager <backups@example.org>\"");
    if table.place_of("to").is_none() {
        table.missing("to", "to = [\"ops@example.org\"]");
    }
    if let Some(host) = &host
        && (host.value.is_empty()
            || !host.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':')))
    {
        table.error(host.place, format!("host {} is no mail server's name", shown(&host.value)));
    }
    let to = read_list(table, "to", mail_address);
    if let Some(to) = to.as_ref().filter(|to| to.value.is_empty()) {
        table.error(to.place, "to is empty: write to whom mails go");
    }
    if let Some(from) = &from
        && let Err(message) = mail_address(&from.value)
    {
        table.error(from.place, format!("from: {message}"));
    }
    let tls = [("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls), ("none", SmtpTls::None)];
    let tls = table.choice("tls", &tls);
    let username = table.string("username");
    let password = read_secret(table, "password");
    match (&username, &password) {
        (Some(username), None) if table.place_of("password").is_none() => {
            table.error(username.place, "username needs a password: write password = { file = \"/run/secrets/...\" }");
        }
        (None, Some(password)) => table.error(password.place, "password needs a username"),
        _ => {}
    }
    let is_local = host.as_ref().is_some_and(|host| matches!(host.value.as_str(), "localhost" | "127.0.0.1" | "::1"));
    if let Some(tls) = tls.as_ref().filter(|tls| tls.value == SmtpTls::None && !is_local) {
        if username.is_some() {
            table.error(
                tls.place,
                "tls = \"none\" would send the password in clear text: write \"starttls\" or \"tls\"",
            );
        } else {
            table.warning(tls.place, "tls = \"none\": mails can be read on the way");
        }
    }
    let tls = tls.map_or(SmtpTls::StartTls, |tls| tls.value);
    let port = table.integer("port", 1..=65535).and_then(|port| u16::try_from(port.value).ok());
    let port = port.unwrap_or(match tls {
        SmtpTls::StartTls => 587,
        SmtpTls::Tls => 465,
        SmtpTls::None => 25,
    });
    let username = username.map(|name| name.value);
    Some(Way::Smtp(Smtp { host: host?.value, port, tls, username, password, from: from?.value, to: to?.value }))
}

/// "ops@example.org", or "Ops <ops@example.org>", by the reader that the mails are made with.
fn mail_address(text: &str) -> rules::Checked {
    if !text.chars().any(char::is_control) && text.parse::<lettre::message::Mailbox>().is_ok() {
        return Ok(());
    }
    Err(format!("{} is no mail address: write for example \"ops@example.org\"", shown(text)))
}
