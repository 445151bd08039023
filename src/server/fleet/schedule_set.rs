//! Pure. What one host is sent, and the hashes by which a change of it is noticed.
//! Does not number versions or read secrets: those come in as values.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::{Fleet, Host, for_host};
use crate::protocol::command::{ConfigUpdate, Secret};
use crate::protocol::schedule::Schedule;

/// A host's secrets, as read for sending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSecrets {
    /// The repository's password.
    pub password: Option<Secret>,
    /// The backend's password.
    pub credential: Option<Secret>,
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
    let text = |template: Option<&String>| Some(template.map_or(String::new(), |text| for_host(text, &host.name)));
    ConfigUpdate {
        version: 0,
        hash: String::new(),
        repo_url: text(repository.map(|repository| &repository.url)),
        repo_username: text(repository.and_then(|repository| repository.username.as_ref())),
        repo_password: Some(secrets.password.clone().unwrap_or_default()),
        repo_credential: Some(secrets.credential.clone().unwrap_or_default()),
        hook_shell: Some(fleet.settings.hook_shell.clone()),
        env: Some(repository.map(|repository| repository.env.clone()).unwrap_or_default()),
        limit_upload_kib: Some(repository.map_or(0, |repository| repository.limit_upload_kib)),
        limit_download_kib: Some(repository.map_or(0, |repository| repository.limit_download_kib)),
        retry_lock: Some(repository.map(|repository| repository.retry_lock).unwrap_or_default()),
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
    use std::collections::BTreeMap;

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
            let secrets = HostSecrets { password: Some(Secret::new(password.into())), credential: None };
            config_hash(&config_update_of(&fleet, host(&fleet), &secrets), &[key; 32])
        };
        assert_eq!(hash("one", 1), hash("one", 1));
        assert_ne!(hash("one", 1), hash("two", 1));
        assert_ne!(hash("one", 1), hash("one", 2));
    }
}
