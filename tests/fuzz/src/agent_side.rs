//! What reaches the agent: a poll's answer, a command on its way to restic, its own settings, and what restic prints.

use chrono_tz::Tz;
use restic_manager::id::{HostName, JobId, ScheduleId};
use restic_manager::protocol::PollAnswer;
use restic_manager::protocol::command::{
    CommandCancel, CommandRun, ConfigUpdate, FireResult, HelloAnswer, ScheduleSet,
};
use restic_manager::protocol::job_options::{JobKind, JobSpec, VerifyOptions};
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::schedule::{ScheduleMemory, compile, decide, next_wake};

use crate::host_path::HostPath;
use crate::noon;
use crate::policy::{Policy, RawPolicy};
use crate::restic_args::{ArgumentContext, arguments, verify_restore_arguments};
use crate::restic_environment::{EnvironmentContext, environment};
use crate::restic_json::ending::{Exit, Transcript};
use crate::restic_json::query::{self, DiffLine, Entry};
use crate::restic_json::{Summary, document};
use crate::restic_version::ResticVersion;
use crate::settings;
use crate::verify_sample::{Sample, Verdict, Verdicts};

fn host() -> HostName {
    "web-1".parse().expect("a name")
}

/// A poll's answer, or hello's, and all that is done with its messages.
pub fn poll_answer(data: &[u8]) {
    let _ = serde_json::from_slice::<HelloAnswer>(data);
    let Ok(answer) = serde_json::from_slice::<PollAnswer>(data) else { return };
    let mut config = ConfigUpdate::default();
    for message in &answer.messages {
        let payload = message.payload.get();
        if let Ok(update) = serde_json::from_str::<ConfigUpdate>(payload) {
            config = update.applied_to(&config);
            let context = EnvironmentContext { cache_dir: "/c", temp_dir: "/t", inherited: &[] };
            let own = RepositoryAccess::own(&config);
            let maintained = config.maintained.iter().flat_map(|maintained| maintained.values());
            let environments =
                [&own].into_iter().chain(maintained).filter_map(|access| environment(access, &context).ok());
            for (name, value) in environments.flatten() {
                assert!(!name.contains(['=', '\0']) && !value.reveal().contains('\0'), "{name:?} can be set");
                assert!(!name.to_ascii_uppercase().ends_with("_COMMAND") && !name.starts_with("LD_"), "{name}");
            }
        }
        if let Ok(set) = serde_json::from_str::<ScheduleSet>(payload) {
            for schedule in &set.schedules {
                if let Ok(compiled) = compile(schedule, &host(), Tz::UTC) {
                    let mut memory = ScheduleMemory::new(&compiled, noon());
                    let _ = (decide(&compiled, &mut memory, noon()), next_wake(&compiled, &memory, noon()));
                }
                to_restic(&schedule.job_spec());
            }
        }
        let _ = serde_json::from_str::<FireResult>(payload);
        let _ = serde_json::from_str::<CommandCancel>(payload);
        if let Ok(command) = serde_json::from_str::<CommandRun>(payload)
            && let Ok(spec) = JobSpec::parse(&command.kind, command.options)
        {
            to_restic(&spec);
        }
    }
}

/// A command's kind (by the first byte) and options.
pub fn command(data: &[u8]) {
    let Some((kind, options)) = data.split_first() else { return };
    let kind = JobKind::ALL[usize::from(*kind) % JobKind::ALL.len()];
    let Ok(options) = serde_json::from_slice(options) else { return };
    if let Ok(spec) = JobSpec::parse(kind.as_str(), Some(options)) {
        let again = JobSpec::parse(kind.as_str(), Some(spec.options_json()));
        assert_eq!(again.as_ref(), Ok(&spec), "options survive their JSON");
        to_restic(&spec);
    }
}

fn context<'a>(host: &'a HostName, schedule_id: Option<&'a ScheduleId>) -> ArgumentContext<'a> {
    ArgumentContext {
        host,
        job_id: JobId(Default::default()),
        schedule_id,
        restic_version: ResticVersion::new(0, 18, 0),
        limit_upload_kib: 0,
        limit_download_kib: 7,
        retry_lock: None,
        restore_target: None,
    }
}

/// Whatever the job says: no argument is a flag that it made, and no path leads out of the roots.
fn to_restic(spec: &JobSpec) {
    let raw = RawPolicy {
        kinds: JobKind::ALL.map(|kind| kind.as_str().to_owned()).to_vec(),
        backup_roots: vec!["/home".to_owned()],
        restore_roots: vec!["/restore".to_owned()],
        ..RawPolicy::default()
    };
    let policy = Policy::try_from(raw).expect("a good policy");
    let permitted = policy.permits(spec, "/srv/repo").is_ok();
    let target = if let JobSpec::Restore(options) = spec { options.target.as_deref() } else { None };
    let schedule: ScheduleId = "data".parse().expect("an id");
    let host = host();
    let context =
        ArgumentContext { restore_target: target.or(Some("/restore/new")), ..context(&host, Some(&schedule)) };
    let Ok(arguments) = arguments(spec, &context) else { return };
    assert_eq!(arguments[0], spec.kind().as_str());
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    for argument in &arguments[1..end] {
        let name = argument.split('=').next().unwrap_or_default();
        let plain = name.starts_with("--") && name[2..].bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(plain && !argument.contains('\0'), "{argument:?} is a flag of ours");
        assert!(!["--option", "--password-command", "--repo", "--cacert"].contains(&name), "{argument:?}");
    }
    for name in arguments.get(end + 1..).unwrap_or_default() {
        assert!(!name.contains('\0'));
        if permitted && spec.kind() == JobKind::Backup {
            let (path, root) = (HostPath::parse(name).expect("a path"), HostPath::parse("/home").expect("a path"));
            assert!(path.is_within(&root), "{name:?}");
        }
    }
}

/// What restic answers when it is asked for a snapshot's files, for files by name, for a difference or for counts; and which of the
/// files a restore test (the first byte says how large a one) would have restored.
pub fn restic_answers(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let (files, bytes) = (u32::from(size % 16), u64::from(size / 16) * 100);
    let options = VerifyOptions { sample_files: Some(files), sample_bytes: Some(bytes), ..VerifyOptions::default() };
    let mut sample = Sample::new(JobId(Default::default()), &options);
    let text = String::from_utf8_lossy(data);
    for line in text.split('\n') {
        sample.see(line);
        query::ls_line(line).iter().for_each(entry);
        match query::diff_line(line) {
            Some(DiffLine::Change(change)) => again(&change),
            Some(DiffLine::Statistics(statistics)) => assert!(!statistics.contains_key("message_type")),
            None => {}
        }
        let has_counts = |counts: Summary| counts.contains_key("snapshots_count") && counts.contains_key("total_size");
        assert!(query::stats(line).is_none_or(has_counts), "counts have one shape");
    }
    query::find(data).iter().flatten().for_each(entry);
    let Some((snapshot, chosen)) = sample.chosen() else { return };
    assert!(chosen.len() <= usize::try_from(files.max(1)).unwrap_or_default(), "no more files than it may have");
    assert!(chosen.iter().map(|file| file.size).sum::<u64>() <= bytes, "and no more bytes");
    let paths: Vec<&str> = chosen.iter().map(|file| file.path.as_str()).collect();
    to_restore(&snapshot, &paths);
    let mut verdicts = Verdicts::default();
    chosen.iter().for_each(|file| verdicts.add(&file.path, Verdict::Differing));
    let said = verdicts.lines().into_iter().chain(verdicts.error());
    assert!(said.into_iter().all(|text| !text.contains(['\u{1b}', '\n'])), "no escapes");
}

/// In the form in which it is told, it is what it was.
fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(told: &T) {
    let json = serde_json::to_string(told).expect("JSON");
    assert_eq!(serde_json::from_str::<T>(&json).as_ref().ok(), Some(told), "{json}");
}

fn entry(entry: &Entry) {
    again(entry);
    assert_eq!(entry.size.is_some(), entry.kind == "file", "files have sizes");
}

/// The restores of a restore test: each name is a pattern behind its flag, the snapshot stands behind `--`.
fn to_restore(snapshot: &str, paths: &[&str]) {
    let host = host();
    let context = ArgumentContext { restore_target: Some("/restore/new"), ..context(&host, None) };
    let Ok(restores) = verify_restore_arguments(snapshot, paths, &context) else { return };
    for arguments in restores {
        let (names, rest) = arguments.split_at(arguments.len() - 2);
        assert!(rest[0] == "--" && rest[1].bytes().all(|byte| byte.is_ascii_hexdigit()) || rest[1] == "latest");
        assert!(names[1..].iter().all(|name| name.starts_with("--") && !name.contains('\0')), "{names:?}");
    }
}

/// agent.toml.
pub fn agent_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problems) = settings::parse("agent.toml", text) {
        assert!(!problems.is_empty(), "a refusal says why");
        for problem in problems {
            let _ = problem.to_string();
        }
    }
}

/// What restic prints: the first byte says what was run and how it ended; lines that begin with `!` are of stderr.
pub fn restic_output(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let kind = JobKind::ALL.get(usize::from(mode % 8)).copied();
    let mut transcript = Transcript::new(kind);
    for line in data.split(|byte| *byte == b'\n') {
        match line.strip_prefix(b"!") {
            Some(line) => {
                let _ = transcript.stderr(line).text().map(str::len);
            }
            None => {
                transcript.stdout(line);
            }
        }
    }
    let exit = if *mode > 200 { Exit::Signal(9) } else { Exit::Code(i32::from(mode / 8)) };
    let end = transcript.end(exit, ResticVersion::new(0, 14 + u32::from(mode % 5), 0));
    let said = end.error.iter().chain(&end.warnings);
    assert!(said.into_iter().all(|text| !text.contains('\u{1b}')), "no escapes");
    let _ = document::snapshots(data);
    let _ = std::str::from_utf8(data).map(ResticVersion::parse);
}
