//! Every message as it is on the wire, literally: the samples are what an agent written by somebody else, or one of last
//! year, sends and expects. A renamed, dropped or retyped field fails here.

mod openapi;
#[path = "../e2e/schema.rs"]
mod schema;

use std::fmt::Debug;
use std::path::Path;

use chrono::{DateTime, Utc};
use restic_manager::id::JobId;
use restic_manager::protocol::agent_event::*;
use restic_manager::protocol::command::*;
use restic_manager::protocol::job_options::*;
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::protocol::schedule::Schedule;
use restic_manager::protocol::text::Span;
use restic_manager::protocol::{Acknowledged, Envelope, PollAnswer, PollMessage, ProblemBody};
use restic_manager::retention::RetentionPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// protocol.md's table: the fields that each message has by these names. `x[].y` is y of every entry of the list x.
const FIELDS: &[(&str, &str)] = &[
    (
        "hello",
        "protocol_version agent_version restic_version hostname os arch boot_time instance_id machine_fingerprint stream \
         running_jobs ended_jobs",
    ),
    ("heartbeat", "sent_at"),
    ("config.update", "version hash repo_url repo_username repo_password repo_credential hook_shell"),
    (
        "schedule.set",
        "version hash schedules schedules[].id schedules[].kind schedules[].cron_expr schedules[].timezone \
         schedules[].splay schedules[].paths schedules[].excludes schedules[].tags schedules[].retention_policy \
         schedules[].options schedules[].pre_hook schedules[].post_hook schedules[].enabled",
    ),
    ("schedule.ack", "version applied_at"),
    ("schedule.fire", "schedule_id scheduled_at fired_at job_id"),
    ("fire.result", "schedule_id scheduled_at job_id outcome waiting_for reason"),
    ("command.run", "job_id kind options issued_at expires_at"),
    ("command.cancel", "job_id"),
    ("command.result", "job_id accepted error"),
    ("job.started", "job_id kind started_at"),
    ("job.progress", "job_id percent_done files_done total_files bytes_done total_bytes eta_seconds throughput_bps"),
    (
        "job.finished",
        "job_id status exit_code finished_at incomplete warnings last_log_seq stats error kind \
         schedule_id scheduled_at",
    ),
    ("log.stream", "job_id seq ts stream payload"),
    (
        "snapshots.report",
        "report_id page pages snapshots snapshots[].id snapshots[].short_id snapshots[].time snapshots[].hostname \
         snapshots[].paths snapshots[].tags snapshots[].size_bytes snapshots[].file_count",
    ),
    ("repo.stats", "size_bytes snapshot_count dedup_ratio last_check_at last_check_status lock_state"),
    ("agent.update.available", "latest_version package_url changelog"),
];

fn sample(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/samples").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| unreachable!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect(name)
}

fn payload(name: &str) -> Value {
    sample(name)["payload"].clone()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn id<T: std::str::FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("an id or name")
}

fn job() -> JobId {
    id("98532442-440a-57eb-a9e9-ec3dcb8b1f9c")
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Puts a field that nobody knows into an object and the objects in its lists, as a later version might.
fn with_unknown_fields(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        for list in map.values_mut().filter_map(Value::as_array_mut) {
            for entry in list.iter_mut().filter(|entry| entry.is_object()) {
                *entry = with_unknown_fields(entry);
            }
        }
        map.insert("from_a_later_version".to_owned(), json!({"x": [1]}));
    }
    value
}

/// A value of a sample means `expected`, is written as the sample, and may have fields that we do not know.
fn check_value<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, sample: &Value, expected: &T) {
    let parsed: T = serde_json::from_value(sample.clone()).expect(name);
    assert_eq!(parsed, *expected, "{name} is understood otherwise");
    assert_eq!(serde_json::to_value(expected).expect("JSON"), *sample, "{name} is written otherwise");
    let future: T = serde_json::from_value(with_unknown_fields(sample)).expect(name);
    assert_eq!(future, *expected, "{name} with unknown fields is understood otherwise");
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: &str, expected: &T) {
    check_value(kind, &payload(kind), expected);
}

/// The same for what an agent's event stream holds, by way of the envelope.
fn check_event(kind: &str, expected: &AgentEvent) {
    let sample = sample(kind);
    check_value(kind, &json!({"type": kind, "payload": sample["payload"]}), expected);
    assert_eq!(expected.type_name(), kind);
    let envelope: Envelope = serde_json::from_value(sample).expect(kind);
    assert_eq!(AgentEvent::from_envelope(&envelope).expect(kind).as_ref(), Some(expected));
}

fn settings() -> ConfigUpdate {
    ConfigUpdate {
        version: 7,
        hash: "c7".to_owned(),
        repo_url: Some("rest:https://backup.example.org/web-1/".to_owned()),
        repo_username: Some("web-1".to_owned()),
        repo_password: Some(Secret::new("CANARY-password".to_owned())),
        repo_credential: Some(Secret::new("CANARY-credential".to_owned())),
        hook_shell: Some("/bin/sh -c".to_owned()),
        env: Some([("AWS_DEFAULT_REGION".to_owned(), "eu-central-1".to_owned())].into()),
        limit_upload_kib: Some(2048),
        limit_download_kib: Some(0),
        retry_lock: Some(Span::from_secs(300)),
        repo_password_secret: Some("restic".to_owned()),
        repo_credential_secret: Some("rest".to_owned()),
        maintained: Some([(id("main"), maintained()), (id("apart/web-1"), RepositoryAccess::default())].into()),
        copy_targets: Some(
            [(id("offsite/web-1"), RepositoryAccess { url: "/mnt/offsite".to_owned(), ..RepositoryAccess::default() })]
                .into(),
        ),
    }
}

fn maintained() -> RepositoryAccess {
    RepositoryAccess {
        url: "rest:https://backup.example.org/all/".to_owned(),
        username: "admin".to_owned(),
        password: Secret::new("CANARY-admin-password".to_owned()),
        password_secret: "restic".to_owned(),
        credential: Secret::new("CANARY-admin-credential".to_owned()),
        credential_secret: "rest".to_owned(),
        env: [("AWS_DEFAULT_REGION".to_owned(), "eu-central-1".to_owned())].into(),
        limit_upload_kib: 1,
        limit_download_kib: 2,
        retry_lock: Span::from_secs(600),
    }
}

#[test]
fn hello_and_heartbeat() {
    assert_eq!((Hello::TYPE, Heartbeat::TYPE), ("hello", "heartbeat"));
    let hello = Hello {
        protocol_version: 1,
        agent_version: "0.1.0".to_owned(),
        restic_version: Some("0.18.0".to_owned()),
        hostname: "web-1.example.org".to_owned(),
        os: Os::Linux,
        arch: Arch::Amd64,
        boot_time: Some(at("2026-11-23T02:00:00Z")),
        instance_id: id("11111111-1111-4111-8111-111111111111"),
        machine_fingerprint: Some("c0ffee".to_owned()),
        stream: id("22222222-2222-4222-8222-222222222222"),
        timezone: Some("Europe/Berlin".to_owned()),
        running_jobs: vec![job()],
        ended_jobs: vec![id("aaaaaaaa-440a-57eb-a9e9-ec3dcb8b1f9c")],
    };
    check("hello", &hello);
    check("heartbeat", &Heartbeat { sent_at: at("2026-11-23T02:15:00Z") });
}

#[test]
fn config_update() {
    assert_eq!(ConfigUpdate::TYPE, "config.update");
    check("config.update", &settings());
}

#[test]
fn schedule_set() {
    assert_eq!(ScheduleSet::TYPE, "schedule.set");
    let schedule = Schedule {
        id: id("system"),
        kind: JobKind::Backup,
        cron_expr: "15 2 * * 1".to_owned(),
        timezone: Some("Europe/Berlin".to_owned()),
        splay: Span::from_secs(1800),
        paths: words(["/etc", "/srv"]),
        excludes: words(["*.tmp"]),
        tags: words(["daily"]),
        retention_policy: RetentionPolicy {
            keep_last: 1,
            keep_hourly: 2,
            keep_daily: 7,
            keep_weekly: 4,
            keep_monthly: 12,
            keep_yearly: 3,
            keep_within: Some("1y6m".to_owned()),
            keep_tags: words(["keep"]),
            ..RetentionPolicy::default()
        },
        options: ScheduleOptions {
            iexcludes: words(["*.BAK"]),
            one_file_system: true,
            exclude_caches: true,
            exclude_if_present: words([".nobackup"]),
            exclude_larger_than: Some("2G".to_owned()),
            use_fs_snapshot: FsSnapshot::Try,
            exclude_cloud_files: true,
            incomplete: IncompleteMeans::Fail,
            retries: 2,
            catch_up: false,
            hook_timeout: Some(Span::from_secs(600)),
            ..ScheduleOptions::default()
        },
        pre_hook: Some("dump-db".to_owned()),
        post_hook: Some("clean-up".to_owned()),
        enabled: true,
    };
    check("schedule.set", &ScheduleSet { version: 3, hash: "s3".to_owned(), schedules: vec![schedule] });
}

#[test]
fn fires_and_acks() {
    let (scheduled_at, fired_at) = (at("2026-11-23T02:15:00Z"), at("2026-11-23T02:27:12Z"));
    check_event("schedule.ack", &AgentEvent::ScheduleAck(ScheduleAck { version: 3, applied_at: scheduled_at }));
    let fire = ScheduleFire { schedule_id: id("system"), scheduled_at, fired_at, job_id: job() };
    check_event("schedule.fire", &AgentEvent::ScheduleFire(fire));
    assert_eq!(FireResult::TYPE, "fire.result");
    let result = FireResult {
        schedule_id: id("system"),
        scheduled_at,
        job_id: job(),
        outcome: FireOutcome::Waiting,
        waiting_for: Some("a prune of repository main".to_owned()),
        reason: Some("one exclusive job at a time".to_owned()),
    };
    check("fire.result", &result);
}

#[test]
fn commands_about_restorability() {
    let schedule = Some(id("system"));
    let verify =
        VerifyOptions { schedule: schedule.clone(), sample_files: Some(50), sample_bytes: Some(1 << 30), retries: 2 };
    let copy = CopyOptions { to: Some(id("offsite")), schedule };
    for (sample, expected) in
        [("command.run-verify", JobSpec::Verify(verify)), ("command.run-copy", JobSpec::Copy(copy))]
    {
        let command: CommandRun = serde_json::from_value(payload(sample)).expect("a command");
        let spec = JobSpec::parse(&command.kind, command.options.clone()).expect("a job");
        assert_eq!(spec, expected);
        check(sample, &CommandRun { options: Some(spec.options_json()), ..command });
    }
}

#[test]
fn commands() {
    assert_eq!((CommandRun::TYPE, CommandCancel::TYPE), ("command.run", "command.cancel"));
    let run = CommandRun {
        job_id: job(),
        kind: "backup".to_owned(),
        options: Some(json!({"paths": ["/etc", "/srv"], "excludes": ["*.tmp"]})),
        schedule_id: Some(id("system")),
        scheduled_at: Some(at("2026-11-23T02:15:00Z")),
        issued_at: at("2026-11-23T02:27:13Z"),
        expires_at: at("2026-11-24T02:27:13Z"),
    };
    check("command.run", &run);
    let forget: CommandRun = serde_json::from_value(payload("command.run-forget")).expect("a command");
    let spec = JobSpec::parse(&forget.kind, forget.options.clone()).expect("a forget");
    let expected = ForgetOptions {
        schedule: Some(id("system")),
        retention_policy: RetentionPolicy { keep_daily: 7, ..RetentionPolicy::default() },
        dry_run: false,
        repository: Some(id("main")),
        hosts: vec![id("db-1"), id("web-1")],
    };
    assert_eq!(spec, JobSpec::Forget(expected));
    check("command.run-forget", &CommandRun { options: Some(spec.options_json()), ..forget });
    let spec = JobSpec::parse(&run.kind, run.options).expect("a backup");
    assert_eq!(
        spec,
        JobSpec::Backup(BackupOptions {
            paths: words(["/etc", "/srv"]),
            excludes: words(["*.tmp"]),
            ..BackupOptions::default()
        })
    );
    check("command.cancel", &CommandCancel { job_id: job() });
    let error = Some("the agent's policy does not allow prune".to_owned());
    let result = CommandResult { job_id: job(), accepted: false, error };
    check_event("command.result", &AgentEvent::CommandResult(result));
}

#[test]
fn jobs() {
    let started = JobStarted {
        job_id: job(),
        kind: JobKind::Backup,
        started_at: at("2026-11-23T02:27:14Z"),
        schedule_id: Some(id("system")),
        scheduled_at: Some(at("2026-11-23T02:15:00Z")),
        offline: true,
    };
    check_event("job.started", &AgentEvent::JobStarted(started));
    assert_eq!((JobProgress::TYPE, LogStream::TYPE), ("job.progress", "log.stream"));
    let progress = JobProgress {
        job_id: job(),
        percent_done: Some(0.25),
        files_done: Some(5),
        total_files: Some(20),
        bytes_done: Some(1024),
        total_bytes: Some(4096),
        eta_seconds: Some(30),
        throughput_bps: Some(100),
    };
    check("job.progress", &progress);
    let stats = json!({"files_new": 3, "data_added": 1000, "total_duration": 2.5, "snapshot_id": "4bba301e"});
    let finished = JobFinished {
        job_id: job(),
        status: JobOutcome::Succeeded,
        exit_code: Some(3),
        finished_at: at("2026-11-23T02:30:00Z"),
        incomplete: true,
        warnings: words(["/srv/x: permission denied"]),
        last_log_seq: 17,
        stats: stats.as_object().cloned(),
        error: Some("some files could not be read".to_owned()),
        kind: Some(JobKind::Backup),
        schedule_id: Some("system".parse().expect("an id")),
        scheduled_at: Some(at("2026-11-23T02:15:00Z")),
    };
    check_event("job.finished", &AgentEvent::JobFinished(finished));
    let line = LogStream {
        job_id: job(),
        seq: 42,
        ts: at("2026-11-23T02:28:00Z"),
        stream: LogSource::Stderr,
        payload: "unable to open \"/srv/x\"\n".to_owned(),
    };
    check("log.stream", &line);
}

#[test]
fn reports() {
    let snapshot = Snapshot {
        id: format!("4bba301e{}", "0".repeat(56)),
        short_id: "4bba301e".to_owned(),
        time: at("2026-11-23T02:27:14Z"),
        hostname: "web-1".to_owned(),
        paths: words(["/etc", "/srv"]),
        tags: vec!["schedule:system".to_owned(), format!("job:{}", job())],
        size_bytes: Some(4096),
        file_count: Some(20),
    };
    let report_id = id("33333333-3333-4333-8333-333333333333");
    let report = SnapshotsReport { report_id, page: 1, pages: 2, snapshots: vec![snapshot] };
    check_event("snapshots.report", &AgentEvent::SnapshotsReport(report));
    let stats = RepoStats {
        size_bytes: 4096,
        snapshot_count: 12,
        dedup_ratio: Some(2.5),
        last_check_at: Some(at("2026-11-23T02:00:00Z")),
        last_check_status: Some("succeeded".to_owned()),
        lock_state: LockState::Unlocked,
    };
    check_event("repo.stats", &AgentEvent::RepoStats(stats));
}

#[test]
fn the_answer_to_hello_and_its_update_notice() {
    assert_eq!(AgentUpdateAvailable::TYPE, "agent.update.available");
    let update = AgentUpdateAvailable {
        latest_version: "0.2.0".to_owned(),
        package_url: "https://packages.example.org/agent.deb".to_owned(),
        changelog: Some("faster".to_owned()),
    };
    check("agent.update.available", &update);
    let answer = HelloAnswer {
        server_time: at("2026-11-23T02:15:01Z"),
        protocol_version: 1,
        host: id("web-1"),
        epoch: id("0190b5a2-7c1e-4c3a-9f00-0123456789ab"),
        acked: [(id("22222222-2222-4222-8222-222222222222"), 41)].into(),
        poll_wait: 30,
        agent_update: Some(update),
    };
    check_value("hello-answer", &sample("hello-answer"), &answer);
}

/// Types that keep a payload's bytes have no equality: what they are written as is compared, with and without unknown fields.
fn check_written<T: Serialize + DeserializeOwned>(name: &str, sample: &Value) -> T {
    for text in [sample.clone(), with_unknown_fields(sample)] {
        let parsed: T = serde_json::from_str(&text.to_string()).expect(name);
        assert_eq!(serde_json::to_value(&parsed).expect("JSON"), *sample, "{name}");
    }
    serde_json::from_value(sample.clone()).expect(name)
}

#[test]
fn envelopes_carry_every_message_with_its_bytes() {
    for (kind, _) in FIELDS {
        let sample = sample(kind);
        let message: PollMessage = serde_json::from_str(&sample.to_string()).expect(kind);
        assert_eq!(message.kind, *kind);
        assert_eq!(serde_json::to_value(&message).expect("JSON"), sample);
        if message.seq.is_some() {
            let envelope: Envelope = serde_json::from_str(&sample.to_string()).expect(kind);
            assert_eq!((envelope.seq, envelope.ts), (42, at("2026-11-23T02:15:00Z")), "{kind}");
            assert_eq!(serde_json::to_value(&envelope).expect("JSON"), sample);
        }
    }
    let spaced = r#"{"seq":1,"ts":"2026-11-23T02:15:00Z","type":"x","payload":{"b": 1,  "a":1.50}}"#;
    let envelope: Envelope = serde_json::from_str(spaced).expect("an envelope");
    assert_eq!(envelope.payload.get(), r#"{"b": 1,  "a":1.50}"#);
    assert!(AgentEvent::from_envelope(&envelope).expect("kept").is_none(), "an unknown type is no error");
    for missing in ["seq", "ts", "type", "payload"] {
        let mut value: Value = serde_json::from_str(spaced).expect("JSON");
        value.as_object_mut().expect("an object").remove(missing);
        assert!(serde_json::from_str::<Envelope>(&value.to_string()).is_err(), "without {missing}");
    }
}

/// `check_written` for what must be read from text, not from a `Value`, because it keeps raw payloads.
fn answer_of(name: &str) -> PollAnswer {
    let sample = sample(name);
    let mut future = sample.clone();
    future["from_a_later_version"] = json!(1);
    for text in [&sample, &future] {
        let parsed: PollAnswer = serde_json::from_str(&text.to_string()).expect(name);
        assert_eq!(serde_json::to_value(&parsed).expect("JSON"), sample, "{name}");
    }
    serde_json::from_str(&sample.to_string()).expect(name)
}

#[test]
fn poll_answers() {
    let answer = answer_of("poll-answer");
    assert_eq!(answer.epoch, id("0190b5a2-7c1e-4c3a-9f00-0123456789ab"));
    assert_eq!(answer.cursor, "0190b5a2-7c1e-4c3a-9f00-0123456789ab.42.deadbeef");
    assert_eq!((answer.server_time, answer.reset, answer.superseded), (at("2026-11-23T02:15:01Z"), true, false));
    assert_eq!(answer.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [None, Some(42)]);
    let empty = answer_of("poll-answer-empty");
    assert_eq!((empty.reset, empty.superseded, empty.messages.len()), (false, false, 0));
    let superseded = answer_of("poll-answer-superseded");
    assert_eq!((superseded.reset, superseded.superseded), (false, true));
}

#[test]
fn acknowledgements_and_problems() {
    let events: Acknowledged = check_written("acknowledged", &sample("acknowledged"));
    assert_eq!((events.acked, events.interval_ms), (42, None));
    let log: Acknowledged = check_written("acknowledged-log", &sample("acknowledged-log"));
    assert_eq!((log.acked, log.interval_ms), (42, Some(2000)));
    let problem: ProblemBody = check_written("problem", &sample("problem"));
    assert_eq!((problem.status, problem.code.as_str(), problem.expected), (409, "event-gap", Some(5)));
    assert_eq!((problem.errors[0].line, problem.errors[0].column), (3, Some(7)));
    let least: ProblemBody = check_written("problem-least", &sample("problem-least"));
    assert_eq!((least.errors.len(), least.retry_after_ms, least.expected), (0, None, None));
}

#[test]
fn each_sample_has_every_field_that_the_protocol_names() {
    for (kind, fields) in FIELDS {
        let payload = payload(kind);
        for field in fields.split_whitespace() {
            let present = match field.split_once("[].") {
                None => payload.get(field).is_some(),
                Some((list, field)) => payload[list]
                    .as_array()
                    .is_some_and(|list| !list.is_empty() && list.iter().all(|entry| entry.get(field).is_some())),
            };
            assert!(present, "the sample of {kind} has no {field}");
        }
    }
}

#[test]
fn the_words_of_enumerations_are_the_protocols() {
    fn check<T: Serialize>(values: &[T], expected: &str) {
        let words: Vec<Value> = values.iter().map(|v| serde_json::to_value(v).expect("JSON")).collect();
        let words: Vec<&str> = words.iter().map(|word| word.as_str().expect("text")).collect();
        assert_eq!(words.join(" "), expected);
    }
    use restic_manager::job::{ActorKind, JobStatus};
    check(&[Os::Linux, Os::Windows], "linux windows");
    check(&[Arch::Amd64, Arch::Arm64], "amd64 arm64");
    check(&[JobOutcome::Succeeded, JobOutcome::Failed, JobOutcome::Cancelled], "succeeded failed cancelled");
    check(&[LogSource::Stdout, LogSource::Stderr, LogSource::Event], "stdout stderr event");
    check(&[LockState::Locked, LockState::Unlocked], "locked unlocked");
    check(
        &[FireOutcome::Queued, FireOutcome::Waiting, FireOutcome::Skipped, FireOutcome::Refused],
        "queued waiting skipped refused",
    );
    check(&[ActorKind::Schedule, ActorKind::Operator, ActorKind::System], "schedule operator system");
    check(&JobKind::ALL, "backup init forget prune check unlock restore verify copy ls find diff stats snapshots");
    check(
        &[JobStatus::Queued, JobStatus::Running, JobStatus::Succeeded, JobStatus::Failed, JobStatus::Cancelled],
        "queued running succeeded failed cancelled",
    );
}

#[test]
fn an_option_that_nobody_knows_is_refused_by_name() {
    for kind in JobKind::ALL {
        assert!(JobSpec::parse(kind.as_str(), Some(json!({}))).is_ok(), "{kind}");
        let error = JobSpec::parse(kind.as_str(), Some(json!({"no_such_option": true}))).expect_err("unknown");
        assert!(error.contains("no_such_option") && error.contains(kind.as_str()), "{error}");
    }
    let mut set = payload("schedule.set");
    set["schedules"][0]["options"]["no_such_option"] = json!(1);
    assert!(serde_json::from_value::<ScheduleSet>(set).is_err());
    let mut set = payload("schedule.set");
    set["schedules"][0]["retention_policy"]["keep_evrything"] = json!(1);
    assert!(serde_json::from_value::<ScheduleSet>(set).is_err());
}

#[test]
fn a_missing_list_of_schedules_is_an_error_and_an_empty_one_is_none() {
    for broken in [json!({"version": 4, "hash": "x"}), json!({"version": 4, "hash": "x", "schedules": null})] {
        assert!(serde_json::from_value::<ScheduleSet>(broken).is_err());
    }
    let none: ScheduleSet =
        serde_json::from_value(json!({"version": 4, "hash": "x", "schedules": []})).expect("an empty set");
    assert!(none.schedules.is_empty());
}

#[test]
fn an_absent_setting_keeps_the_present_one_and_an_empty_one_clears_it() {
    let update = |value: Value| -> ConfigUpdate { serde_json::from_value(value).expect("an update") };
    let kept = update(json!({"version": 8, "hash": "c8"})).applied_to(&settings());
    assert_eq!(kept, ConfigUpdate { version: 8, hash: "c8".to_owned(), ..settings() });
    // Every field by its name on the wire, so that one that is added and forgotten in `applied_to` fails.
    let empty = json!({"repo_url": "", "repo_username": "", "repo_password": "", "repo_credential": "", "hook_shell": "",
        "env": {}, "limit_upload_kib": 0, "limit_download_kib": 0, "retry_lock": "0s", "repo_password_secret": "",
        "repo_credential_secret": "", "maintained": {}, "copy_targets": {}});
    let mut names: Vec<_> = payload("config.update").as_object().expect("an object").keys().cloned().collect();
    names.retain(|name| name != "version" && name != "hash");
    for name in &names {
        let value = &empty[name.as_str()];
        assert!(!value.is_null(), "{name} has an empty form");
        let mut one = json!({"version": 8, "hash": "c8"});
        one[name] = value.clone();
        let mut expected = payload("config.update");
        expected["version"] = json!(8);
        expected["hash"] = json!("c8");
        expected[name] = value.clone();
        let after = serde_json::to_value(update(one).applied_to(&settings())).expect("JSON");
        assert_eq!(after, expected, "{name}");
    }
    let onto_nothing = settings().applied_to(&ConfigUpdate::default());
    assert_eq!(onto_nothing, settings());
}

#[test]
fn a_secret_is_never_in_debug_output() {
    let shown = format!("{:?} {:#?}", settings(), settings());
    assert!(!shown.contains("CANARY"), "{shown}");
    let inside = format!("{:?}", Some(vec![Secret::new("CANARY-x".to_owned())]));
    assert!(!inside.contains("CANARY"), "{inside}");
    let written = serde_json::to_string(&settings()).expect("JSON");
    assert!(written.contains("CANARY-password"), "the wire carries it");
}
