//! Pure. `[policy]` of agent.toml: what any server, whoever runs it, can make this host do. Checked when the settings are
//! read, so that a typing error in it is found at start and not by a refused job.
//! Does not look at the disk: where links lead, the caller tells, and mounts are not looked at.

use std::collections::BTreeSet;

use restic_manager::protocol::job_options::{JobKind, JobSpec};
use serde::Deserialize;

use crate::hook_reference::permits_hooks;
use crate::host_path::HostPath;
use crate::repository_url::{hazard, pattern_names, without_credentials};

pub(crate) mod restoring;

/// What destroys data (forget, prune) or sends it elsewhere (copy) must be listed by hand.
const DEFAULT_KINDS: [&str; 11] =
    ["backup", "check", "snapshots", "ls", "find", "diff", "stats", "restore", "verify", "init", "unlock"];

/// Where restores go unless agent.toml says otherwise.
const DEFAULT_RESTORE_ROOT: &str = if cfg!(windows) {
    "C:\\ProgramData\\restic-manager-agent\\restore"
} else {
    "/var/lib/restic-manager-agent/restore"
};

/// Which hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hooks {
    Off,
    /// Programs of the agent's own hooks directory, by name.
    #[default]
    Named,
    /// Also text for a shell.
    Inline,
}

/// `[policy]` as it is written; `Policy::try_from` checks it. Absent keys have the default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawPolicy {
    pub(crate) kinds: Vec<String>,
    pub(crate) backup_roots: Vec<String>,
    pub(crate) restore_roots: Vec<String>,
    pub(crate) repositories: Vec<String>,
    pub(crate) hooks: Hooks,
    pub(crate) restore_from: Vec<String>,
}

impl Default for RawPolicy {
    fn default() -> Self {
        Self {
            kinds: DEFAULT_KINDS.map(str::to_owned).to_vec(),
            backup_roots: vec!["/".to_owned()],
            restore_roots: vec![DEFAULT_RESTORE_ROOT.to_owned()],
            repositories: vec!["*".to_owned()],
            hooks: Hooks::Named,
            restore_from: Vec::new(),
        }
    }
}

/// What this host may be told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    kinds: BTreeSet<String>,
    /// As written, and parsed.
    backup_roots: Vec<(String, HostPath)>,
    restore_roots: Vec<(String, HostPath)>,
    /// `*` stands for any run of characters.
    repositories: Vec<String>,
    hooks: Hooks,
    /// Other hosts, with `*`, whose snapshots may be read and restored here.
    restore_from: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        match Self::try_from(RawPolicy::default()) {
            Ok(policy) => policy,
            // The defaults are checked by a test; should they ever be wrong, nothing is permitted.
            Err(_) => Self {
                kinds: BTreeSet::new(),
                backup_roots: Vec::new(),
                restore_roots: Vec::new(),
                repositories: Vec::new(),
                hooks: Hooks::Off,
                restore_from: Vec::new(),
            },
        }
    }
}

impl TryFrom<RawPolicy> for Policy {
    /// One sentence per problem, all of them.
    type Error = Vec<String>;

    fn try_from(raw: RawPolicy) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        for kind in raw.kinds.iter().filter(|kind| JobKind::ALL.iter().all(|known| known.as_str() != *kind)) {
            problems.push(format!(
                "[policy] kinds: {kind:?} is not a kind of job; there are {}",
                JobKind::ALL.map(JobKind::as_str).join(", ")
            ));
        }
        let mut roots = |key: &str, texts: Vec<String>| {
            let mut paths = Vec::new();
            for text in texts {
                match HostPath::parse(&text) {
                    Ok(path) => paths.push((text, path)),
                    Err(error) => problems.push(format!("[policy] {key}: {text:?} {error}")),
                }
            }
            paths
        };
        let backup_roots = roots("backup_roots", raw.backup_roots);
        let restore_roots = roots("restore_roots", raw.restore_roots);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            kinds: raw.kinds.into_iter().collect(),
            backup_roots,
            restore_roots,
            repositories: raw.repositories,
            hooks: raw.hooks,
            restore_from: raw.restore_from,
        })
    }
}

impl Policy {
    /// Whether the job may run with this repository. The refusal names the line of agent.toml that forbids it.
    pub(crate) fn permits(&self, spec: &JobSpec, repository_url: &str) -> Result<(), String> {
        self.permits_kind(spec.kind().as_str())?;
        self.permits_repository(repository_url)?;
        match spec {
            JobSpec::Backup(options) => {
                for path in &options.paths {
                    let within = |path: &HostPath| self.backup_roots.iter().any(|(_, root)| path.is_within(root));
                    permits_path(path, within, "backup_roots", "backed up")?;
                }
                permits_hooks(self.hooks, options)
            }
            // Where its files were backed up from is known once restic has said it: `permits_in_place`.
            JobSpec::Restore(options) if options.in_place => Ok(()),
            JobSpec::Restore(options) => match &options.target {
                Some(target) => {
                    let within = |path: &HostPath| self.restore_roots.iter().any(|(_, root)| path.is_within(root));
                    permits_path(target, within, "restore_roots", "restored to")
                }
                None if self.restore_roots.is_empty() => {
                    Err("there is nowhere to restore to: restore_roots in [policy] of agent.toml is empty".to_owned())
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The same by where the job's paths lead: `real` follows the links that are on the disk, or says why it cannot.
    pub(crate) fn permits_real(
        &self,
        spec: &JobSpec,
        real: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let (paths, roots, key) = match spec {
            JobSpec::Backup(options) => (&options.paths[..], &self.backup_roots, "backup_roots"),
            JobSpec::Restore(options) => (options.target.as_slice(), &self.restore_roots, "restore_roots"),
            _ => return Ok(()),
        };
        for path in paths {
            let leads = real(path)?;
            let within = |root: &str| {
                let root = real(root).ok().and_then(|root| HostPath::parse(&root).ok());
                HostPath::parse(&leads).ok().zip(root).is_some_and(|(path, root)| path.is_within(&root))
            };
            if !roots.iter().any(|(root, _)| within(root)) {
                return Err(format!(
                    "{path:?} leads to {leads:?}, which is not within {key} in [policy] of agent.toml"
                ));
            }
        }
        Ok(())
    }

    /// Whether a kind of job, or a query such as `snapshots`, may run at all.
    pub(crate) fn permits_kind(&self, kind: &str) -> Result<(), String> {
        if self.kinds.contains(kind) {
            return Ok(());
        }
        Err(format!("{kind} is not permitted on this host: add {kind:?} to kinds in [policy] of agent.toml"))
    }

    /// Whether restic may be pointed at this repository.
    pub(crate) fn permits_repository(&self, url: &str) -> Result<(), String> {
        if let Some(hazard) = hazard(url) {
            return Err(hazard);
        }
        if self.repositories.iter().any(|pattern| pattern_names(pattern, url)) {
            return Ok(());
        }
        let url = without_credentials(url);
        Err(format!(
            "the repository {url:?} is not permitted on this host: add a pattern for it to repositories in [policy] of agent.toml"
        ))
    }

    /// The directory below which a restore without a target makes its own.
    pub(crate) fn first_restore_root(&self) -> Option<&str> {
        self.restore_roots.first().map(|(text, _)| text.as_str())
    }

    #[cfg(test)]
    pub(crate) fn hooks(&self) -> Hooks {
        self.hooks
    }
}

fn permits_path(text: &str, within: impl Fn(&HostPath) -> bool, key: &str, done: &str) -> Result<(), String> {
    let path = HostPath::parse(text).map_err(|error| format!("the path {text:?} {error}"))?;
    if within(&path) {
        return Ok(());
    }
    Err(format!(
        "{text:?} may not be {done} on this host: add a folder above it to {key} in [policy] of agent.toml, and restart the agent"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use restic_manager::protocol::job_options::{BackupOptions, RestoreOptions};

    const REPOSITORY: &str = "rest:https://web-1:pw@backup.example.org/web-1/";

    fn spec(kind: &str) -> JobSpec {
        JobSpec::parse(kind, None).expect("a kind")
    }

    fn backup(path: &str) -> JobSpec {
        JobSpec::Backup(BackupOptions { paths: vec![path.into()], ..Default::default() })
    }

    fn restore(target: Option<&str>) -> JobSpec {
        JobSpec::Restore(RestoreOptions {
            snapshot: "latest".into(),
            target: target.map(Into::into),
            ..Default::default()
        })
    }

    fn policy(toml: &str) -> Policy {
        let raw: RawPolicy = toml::from_str(toml).expect("toml");
        Policy::try_from(raw).expect("a good policy")
    }

    #[test]
    fn the_default_permits_what_destroys_nothing() {
        let policy = Policy::default();
        for (kind, permitted) in [
            ("backup", true),
            ("init", true),
            ("check", true),
            ("unlock", true),
            ("restore", true),
            ("forget", false),
            ("prune", false),
        ] {
            assert_eq!(policy.permits(&spec(kind), REPOSITORY).is_ok(), permitted, "{kind}");
        }
        assert!(policy.permits_kind("snapshots").is_ok() && policy.permits_kind("copy").is_err());
        assert_eq!(policy.hooks(), Hooks::Named);
        assert!(policy.first_restore_root().is_some());
        assert!(policy.permits(&backup("/any/where"), REPOSITORY).is_ok());
        assert!(policy.permits(&backup("C:\\any"), REPOSITORY).is_ok());
    }

    #[test]
    fn a_refusal_names_the_line_to_change_and_no_password() {
        let policy = policy(
            "kinds = [\"backup\", \"restore\"]\nbackup_roots = [\"/home\"]\nrestore_roots = [\"/restore\"]\n\
             repositories = [\"rest:https://other.example.org/*\", \"/srv/*\"]",
        );
        for (spec, url, key) in [
            (spec("prune"), "/srv/repo", "kinds"),
            (backup("/home/alice"), REPOSITORY, "repositories"),
            (backup("/homestead"), "/srv/repo", "backup_roots"),
            (restore(Some("/etc")), "/srv/repo", "restore_roots"),
        ] {
            let refusal = policy.permits(&spec, url).expect_err(key);
            assert!(refusal.contains(key) && refusal.contains("agent.toml"), "{refusal}");
            assert!(!refusal.contains("pw@"), "{refusal}");
        }
        assert!(policy.permits(&backup("/home/alice"), "/srv/repo").is_ok());
        assert!(policy.permits(&restore(Some("/restore/new")), "/srv/repo").is_ok());
        assert!(policy.permits(&restore(None), "/srv/repo").is_ok());
    }

    #[test]
    fn a_restore_without_a_target_needs_a_restore_root() {
        let refusal = policy("restore_roots = []").permits(&restore(None), "/srv/repo").expect_err("nowhere to go");
        assert!(refusal.contains("restore_roots"), "{refusal}");
    }

    #[test]
    fn every_problem_of_a_policy_is_told() {
        let raw = RawPolicy {
            kinds: vec!["bakcup".into()],
            backup_roots: vec!["home".into()],
            restore_roots: vec!["/a/../b".into()],
            ..RawPolicy::default()
        };
        let problems = Policy::try_from(raw).expect_err("three problems");
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(toml::from_str::<RawPolicy>("hook = \"off\"").is_err());
        assert!(toml::from_str::<RawPolicy>("hooks = \"some\"").is_err());
    }

    #[test]
    fn a_path_whose_links_lead_out_of_the_roots_is_refused() {
        let policy = policy("backup_roots = [\"/home\"]\nrestore_roots = [\"/restore\"]");
        // /home is itself a link, and in it and in /restore there is one to /etc.
        let real = |path: &str| -> Result<String, String> {
            if path.contains("broken") {
                return Err("a broken link".to_owned());
            }
            Ok(path.replace("/home", "/data/home").replace("/data/home/link", "/etc").replace("/restore/link", "/etc"))
        };
        let permits = |spec: &JobSpec| policy.permits(spec, "/srv/repo").and_then(|()| policy.permits_real(spec, real));
        assert_eq!(permits(&backup("/home/alice")), Ok(()));
        assert_eq!(permits(&restore(Some("/restore/new"))), Ok(()));
        assert_eq!(permits(&restore(None)), Ok(()));
        for spec in [backup("/home/link/shadow"), restore(Some("/restore/link/new")), backup("/home/broken/x")] {
            assert!(permits(&spec).is_err(), "{spec:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_outside_the_roots_is_ever_permitted(text in "(/|[a-c.~]|\\.\\./|/home|/restore|\\\\|C:){0,12}") {
            let policy = policy("backup_roots = [\"/home\"]\nrestore_roots = [\"/restore\"]");
            let inside = |root: &str| {
                let plain = std::path::Path::new(&text);
                plain.starts_with(root) && !plain.components().any(|part| part == std::path::Component::ParentDir)
            };
            if policy.permits(&backup(&text), "/srv/repo").is_ok() {
                prop_assert!(inside("/home"));
            }
            if policy.permits(&restore(Some(&text)), "/srv/repo").is_ok() {
                prop_assert!(inside("/restore"));
            }
        }
    }
}
