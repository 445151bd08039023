//! Pure. What one host is sent, and the hashes by which a change of it is noticed.
//! Does not number versions or read secrets: those come in as values.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::maintenance::{copy_targets, targets};
use super::{Fleet, Host, Repository, SecretRef, SecretSource, for_host};
use crate::id::HostName;
use crate::protocol::command::{ConfigUpdate, Secret};
use crate::protocol::repository_access::RepositoryAccess;
use crate::protocol::schedule::Schedule;
use crate::repository_target::RepositoryTarget;

/// A host's secrets, as read for sending. The agents' own are not here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSecrets {
    /// Of the host's own repository.
    pub own: AccessSecrets,
    /// Of what it maintains, as far as they could be read.
    pub maintained: BTreeMap<RepositoryTarget, AccessSecrets>,
    /// Of what it copies to, likewise.
    pub copy_targets: BTreeMap<RepositoryTarget, AccessSecrets>,
}

/// The secrets with which one repository is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessSecrets {
    /// The repository's password.
    pub password: Option<Secret>,
    /// The backend's password.
    pub credential: Option<Secret>,
}

/// With what a repository is reached: by the hosts that use it, or by the one that maintains it.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    pub url: &'a str,
    pub username: Option<&'a String>,
    pub password: Option<&'a SecretSource>,
    pub credential: Option<&'a SecretSource>,
}

impl<'a> Credentials<'a> {
    pub fn of_hosts(repository: &'a Repository) -> Self {
        let Repository { url, username, password, credential, .. } = repository;
        Self { url, username: username.as_ref(), password: password.as_ref(), credential: credential.as_ref() }
    }

    /// Maintenance's own, and the hosts' where it has none.
    pub fn of_maintenance(repository: &'a Repository) -> Self {
        let hosts = Self::of_hosts(repository);
        let Some(work) = &repository.maintenance else { return hosts };
        Self {
            url: work.url.as_deref().unwrap_or(hosts.url),
            username: work.username.as_ref().or(hosts.username),
            password: work.password.as_ref().or(hosts.password),
            credential: work.credential.as_ref().or(hosts.credential),
        }
    }
}

/// The host's schedules as an agent gets them, sorted by id.
pub fn schedules_of(host: &Host) -> Vec<Schedule> {
    host.schedules.iter().map(|held| held.schedule.clone()).collect()
}

/// 32 hex digits that change exactly when what the agent gets does. Half of a SHA-256, over JSON with sorted keys,
/// so that a field's place in our source does not matter.
pub fn schedule_hash(schedules: &[Schedule]) -> String {
    hex_half(&Sha256::digest(canonical_json(&schedules)))
}

/// The host's settings, all of them explicit, because an absent field would leave what the agent has.
/// Version and hash are the caller's to fill in.
pub fn config_update_of(fleet: &Fleet, host: &Host, secrets: &HostSecrets) -> ConfigUpdate {
    let repository = host.repository.as_ref().and_then(|name| fleet.repositories.get(name));
    let own =
        repository.map(|repository| access(repository, Credentials::of_hosts(repository), &host.name, &secrets.own));
    let own = own.unwrap_or_default();
    ConfigUpdate {
        version: 0,
        hash: String::new(),
        repo_url: Some(own.url),
        repo_username: Some(own.username),
        repo_password: Some(own.password),
        repo_credential: Some(own.credential),
        repo_password_secret: Some(own.password_secret),
        repo_credential_secret: Some(own.credential_secret),
        hook_shell: Some(fleet.settings.hook_shell.clone()),
        env: Some(own.env),
        limit_upload_kib: Some(own.limit_upload_kib),
        limit_download_kib: Some(own.limit_download_kib),
        retry_lock: Some(own.retry_lock),
        maintained: Some(maintained(fleet, host, &secrets.maintained)),
        copy_targets: Some(copied_to(fleet, host, &secrets.copy_targets)),
    }
}

/// What the host gets of the repositories that it maintains: those whose secrets are at hand.
fn maintained(
    fleet: &Fleet,
    host: &Host,
    secrets: &BTreeMap<RepositoryTarget, AccessSecrets>,
) -> BTreeMap<RepositoryTarget, RepositoryAccess> {
    let of_one = |repository: &Repository| -> Vec<(RepositoryTarget, RepositoryAccess)> {
        let of_target = |target: RepositoryTarget| {
            let whose = target.host.as_ref().unwrap_or(&host.name);
            let access = access(repository, Credentials::of_maintenance(repository), whose, secrets.get(&target)?);
            Some((target, access))
        };
        targets(fleet, repository).into_iter().filter_map(of_target).collect()
    };
    fleet.maintained_by(&host.name).flat_map(of_one).collect()
}

/// What the host gets of the repositories that it copies to: those whose secrets are at hand.
fn copied_to(
    fleet: &Fleet,
    host: &Host,
    secrets: &BTreeMap<RepositoryTarget, AccessSecrets>,
) -> BTreeMap<RepositoryTarget, RepositoryAccess> {
    let of_one = |(target, repository): (RepositoryTarget, &Repository)| {
        let access = access(repository, Credentials::of_hosts(repository), &host.name, secrets.get(&target)?);
        Some((target, access))
    };
    copy_targets(fleet, host).into_iter().filter_map(of_one).collect()
}

/// `whose`: what `{host}` stands for.
fn access(
    repository: &Repository,
    credentials: Credentials<'_>,
    whose: &HostName,
    secrets: &AccessSecrets,
) -> RepositoryAccess {
    RepositoryAccess {
        url: for_host(credentials.url, whose),
        username: credentials.username.map_or(String::new(), |name| for_host(name, whose)),
        password: secrets.password.clone().unwrap_or_default(),
        password_secret: agents_own(credentials.password),
        credential: secrets.credential.clone().unwrap_or_default(),
        credential_secret: agents_own(credentials.credential),
        env: repository.env.clone(),
        limit_upload_kib: repository.limit_upload_kib,
        limit_download_kib: repository.limit_download_kib,
        retry_lock: repository.retry_lock,
    }
}

/// The name that the agent knows a secret by; empty where it is the server's.
fn agents_own(source: Option<&SecretSource>) -> String {
    match source.map(|source| &source.secret) {
        Some(SecretRef::Agent(name)) => name.clone(),
        _ => String::new(),
    }
}

/// 32 hex digits that change when any setting does, a secret included. Keyed, so that who sees the hash cannot try
/// passwords against it. Version and hash of the update do not count.
pub fn config_hash(update: &ConfigUpdate, key: &[u8; 32]) -> String {
    let update = ConfigUpdate { version: 0, hash: String::new(), ..update.clone() };
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(&canonical_json(&update));
    hex_half(&mac.finalize().into_bytes())
}

fn canonical_json(value: &impl serde::Serialize) -> Vec<u8> {
    // `Value`'s objects are sorted. Texts, numbers and lists always have a JSON form.
    serde_json::to_value(value).and_then(|value| serde_json::to_vec(&value)).unwrap_or_default()
}

fn hex_half(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes.get(..16).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::fleet::load::load;

    fn fleet(repository_more: &str, host_more: &str) -> Fleet {
        let files = [
            (
                "repositories/main.toml",
                format!(
                    "url = \"/srv/{{host}}\"\nusername = \"{{host}}\"\npassword = {{ file = \"/run/secrets/p\" }}\n{repository_more}"
                ),
            ),
            (
                "hosts/a.toml",
                format!(
                    "repository = \"main\"\n{host_more}[[schedule]]\nid = \"x\"\nkind = \"backup\"\ncron = \"@daily\"\npaths = [\"/etc\"]\n"
                ),
            ),
        ];
        let (fleet, problems) = load(&files.map(|(file, text)| (file.to_owned(), text)).into());
        assert_eq!(problems, []);
        fleet
    }

    fn host(fleet: &Fleet) -> &Host {
        fleet.hosts.values().next().expect("a host")
    }

    #[test]
    fn an_update_names_every_field_so_that_nothing_old_stays() {
        let fleet = fleet("", "");
        let update = config_update_of(&fleet, host(&fleet), &HostSecrets::default());
        assert_eq!(update.repo_url.as_deref(), Some("/srv/a"));
        assert_eq!(update.repo_username.as_deref(), Some("a"));
        let old = ConfigUpdate {
            repo_credential: Some(Secret::new("old".into())),
            env: Some(BTreeMap::from([("A".into(), "b".into())])),
            ..ConfigUpdate::default()
        };
        assert_eq!(update.clone().applied_to(&old), update);
    }

    #[test]
    fn a_hash_changes_with_what_is_sent_and_only_then() {
        let hash = |fleet: &Fleet| schedule_hash(&schedules_of(host(fleet)));
        assert_eq!(hash(&fleet("", "")), hash(&fleet("max_parallel = 2\n", "")));
        assert_ne!(hash(&fleet("", "")), hash(&fleet("", "tags = [\"t\"]\n")));
        assert_eq!(hash(&fleet("", "")).len(), 32);
    }

    #[test]
    fn a_rotated_secret_changes_the_hash_and_another_key_hides_it() {
        let fleet = fleet("", "");
        let hash = |password: &str, key: u8| {
            let own = AccessSecrets { password: Some(Secret::new(password.into())), credential: None };
            let secrets = HostSecrets { own, ..HostSecrets::default() };
            config_hash(&config_update_of(&fleet, host(&fleet), &secrets), &[key; 32])
        };
        assert_eq!(hash("one", 1), hash("one", 1));
        assert_ne!(hash("one", 1), hash("two", 1));
        assert_ne!(hash("one", 1), hash("one", 2));
    }

    const ADMIN: &str = "[maintenance]\nhost = \"a\"\nusername = \"admin-{host}\"\npassword = { agent = \"admin\" }\n";

    #[test]
    fn only_the_elected_host_gets_what_maintenance_has_of_its_own() {
        for (url, target, whose) in [("/srv/all", "main", "a"), ("/srv/{host}", "main/b", "b")] {
            let files = [
                (
                    "repositories/main.toml",
                    format!(
                        "url = {url:?}\nusername = \"u\"\npassword = {{ file = \"/run/secrets/p\" }}\n{ADMIN}check = \"@weekly\"\n"
                    ),
                ),
                ("hosts/a.toml", "repository = \"main\"\n".to_owned()),
                ("hosts/b.toml", "repository = \"main\"\n".to_owned()),
            ];
            let (fleet, _) = load(&files.map(|(file, text)| (file.to_owned(), text)).into());
            let target: RepositoryTarget = target.parse().expect("a target");
            let secrets = HostSecrets {
                maintained: [(target.clone(), AccessSecrets::default())].into(),
                ..HostSecrets::default()
            };
            let of = |name: &str| {
                config_update_of(&fleet, &fleet.hosts[&name.parse::<HostName>().expect("a name")], &secrets)
            };
            let (a, b) = (of("a"), of("b"));
            assert_eq!((a.repo_username.as_deref(), b.repo_username.as_deref()), (Some("u"), Some("u")));
            assert_eq!((a.repo_password_secret.as_deref(), b.maintained), (Some(""), Some(BTreeMap::new())));
            let maintained = a.maintained.expect("explicit");
            let access = &maintained[&target];
            assert_eq!(
                (maintained.len(), access.url.as_str()),
                (1, for_host(url, &whose.parse().expect("a name")).as_str())
            );
            assert_eq!(
                (access.username.as_str(), access.password_secret.as_str()),
                (format!("admin-{whose}").as_str(), "admin")
            );
        }
    }
}
