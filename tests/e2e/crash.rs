//! kill -9 of the server and of the agent, at random moments, while jobs run: every job once, every event once, in order, and
//! the view after a restart is the view before. The checker reads the files by itself: it shares no code with the journal.
//!
//! `RESTIC_MANAGER_CRASHES` kills each of the two so many times (6); `RESTIC_MANAGER_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use serde_json::{Value, json};

use crate::checker::{check_history, segments};
use crate::harness::{Fleet, PASSWORD, Process, eventually, text};
use crate::locks::locks;

/// splitmix64: the same seed gives the same choices on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(count).collect()
    }
}

pub(crate) fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The restic processes that work for this scratch directory.
fn restics_of(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok).map(|entry| entry.path());
    let is_ours = |path: &PathBuf| {
        let of = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        // A zombie has no environment any more.
        of("comm").starts_with(b"restic\n") && String::from_utf8_lossy(&of("environ")).contains(text(dir))
    };
    processes.filter(is_ours).map(|path| path.display().to_string()).collect()
}

/// kill -9 of the agent. Returns when the restic that it ran is gone too, by itself.
fn kill_agent(fleet: &mut Fleet) {
    // To restic a lock is stale when its process is gone, and one that nobody has waited for is not: orphans come to us.
    set_child_subreaper(Some(getpid())).expect("orphans come to us");
    let before = restics_of(fleet.dir.path());
    fleet.agent = None;
    eventually("no restic outlives its agent", Duration::from_secs(5), || {
        let orphans = orphaned_restics();
        for pid in &orphans {
            let _ = waitpid(Some(*pid), WaitOptions::NOHANG);
        }
        // One that is about to die has no environment any more, and is no orphan of ours yet.
        let gone = before.iter().all(|process| !Path::new(process).exists());
        (gone && orphans.is_empty() && restics_of(fleet.dir.path()).is_empty()).then_some(())
    });
}

/// Our dead children that an agent started: those lead process groups of their own.
fn orphaned_restics() -> Vec<Pid> {
    let orphan = |stat: String| {
        let (pid, rest) = stat.split_once(" (restic) Z ")?;
        let mut fields = rest.split(' ');
        let (parent, group) = (fields.next()?, fields.next()?);
        let is_ours = parent == getpid().as_raw_nonzero().to_string() && group == pid;
        is_ours.then(|| Pid::from_raw(pid.parse().ok()?)).flatten()
    };
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    processes.filter_map(|entry| orphan(fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
}

/// An operator who posts jobs, each with its key, and repeats every request until it is answered.
struct Operator {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, String)>>,
}

impl Operator {
    fn start(fleet: &Fleet, seed: u64) -> Self {
        let (url, token) = (fleet.url(), fleet.token());
        let backup = json!({"kind": "backup", "options": {"paths": [fleet.path("data")]}}).to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = Random(seed);
            let mut posted = Vec::new();
            // A backup that is not the schedule's: a fire that meets a job of its schedule is skipped.
            let bodies = [&*backup, r#"{"kind":"check"}"#, r#"{"kind":"unlock"}"#];
            while !stopped.load(Ordering::Relaxed) {
                let key = format!("{seed}-{}", posted.len());
                let body = bodies[usize::try_from(random.below(3)).expect("small")];
                let id = post_until_answered(&url, &token, &key, body);
                if random.below(3) == 0 {
                    assert_eq!(post_until_answered(&url, &token, &key, body), id, "a key is one job");
                }
                posted.push((key, id));
                // Never more than four wait, so that the end is near when the killing ends.
                if let Some((_, before)) = posted.iter().rev().nth(3) {
                    while !stopped.load(Ordering::Relaxed) && !has_ended(&url, &token, before) {
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
                std::thread::sleep(Duration::from_millis(random.below(1000)));
            }
            posted
        });
        Self { stop, thread }
    }

    /// The keys that were posted, each with its job.
    fn stop(self) -> Vec<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the operator got what was promised")
    }
}

fn curl(token: &str, arguments: &[&str]) -> Option<(u16, Value)> {
    let output = Command::new("curl")
        .args(["-s", "-m", "20", "-w", "\n%{http_code}", "-H", &format!("Authorization: Bearer {token}")])
        .args(arguments)
        .output()
        .expect("curl runs");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = answer.rsplit_once('\n')?;
    Some((code.parse().ok()?, serde_json::from_str(body).ok()?))
}

fn post_until_answered(url: &str, token: &str, key: &str, body: &str) -> String {
    eventually("an answer", Duration::from_secs(60), || {
        let key = format!("Idempotency-Key: {key}");
        let url = format!("{url}/v1/hosts/web-1/jobs");
        let arguments = ["-X", "POST", "-H", &key, "-H", "Content-Type: application/json", "-d", body, &url];
        let (code, answer) = curl(token, &arguments)?;
        assert!(matches!(code, 200 | 201 | 503), "{code} {answer}");
        answer["id"].as_str().map(str::to_owned)
    })
}

fn is_final(job: &Value) -> bool {
    matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled"))
}

fn has_ended(url: &str, token: &str, id: &str) -> bool {
    curl(token, &[&format!("{url}/v1/jobs/{id}")]).is_some_and(|(_, job)| is_final(&job))
}

#[test]
fn every_job_and_every_event_is_there_once_whatever_is_killed() {
    let crashes = number_of("RESTIC_MANAGER_CRASHES", 6);
    let seed = number_of("RESTIC_MANAGER_SEED", 20_261_124);
    eprintln!("RESTIC_MANAGER_SEED={seed} RESTIC_MANAGER_CRASHES={crashes}");
    let mut random = Random(seed);
    let mut fleet = Fleet::started();
    fs::write(fleet.path("data/random"), random.bytes(8 << 20)).expect("write");
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    fleet.set_cron("* * * * *");
    let operator = Operator::start(&fleet, seed);
    let (mut servers, mut agents, mut amid) = (crashes, crashes, 0);
    while servers + agents > 0 {
        // Mostly amid a job's restic, else at any moment; an agent that waits before it comes back has none to disturb.
        let patience = Instant::now() + Duration::from_secs(if random.below(5) == 0 { 0 } else { 20 });
        while restics_of(fleet.dir.path()).is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(random.below(1000)));
        amid += u64::from(!restics_of(fleet.dir.path()).is_empty());
        let pause = Duration::from_millis(random.below(700));
        if random.below(servers + agents) < servers {
            servers -= 1;
            fleet.server = None;
            std::thread::sleep(pause);
            fleet.start_server();
        } else {
            agents -= 1;
            kill_agent(&mut fleet);
            std::thread::sleep(pause);
            fleet.agent = Some(fleet.agent_process("agent"));
        }
    }
    let posted = operator.stop();
    eventually("the schedule has fired", Duration::from_secs(90), || {
        let journal = fs::read_to_string(segments(&fleet.path("state/hosts/web-1/journal")).pop().expect("a segment"))
            .unwrap_or_default();
        journal.contains("\"actor\":{\"kind\":\"schedule\"").then_some(())
    });
    fleet.set_cron("0 3 * * *");
    let jobs = eventually("every job ends", Duration::from_secs(240), || {
        let host = fleet.get("/v1/hosts/web-1");
        let (schedule, list) = (&host["schedule"], fleet.get("/v1/hosts/web-1/jobs?limit=1000"));
        let jobs = list["jobs"].as_array().cloned().unwrap_or_default();
        (schedule["applied"] == schedule["wanted"] && jobs.iter().all(is_final)).then_some(jobs)
    });
    for job in &jobs {
        let error = job["error"].as_str().unwrap_or_default();
        assert!(job["status"] == "succeeded" || error == "agent restarted", "no other end than these: {job}");
    }
    quiet(&fleet);
    for process in [&mut fleet.server, &mut fleet.agent] {
        assert!(process.as_mut().is_some_and(Process::is_running), "nothing ended by itself");
    }
    let history = check_history(&fleet.path("state/hosts/web-1/journal"));
    for (key, id) in &posted {
        assert_eq!(history.keys.get(key).map(Vec::as_slice), Some(&[id.clone()][..]), "{key} made one job");
    }
    assert_eq!(history.jobs, jobs.len(), "the list has what the journal has");
    check_logs(&fleet, &jobs);
    check_snapshots(&fleet, &jobs);
    let before = view(&fleet);
    fleet.server = None;
    fleet.start_server();
    assert_eq!(before, view(&fleet), "the view after a restart is the view before");
    for body in [r#"{"schedule_id":"data"}"#, r#"{"kind":"check"}"#] {
        let job = fleet.run_job(body);
        assert_eq!(job["status"], "succeeded", "{body}: {job}");
    }
    let failed = jobs.iter().filter(|job| job["status"] == "failed").count();
    let scheduled = jobs.iter().filter(|job| job["actor"]["kind"] == "schedule").count();
    eprintln!(
        "{crashes} + {crashes} crashes, {amid} amid a restic; {} jobs ({} posted, {scheduled} scheduled, {failed} ended by a crash), {} lines, {} events of {} streams",
        jobs.len(),
        posted.len(),
        history.lines,
        history.events,
        history.streams
    );
}

/// Waits until the agent has nothing left to deliver.
fn quiet(fleet: &Fleet) {
    let mut lines = 0;
    eventually("the agent has delivered everything", Duration::from_secs(90), || {
        let before = std::mem::replace(&mut lines, fleet.journal().len());
        std::thread::sleep(Duration::from_secs(2));
        let logs = fs::read_dir(fleet.path("agent/spool/logs")).map_or(0, Iterator::count);
        (before == lines && logs == 0).then_some(())
    });
}

/// What operators see, without what changes by itself.
fn view(fleet: &Fleet) -> Value {
    let list = fleet.get("/v1/hosts/web-1/jobs?limit=1000");
    let ids = list["jobs"].as_array().into_iter().flatten().filter_map(|job| job["id"].as_str());
    let jobs: Vec<Value> = ids.map(|id| fleet.get(&format!("/v1/jobs/{id}"))).collect();
    let logs: Vec<Option<(u16, String)>> = list["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|job| fleet.curl(&[&format!("/v1/jobs/{}/log", job["id"].as_str().unwrap_or_default())]))
        .collect();
    let mut view = json!({
        "host": fleet.get("/v1/hosts/web-1"),
        "schedules": fleet.get("/v1/hosts/web-1/schedules"),
        "snapshots": fleet.get("/v1/hosts/web-1/snapshots"),
        "list": list,
        "jobs": jobs,
        "logs": logs,
    });
    without_volatile(&mut view);
    view
}

fn without_volatile(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["last_seen", "online", "clock_skew_ms", "next_fire", "contact"] {
                map.remove(key);
            }
            map.values_mut().for_each(without_volatile);
        }
        Value::Array(list) => list.iter_mut().for_each(without_volatile),
        _ => {}
    }
}

/// Each job's log is on the server, each line once, up to what its end names.
fn check_logs(fleet: &Fleet, jobs: &[Value]) {
    let finished: BTreeMap<String, u64> = fleet
        .journal()
        .iter()
        .filter(|line| line["type"] == "job.finished")
        .map(|line| {
            let last = line["payload"]["last_log_seq"].as_u64().unwrap_or(0);
            (line["payload"]["job_id"].as_str().expect("an id").to_owned(), last)
        })
        .collect();
    for job in jobs {
        let id = job["id"].as_str().expect("an id");
        let log = fleet.read(&format!("state/hosts/web-1/logs/{id}.jsonl"));
        let mut next = 1;
        for line in log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
            let from = line["payload"]["from"].as_u64().filter(|from| *from == next).unwrap_or(next);
            assert!(line["seq"].as_u64() >= Some(from), "{id}: {line} after {next}");
            if line["payload"]["from"].is_null() {
                assert_eq!(line["seq"], next, "{id}: each log line once: {line}");
            }
            next = line["seq"].as_u64().expect("a seq") + 1;
        }
        let last = finished.get(id).copied().unwrap_or(0);
        assert!(next > last, "{id}: its log ends at {} of {last}", next - 1);
    }
}

/// restic's own word: no backup ran twice.
fn check_snapshots(fleet: &Fleet, jobs: &[Value]) {
    let listed = Command::new("restic")
        .args(["--no-cache", "--no-lock", "--json", "-r", text(&fleet.path("repo")), "snapshots"])
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("restic runs");
    let snapshots: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let tags: Vec<&str> = snapshots
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|snapshot| snapshot["tags"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    for job in jobs.iter().filter(|job| job["kind"] == "backup") {
        let tag = format!("job:{}", job["id"].as_str().expect("an id"));
        let count = tags.iter().filter(|other| **other == tag).count();
        assert!(count <= 1, "{tag} made {count} snapshots");
        assert!(count == 1 || job["status"] != "succeeded", "{tag} made none: {job}");
    }
}

#[test]
fn an_agent_killed_within_a_backup_leaves_nothing_in_the_way() {
    let mut fleet = Fleet::started();
    fs::write(fleet.path("data/random"), Random(5).bytes(6 << 20)).expect("write");
    let repository = fleet.read("config/repositories/main.toml");
    let limited = |kib: u32| fleet_limit(&fleet, &repository, kib);
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    limited(100);
    let id = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#)["id"].as_str().expect("an id").to_owned();
    eventually("the backup holds a lock", Duration::from_secs(30), || (locks(&fleet) > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(fleet.get(&format!("/v1/jobs/{id}"))["status"], "running");
    assert!(!restics_of(fleet.dir.path()).is_empty(), "restic runs");
    kill_agent(&mut fleet);
    assert!(locks(&fleet) > 0, "restic had no time to unlock");
    fleet_limit(&fleet, &repository, 0);
    fleet.start_agent();
    let job = fleet.wait_for_job(&id, Duration::from_secs(60));
    assert_eq!((&job["status"], &job["error"]), (&json!("failed"), &json!("agent restarted")), "{job}");
    for body in [r#"{"schedule_id":"data"}"#, r#"{"kind":"check"}"#] {
        let job = fleet.run_job(body);
        assert_eq!(job["status"], "succeeded", "{body}: {job}");
    }
    check_history(&fleet.path("state/hosts/web-1/journal"));
}

#[test]
fn an_agent_killed_while_it_lists_snapshots_leaves_nothing_in_the_way() {
    let mut fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let is_locked = |fleet: &Fleet| locks(fleet) > 0;
    let lists = |fleet: &Fleet| {
        restics_of(fleet.dir.path()).iter().any(|process| {
            let command = fs::read(Path::new(process).join("cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|word| word == b"snapshots")
        })
    };
    // It takes no lock, so that a job of another host whose turn it is may have the repository alone.
    for attempt in 1.. {
        assert!(attempt <= 20, "restic was never killed while it lists");
        let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
        assert_eq!(job["status"], "succeeded", "after a kill: {job}");
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && !lists(&fleet) {}
        let hit = lists(&fleet);
        assert!(!is_locked(&fleet), "the backup's lock is gone, and the list has none");
        kill_agent(&mut fleet);
        fleet.start_agent();
        if hit {
            break;
        }
    }
    // check wants the repository for itself.
    let job = fleet.run_job(r#"{"kind":"check"}"#);
    assert_eq!(job["status"], "succeeded", "{job}");
}

#[test]
fn a_job_cancelled_while_stale_locks_are_removed_never_runs() {
    // A restic that takes long to unlock.
    let mut fleet = Fleet::started_with_script("[ \"$1\" = unlock ] && touch \"$0.unlocks\" && sleep 3");
    fleet.agent = None;
    let _ = fs::remove_file(fleet.path("slow-restic.unlocks"));
    fleet.start_agent();
    let id = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#)["id"].as_str().expect("an id").to_owned();
    eventually("it unlocks first", Duration::from_secs(20), || {
        fleet.path("slow-restic.unlocks").exists().then_some(())
    });
    fleet.post(&format!("/v1/jobs/{id}/cancel"), "{}");
    let job = fleet.wait_for_job(&id, Duration::from_secs(30));
    assert_eq!(job["status"], "cancelled", "{job}");
    // The next job comes after whatever the agent still had in mind.
    assert_eq!(fleet.run_job(r#"{"kind":"check"}"#)["status"], "succeeded");
    let started = |line: &Value| line["type"] == "job.started" && line["payload"]["job_id"] == id.as_str();
    assert!(!fleet.journal().iter().any(started), "it never ran");
    assert_eq!(fs::read_dir(fleet.path("repo/snapshots")).map_or(0, Iterator::count), 0, "and made nothing");
}

/// Sets the repository's upload limit and waits until the server has it.
fn fleet_limit(fleet: &Fleet, repository: &str, kib: u32) {
    fleet.write("config/repositories/main.toml", &format!("{repository}limit_upload_kib = {kib}\n"));
    let (code, answer) = fleet.try_post("/v1/config/reload", "{}");
    assert_eq!(code, 200, "{answer}");
}
