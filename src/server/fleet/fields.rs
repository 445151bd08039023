//! Pure. Settings, repositories and schedules as named fields with plain values, so that two of them can be told apart field by
//! field, under the names that people write in their files. Secrets are shown as the references that they are.
//! Does not compare: `difference` does.

use serde_json::{Value, json};

use super::channels::{Channel, Digest, Ntfy, Smtp, Way, Webhook};
use super::secret_text;
use super::settings::{OperatorToken, ServerSettings, TlsSettings};
use super::{HostSchedule, Maintenance, MaintenanceCheck, MaintenancePrune, Repository, SecretRef, SecretSource};
use crate::protocol::command::AgentUpdateAvailable;
use crate::server::access::Role;
use crate::server::alert_rules::Alarms;

/// Names and values, in the order in which they are told. What is not set is not there.
pub(super) type Fields = Vec<(String, Value)>;

/// A list of fields that grows.
#[derive(Default)]
struct Told(Fields);

impl Told {
    fn tell(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.push((name.into(), value.into()));
    }

    fn tell_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.tell(name, value);
        }
    }

    fn tell_list(&mut self, name: &str, list: &[String]) {
        if !list.is_empty() {
            self.tell(name, list);
        }
    }
}

/// What comes first of a schedule; the rest follows by name.
const FIRST: [&str; 7] = ["kind", "cron", "timezone", "splay", "paths", "excludes", "tags"];
/// What a schedule's options hold that is written beside `options`.
const BESIDE_OPTIONS: [&str; 4] = ["retries", "incomplete", "catch_up", "hook_timeout"];

/// By its form on the wire, so that no field of it is forgotten.
pub(super) fn of_schedule(held: &HostSchedule) -> Fields {
    let HostSchedule { schedule, alarms: Alarms { max_age, shrink_percent, no_new_data }, ping_url } = held;
    // Text, numbers and lists always have a JSON form.
    let Ok(Value::Object(schedule)) = serde_json::to_value(schedule) else { return Vec::new() };
    let mut fields = Fields::new();
    for (key, value) in schedule {
        match (key.as_str(), value) {
            ("id", _) => {}
            ("cron_expr", value) => fields.push(("cron".to_owned(), value)),
            ("retention_policy", Value::Object(rules)) => {
                fields.extend(rules.into_iter().map(|(rule, value)| (format!("retention.{rule}"), value)));
            }
            ("options", Value::Object(options)) => fields.extend(options.into_iter().map(|(key, value)| {
                let is_beside = BESIDE_OPTIONS.contains(&key.as_str());
                (if is_beside { key } else { format!("options.{key}") }, value)
            })),
            (_, value) => fields.push((key, value)),
        }
    }
    fields.extend(max_age.map(|age| ("max_age".to_owned(), age.to_string().into())));
    let default = Alarms::default();
    if *shrink_percent != default.shrink_percent {
        let share = if *shrink_percent == 0 { "off".to_owned() } else { format!("{shrink_percent}%") };
        fields.push(("alarms.shrink".to_owned(), share.into()));
    }
    if *no_new_data != default.no_new_data {
        fields.push(("alarms.no_new_data".to_owned(), (*no_new_data).into()));
    }
    fields.extend(ping_url.as_ref().map(|url| ("ping_url".to_owned(), secret_text::told(url))));
    fields.retain(|(name, value)| *value != json!([]) && !(name == "splay" && *value == json!("0s")));
    let place = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
    fields.sort_by(|(a, _), (b, _)| (place(a), a).cmp(&(place(b), b)));
    fields
}

pub(super) fn of_secret(source: &SecretSource) -> Value {
    match &source.secret {
        SecretRef::File(path) => json!({ "file": path }),
        SecretRef::Command(name) => json!({ "command": name }),
        SecretRef::Agent(name) => json!({ "agent": name }),
    }
}

/// What of a repository its hosts are sent. `{host}` is still in it.
pub(super) fn of_repository_for_hosts(repository: &Repository) -> Fields {
    let mut told = Told::default();
    told.tell("url", repository.url.as_str());
    told.tell_some("username", repository.username.as_deref());
    told.tell_some("credential", repository.credential.as_ref().map(of_secret));
    told.tell_some("password", repository.password.as_ref().map(of_secret));
    for (name, value) in &repository.env {
        told.tell(format!("env.{name}"), value.as_str());
    }
    told.tell("limit_upload_kib", repository.limit_upload_kib);
    told.tell("limit_download_kib", repository.limit_download_kib);
    told.tell("retry_lock", repository.retry_lock.to_string());
    told.0
}

/// All of a repository. Taken apart by name, so that a new field cannot be forgotten here.
pub(super) fn of_repository(repository: &Repository) -> Fields {
    let Repository {
        name: _,
        url: _,
        username: _,
        credential: _,
        password: _,
        env: _,
        limit_upload_kib: _,
        limit_download_kib: _,
        retry_lock: _,
        max_parallel,
        maintenance,
    } = repository;
    let mut told = Told(of_repository_for_hosts(repository));
    told.tell_some("max_parallel", *max_parallel);
    if let Some(Maintenance { host, url, username, credential, password, forget, prune, check }) = maintenance {
        told.tell("maintenance.host", host.as_str());
        told.tell_some("maintenance.url", url.as_deref());
        told.tell_some("maintenance.username", username.as_deref());
        told.tell_some("maintenance.credential", credential.as_ref().map(of_secret));
        told.tell_some("maintenance.password", password.as_ref().map(of_secret));
        told.tell_some("maintenance.forget", forget.as_deref());
        if let Some(MaintenancePrune { cron, max_unused }) = prune {
            told.tell("maintenance.prune", cron.as_str());
            told.tell_some("maintenance.prune.max_unused", max_unused.as_deref());
        }
        if let Some(MaintenanceCheck { cron, read_data_subset, read_data }) = check {
            told.tell("maintenance.check", cron.as_str());
            told.tell_some("maintenance.check.read_data_subset", read_data_subset.as_deref());
            told.tell("maintenance.check.read_data", *read_data);
        }
    }
    told.0
}

/// All of server.toml. Taken apart by name, so that a new field cannot be forgotten here.
pub(super) fn of_settings(settings: &ServerSettings) -> Fields {
    let ServerSettings {
        listen,
        state,
        trusted_proxies,
        hook_shell,
        secret_roots,
        secret_commands,
        tls,
        insecure_http,
        tokens,
        history_keep,
        logs_keep,
        compress_after,
        agent_update,
        public_url,
        channels,
    } = settings;
    let mut told = Told::default();
    told.tell("listen", listen.to_string());
    told.tell("state", state.as_str());
    let proxies: Vec<String> = trusted_proxies.iter().map(ToString::to_string).collect();
    told.tell_list("trusted_proxies", &proxies);
    told.tell("hook_shell", hook_shell.as_str());
    told.tell_list("secret_roots", secret_roots);
    for (name, words) in secret_commands {
        told.tell(format!("secret_commands.{name}"), words.as_slice());
    }
    if let Some(TlsSettings { cert, key, client_ca }) = tls {
        told.tell("tls.cert", cert.as_str());
        told.tell("tls.key", key.as_str());
        told.tell_some("tls.client_ca", client_ca.as_deref());
    }
    told.tell("insecure_http", *insecure_http);
    for OperatorToken { name, role, hosts, sha256 } in tokens {
        let role = match role {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        };
        told.tell(format!("tokens.{name}.role"), role);
        told.tell_list(&format!("tokens.{name}.hosts"), hosts);
        // Enough to see that it is another one.
        let start = data_encoding::HEXLOWER.encode(sha256.get(..4).unwrap_or_default());
        told.tell(format!("tokens.{name}.sha256"), format!("{start}..."));
    }
    told.tell("history.keep", history_keep.to_string());
    told.tell("history.logs_keep", logs_keep.to_string());
    told.tell("history.compress_after", compress_after.map_or("never".to_owned(), |after| after.to_string()));
    if let Some(AgentUpdateAvailable { latest_version, package_url, changelog }) = agent_update.as_deref() {
        told.tell("agent_update.latest_version", latest_version.as_str());
        told.tell("agent_update.package_url", package_url.as_str());
        told.tell_some("agent_update.changelog", changelog.as_deref());
    }
    told.tell_some("public_url", public_url.as_deref());
    channels.iter().for_each(|channel| tell_channel(channel, &mut told));
    told.0
}

fn tell_channel(channel: &Channel, told: &mut Told) {
    let Channel { name, way, kinds, min_severity, hosts, digest, send_resolved, ca_file } = channel;
    let mut tell = |key: &str, value: Option<Value>| told.tell_some(&format!("alerts.channels.{name}.{key}"), value);
    tell("kind", Some(channel.kind().into()));
    match way {
        Way::Webhook(Webhook { url, secret, headers }) => {
            tell("url", Some(secret_text::told(url)));
            tell("secret", secret.as_ref().map(of_secret));
            headers.iter().for_each(|(name, value)| tell(&format!("headers.{name}"), Some(secret_text::told(value))));
        }
        Way::Ntfy(Ntfy { url, token, priority }) => {
            tell("url", Some(secret_text::told(url)));
            tell("token", token.as_ref().map(of_secret));
            tell("priority", priority.map(Value::from));
        }
        Way::Smtp(Smtp { host, port, tls, username, password, from, to }) => {
            tell("host", Some(host.as_str().into()));
            tell("port", Some((*port).into()));
            tell("tls", Some(format!("{tls:?}").to_lowercase().into()));
            tell("username", username.as_deref().map(Value::from));
            tell("password", password.as_ref().map(of_secret));
            tell("from", Some(from.as_str().into()));
            tell("to", Some(to.as_slice().into()));
        }
    }
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    tell("kinds", (!kinds.is_empty()).then(|| kinds.into()));
    tell("min_severity", Some(min_severity.as_str().into()));
    tell("hosts", (!hosts.is_empty()).then(|| hosts.as_slice().into()));
    let time = |Digest { minute, timezone }: &Digest| format!("{:02}:{:02} {timezone}", minute / 60, minute % 60);
    tell("digest", digest.as_ref().map(|digest| time(digest).into()));
    tell("send_resolved", Some((*send_resolved).into()));
    tell("ca_file", ca_file.as_deref().map(Value::from));
}
