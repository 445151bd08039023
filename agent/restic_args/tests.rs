//! Pure. What each job becomes, and that nothing a job says can become a flag.

use proptest::prelude::*;
use restic_manager::retention::RetentionPolicy;
use serde_json::{Value, json};

use super::*;

const JOB: &str = "98532442-440a-57eb-a9e9-ec3dcb8b1f9c";

struct Fixture {
    host: HostName,
    schedule: ScheduleId,
}

impl Fixture {
    fn new() -> Self {
        Self { host: "web-1".parse().expect("a host"), schedule: "system".parse().expect("a schedule") }
    }

    fn context(&self) -> ArgumentContext<'_> {
        ArgumentContext {
            host: &self.host,
            job_id: JOB.parse().expect("a job id"),
            schedule_id: Some(&self.schedule),
            restic_version: ResticVersion::new(0, 18, 0),
            limit_upload_kib: 0,
            limit_download_kib: 0,
            retry_lock: None,
            restore_target: Some("/restore/new"),
        }
    }
}

fn spec(kind: &str, options: Value) -> JobSpec {
    JobSpec::parse(kind, Some(options)).expect("options of the kind")
}

fn argv(kind: &str, options: Value) -> Result<String, Refusal> {
    let fixture = Fixture::new();
    arguments(&spec(kind, options), &fixture.context()).map(|list| list.join(" "))
}

#[test]
fn every_kind_of_job_has_its_arguments() {
    let own = format!("--host=web-1 --tag=schedule:system --tag=job:{JOB}");
    let scope = "--host=web-1 --tag=schedule:system --group-by=host";
    let rows = [
        ("backup", json!({"paths": ["/etc", "C:\\data"]}), format!("backup --json {own} -- /etc C:\\data")),
        (
            "backup",
            json!({"paths": ["/"], "tags": ["linux", "-x"], "excludes": ["-e", "*.tmp"], "iexcludes": ["*.BAK"],
                   "exclude_if_present": [".nobackup"], "exclude_larger_than": "2G", "exclude_caches": true,
                   "one_file_system": true, "dry_run": true}),
            format!(
                "backup --json {own} --tag=linux --tag=-x --exclude=-e --exclude=*.tmp --iexclude=*.BAK \
                 --exclude-if-present=.nobackup --exclude-larger-than=2G --exclude-caches --one-file-system --dry-run -- /"
            ),
        ),
        ("init", json!({}), "init --json".to_owned()),
        (
            "forget",
            json!({"schedule": "system", "retention_policy": {"keep_daily": 7, "keep_within": "14d", "keep_tags": ["a"]}}),
            format!("forget --json {scope} --keep-daily=7 --keep-within=14d --keep-tag=a"),
        ),
        (
            "forget",
            json!({"schedule": "system", "retention_policy": {"keep_last": 1}, "dry_run": true}),
            format!("forget --json {scope} --keep-last=1 --dry-run"),
        ),
        ("prune", json!({}), "prune --json".to_owned()),
        ("prune", json!({"max_unused": "10%", "dry_run": true}), "prune --json --max-unused=10% --dry-run".to_owned()),
        ("check", json!({}), "check --json".to_owned()),
        ("check", json!({"read_data": true}), "check --json --read-data".to_owned()),
        ("check", json!({"read_data_subset": "1/12"}), "check --json --read-data-subset=1/12".to_owned()),
        ("unlock", json!({}), "unlock".to_owned()),
        ("unlock", json!({"remove_all": true}), "unlock --remove-all".to_owned()),
        (
            "forget",
            json!({"schedule": "system", "retention_policy": {"keep_last": 1}, "repository": "main", "hosts": ["a", "b"]}),
            "forget --json --host=a --host=b --tag=schedule:system --group-by=host --keep-last=1".to_owned(),
        ),
        (
            "restore",
            json!({"snapshot": "latest", "include": ["/etc/fstab", "-x"]}),
            "restore --json --target=/restore/new --include=/etc/fstab --include=-x --host=web-1 -- latest".to_owned(),
        ),
        (
            "restore",
            json!({"snapshot": "deadbeef", "exclude": ["*.tmp"]}),
            "restore --json --target=/restore/new --exclude=*.tmp -- deadbeef".to_owned(),
        ),
    ];
    for (kind, options, expected) in rows {
        assert_eq!(argv(kind, options), Ok(expected));
    }
}

#[test]
fn jobs_that_are_wrong_or_dangerous_are_refused() {
    for (kind, options, says) in [
        ("backup", json!({"paths": []}), "needs paths"),
        ("backup", json!({"paths": ["etc"]}), "not absolute"),
        ("backup", json!({"paths": ["-etc"]}), "not absolute"),
        ("backup", json!({"paths": ["/a\u{0}b"]}), "NUL"),
        ("backup", json!({"paths": ["/a/../b"]}), ".."),
        ("backup", json!({"paths": ["/"], "excludes": [""]}), "empty"),
        ("backup", json!({"paths": ["/"], "excludes": ["a\u{0}"]}), "NUL"),
        ("backup", json!({"paths": ["/"], "tags": ["a,b"]}), "comma"),
        ("backup", json!({"paths": ["/"], "tags": ["schedule:other"]}), "own"),
        ("backup", json!({"paths": ["/"], "exclude_larger_than": "big"}), "size"),
        ("forget", json!({"retention_policy": {"keep_last": 1}}), "schedule"),
        ("forget", json!({"schedule": "system"}), "empty"),
        (
            "forget",
            json!({"schedule": "system", "retention_policy": {"keep_last": 1}, "hosts": ["other"]}),
            "only in a repository that this host maintains",
        ),
        ("forget", json!({"schedule": "system", "retention_policy": {"keep_last": 0}}), "empty"),
        ("forget", json!({"schedule": "system", "retention_policy": {"keep_within": "1w"}}), "span"),
        ("forget", json!({"schedule": "system", "retention_policy": {"keep_tags": ["a,b"]}}), "comma"),
        ("prune", json!({"max_unused": "100%"}), "max_unused"),
        ("check", json!({"read_data_subset": "rolling/12"}), "read_data_subset"),
        ("check", json!({"read_data": true, "read_data_subset": "1/2"}), "exclude each other"),
        ("restore", json!({"snapshot": "--target=/"}), "no snapshot"),
        ("restore", json!({"snapshot": ""}), "no snapshot"),
        ("restore", json!({"snapshot": "latest", "include": ["/a"], "exclude": ["/b"]}), "not both"),
    ] {
        let refusal = argv(kind, options.clone()).expect_err(&options.to_string()).to_string();
        assert!(refusal.contains(says), "{options}: {refusal}");
    }
}

#[test]
fn limits_and_waiting_for_locks_are_given_to_versions_that_know_them() {
    let fixture = Fixture::new();
    let mut context = fixture.context();
    (context.limit_upload_kib, context.limit_download_kib) = (100, 200);
    context.retry_lock = Some(Span::from_secs(600));
    let prune = spec("prune", json!({}));
    let expected = "prune --json --limit-upload=100 --limit-download=200 --retry-lock=600s";
    assert_eq!(arguments(&prune, &context).expect("arguments").join(" "), expected);
    // 0.14 would stop at "unknown flag: --retry-lock".
    context.restic_version = ResticVersion::new(0, 14, 0);
    assert!(!arguments(&prune, &context).expect("arguments").join(" ").contains("retry-lock"));
    // There is nothing to wait for.
    context.restic_version = ResticVersion::new(0, 18, 0);
    for kind in ["init", "unlock"] {
        assert!(!arguments(&spec(kind, json!({})), &context).expect("arguments").join(" ").contains("retry-lock"));
    }
}

#[test]
fn a_backup_that_no_schedule_made_has_only_its_jobs_tag() {
    let fixture = Fixture::new();
    let context = ArgumentContext { schedule_id: None, ..fixture.context() };
    let list = arguments(&spec("backup", json!({"paths": ["/etc"]})), &context).expect("arguments");
    assert_eq!(list.iter().filter(|argument| argument.starts_with("--tag=")).count(), 1);
}

#[test]
fn queries_are_scoped_to_the_host() {
    let fixture = Fixture::new();
    let context = fixture.context();
    assert_eq!(snapshots_arguments(&context).join(" "), "snapshots --json --no-lock --host=web-1");
    assert_eq!(
        job_snapshots_arguments(&context).join(" "),
        format!("snapshots --json --no-lock --host=web-1 --tag=job:{JOB}")
    );
    assert_eq!(version_arguments().join(" "), "version --json");
}

#[test]
fn a_restore_without_a_directory_is_refused() {
    let fixture = Fixture::new();
    let restore = spec("restore", json!({"snapshot": "latest"}));
    for target in [None, Some("relative"), Some("/a/../b"), Some("")] {
        let context = ArgumentContext { restore_target: target, ..fixture.context() };
        assert!(arguments(&restore, &context).is_err(), "{target:?}");
    }
}

/// Everything that may stand before `--`: the switches whole, the others up to their '='.
const SWITCHES: [&str; 7] =
    ["--json", "--dry-run", "--exclude-caches", "--one-file-system", "--read-data", "--remove-all", "--"];
const FLAGS: [&str; 13] = [
    "--host",
    "--tag",
    "--exclude",
    "--iexclude",
    "--exclude-if-present",
    "--exclude-larger-than",
    "--group-by",
    "--keep-last",
    "--keep-within",
    "--keep-tag",
    "--max-unused",
    "--read-data-subset",
    "--target",
];

fn assert_no_value_is_a_flag(list: &[String]) {
    let before = list.iter().skip(1).take_while(|argument| *argument != "--");
    for argument in before {
        let name = argument.split_once('=').map(|(name, _)| name);
        let known = name.is_some_and(|name| FLAGS.contains(&name) || name == "--include");
        assert!(known || SWITCHES.contains(&argument.as_str()), "{argument:?} in {list:?}");
    }
    assert!(list.iter().all(|argument| !argument.contains('\0')));
}

/// Strings that look like trouble, and any others.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "-{1,2}(o|option|password-command|stdin-from-command|repo|exclude-file|prune)(=.{0,8})?",
        "/.{0,8}",
        "[0-9]{1,3}[%/KMG]?[0-9]{0,2}",
        ".{0,12}",
        Just("--".to_owned()),
        Just("latest".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_backup_can_smuggle_a_flag(
        paths in prop::collection::vec(hostile(), 0..4),
        excludes in prop::collection::vec(hostile(), 0..3),
        iexcludes in prop::collection::vec(hostile(), 0..3),
        tags in prop::collection::vec(hostile(), 0..3),
        exclude_if_present in prop::collection::vec(hostile(), 0..3),
        exclude_larger_than in prop::option::of(hostile()),
    ) {
        let fixture = Fixture::new();
        let options = BackupOptions {
            paths, excludes, iexcludes, tags, exclude_if_present, exclude_larger_than, ..Default::default()
        };
        if let Ok(list) = arguments(&JobSpec::Backup(options.clone()), &fixture.context()) {
            assert_no_value_is_a_flag(&list);
            let separator = list.iter().position(|argument| argument == "--").expect("a separator");
            prop_assert_eq!(&list[separator + 1..], &options.paths[..]);
            for exclude in &options.excludes {
                let flag = format!("--exclude={exclude}");
                prop_assert!(list[..separator].contains(&flag));
            }
        }
    }

    #[test]
    fn no_other_job_can_smuggle_a_flag(text in hostile(), list in prop::collection::vec(hostile(), 0..3), which in 0..4) {
        let fixture = Fixture::new();
        let mut context = fixture.context();
        let target = text.clone();
        let spec = match which {
            0 => {
                context.restore_target = Some(&target);
                JobSpec::Restore(RestoreOptions { snapshot: "latest".into(), include: list, ..Default::default() })
            }
            1 => JobSpec::Restore(RestoreOptions { snapshot: text, exclude: list, ..Default::default() }),
            2 => JobSpec::Prune(PruneOptions { max_unused: Some(text), ..PruneOptions::default() }),
            _ => JobSpec::Forget(ForgetOptions {
                schedule: Some(fixture.schedule.clone()),
                retention_policy: RetentionPolicy { keep_within: Some(text), keep_tags: list, ..Default::default() },
                ..ForgetOptions::default()
            }),
        };
        if let Ok(list) = arguments(&spec, &context) {
            assert_no_value_is_a_flag(&list);
        }
    }

    #[test]
    fn no_check_can_smuggle_a_flag(text in hostile()) {
        let fixture = Fixture::new();
        let spec = JobSpec::Check(CheckOptions { read_data_subset: Some(text), ..CheckOptions::default() });
        if let Ok(list) = arguments(&spec, &fixture.context()) {
            assert_no_value_is_a_flag(&list);
        }
    }
}
