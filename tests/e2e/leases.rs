//! Repository leases across a fleet: many real agents share one repository with `max_parallel`, and a prune in the middle has it
//! alone; jobs that wait say what for, leave the queue when they are cancelled, and go on after a kill -9 of the server.
//!
//! 8 agents; 30 with `RESTIC_MANAGER_BARS=full`. `RESTIC_MANAGER_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::bad_input::{INSTANCE, STREAM, enrolled_with_curl, hello};
use crate::checker::{check_history, lines_that_count};
use crate::crash::{Random, number_of};
use crate::harness::{AGENT, Fleet, Process, eventually, text};

/// A fleet whose hosts share one repository.
struct Crowd {
    fleet: Fleet,
    agents: BTreeMap<String, Process>,
}

/// What a fast job runs instead of restic: it takes a while, and is done.
const PROGRAM: &str = r#"#!/bin/sh
for word; do
    case $word in
        version) echo 'restic 0.16.4 compiled with go1.21 on linux/amd64'; exit 0 ;;
        snapshots) echo '[]'; exit 0 ;;
    esac
done
while [ -e DIR/hold ]; do sleep 0.05; done
sleep 0.1
echo '{"message_type":"summary","files_new":1,"files_changed":0,"files_unmodified":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"data_blobs":0,"tree_blobs":0,"data_added":1,"total_files_processed":1,"total_bytes_processed":1,"total_duration":0.1,"snapshot_id":"4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e"}'
"#;

fn host(number: usize) -> String {
    format!("web-{number}")
}

impl Crowd {
    /// `hosts` hosts with their agents online, which run this program as restic.
    fn started(hosts: usize, max_parallel: u32, restic: &str) -> Self {
        let mut fleet = Fleet::new();
        let repository = format!(
            "url = {:?}\npassword = {{ file = \"../secrets/web-1\" }}\nmax_parallel = {max_parallel}\n",
            fleet.path("repo")
        );
        fleet.write("config/repositories/main.toml", &repository);
        let web = fleet.read("config/hosts/web-1.toml");
        for number in 1..=hosts {
            fleet.write(&format!("config/hosts/{}.toml", host(number)), &web);
        }
        fleet.write("program", &PROGRAM.replace("DIR", text(fleet.dir.path())));
        fs::set_permissions(fleet.path("program"), fs::Permissions::from_mode(0o755)).expect("chmod");
        let restic = if restic.is_empty() { text(&fleet.path("program")).to_owned() } else { restic.to_owned() };
        fleet.start_server();
        let mut crowd = Self { fleet, agents: BTreeMap::new() };
        for number in 1..=hosts {
            crowd.enroll(&host(number), &restic);
        }
        for number in 1..=hosts {
            crowd.start_agent(&host(number));
        }
        eventually("all agents have their settings", Duration::from_secs(60), || {
            let list = crowd.fleet.get("/v1/hosts?limit=1000");
            let is_ready = |host: &Value| {
                host["online"] == true
                    && host["config"]["wanted"] == host["config"]["applied"]
                    && host["config"]["applied"] != Value::Null
            };
            list["hosts"].as_array().is_some_and(|hosts| hosts.iter().all(is_ready)).then_some(())
        });
        crowd
    }

    fn enroll(&self, host: &str, restic: &str) {
        let fleet = &self.fleet;
        let answer = fleet.post("/v1/enrollment-tokens", &json!({"host": host}).to_string());
        let (url, dir) = (fleet.url(), fleet.path(&format!("agents/{host}")));
        let arguments = ["enroll", "--server", &url, "--token", answer["token"].as_str().expect("a token")];
        let enrolled = Command::new(AGENT).args(arguments).args(["--host", host, "--dir", text(&dir)]).output();
        let enrolled = enrolled.expect("enroll runs");
        assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
        // An agent that got no answer for so long ran its backups by itself.
        let settings = format!(
            "server = {url:?}\nhost = {host:?}\nrestic = {restic:?}\noffline_grace = \"1h\"\n[policy]\nkinds = [\"backup\", \"init\", \"prune\"]\n"
        );
        fleet.write(&format!("agents/{host}/agent.toml"), &settings);
    }

    fn start_agent(&mut self, host: &str) {
        let dir = format!("agents/{host}");
        self.agents.insert(host.to_owned(), self.fleet.agent_process_with_log(&dir, &format!("{host}.log")));
    }

    /// Posts a job and gives its id.
    fn post(&self, host: &str, kind: &str) -> String {
        let body = match kind {
            "backup" => json!({"kind": kind, "options": {"paths": [self.fleet.path("data")]}}),
            _ => json!({"kind": kind}),
        };
        let job = self.fleet.post(&format!("/v1/hosts/{host}/jobs"), &body.to_string());
        job["id"].as_str().expect("an id").to_owned()
    }

    fn job(&self, id: &str) -> Value {
        self.fleet.get(&format!("/v1/jobs/{id}"))
    }

    fn wait_for_end(&self, ids: &[String], deadline: Duration) -> Vec<Value> {
        ids.iter().map(|id| self.fleet.wait_for_job(id, deadline)).collect()
    }

    /// Each job's life, as the hosts' journals tell it.
    fn lives(&self) -> Vec<Life> {
        let mut lives = Vec::new();
        for host in fs::read_dir(self.fleet.path("state/hosts")).expect("hosts").map(|host| host.expect("one").path()) {
            check_history(&host.join("journal"));
            let lines = lines_that_count(&host.join("journal"));
            let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_slice(line).expect("JSON")).collect();
            for queued in lines.iter().filter(|line| line["type"] == "job.queued") {
                lives.push(Life::of(&lines, queued));
            }
        }
        lives
    }

    /// Who has a lease or waits for one at the end: nobody should.
    fn check_leases(&self) {
        let mut open: BTreeMap<String, String> = BTreeMap::new();
        for line in lines_that_count(&self.fleet.path("state/repositories/main/leases")) {
            let line: Value = serde_json::from_slice(&line).expect("JSON");
            let (kind, job) = (line["type"].as_str().expect("a type"), line["payload"]["job_id"].as_str());
            let Some(job) = job.map(str::to_owned) else { continue };
            match kind {
                "lease.released" => drop(open.remove(&job)),
                kind => drop(open.insert(job, kind.to_owned())),
            }
        }
        assert_eq!(open, BTreeMap::new(), "every lease is given back");
    }
}

/// When a job was with its agent.
#[derive(Debug, Clone)]
struct Life {
    id: String,
    kind: String,
    queued: DateTime<Utc>,
    dispatched: DateTime<Utc>,
    started: DateTime<Utc>,
    finished: DateTime<Utc>,
}

impl Life {
    fn of(lines: &[Value], queued: &Value) -> Self {
        let id = &queued["payload"]["job_id"];
        let line = |kind: &str| {
            let line = lines.iter().find(|line| line["type"] == kind && line["payload"]["job_id"] == *id);
            line.unwrap_or_else(|| unreachable!("{id} has no {kind}"))
        };
        let at = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("an instant");
        Self {
            id: id.as_str().expect("an id").to_owned(),
            kind: queued["payload"]["kind"].as_str().expect("a kind").to_owned(),
            queued: at(&queued["received_at"]),
            dispatched: at(&line("job.dispatched")["received_at"]),
            // By the agent's clock, which is the machine's.
            started: at(&line("job.started")["payload"]["started_at"]),
            finished: at(&line("job.finished")["payload"]["finished_at"]),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.id != other.id && self.started < other.finished && other.started < self.finished
    }
}

/// How many ran at once at most.
fn peak(lives: &[Life]) -> usize {
    let at = |instant| lives.iter().filter(|life| life.started <= instant && instant < life.finished).count();
    lives.iter().map(|life| at(life.started)).max().unwrap_or_default()
}

/// What is wrong with a history: too many at once, a job beside one that needs the repository alone, or one that was passed.
fn findings(lives: &[Life], max_parallel: usize) -> Vec<String> {
    let mut findings = Vec::new();
    if peak(lives) > max_parallel {
        findings.push(format!("{} ran at once", peak(lives)));
    }
    for alone in lives.iter().filter(|life| life.kind != "backup") {
        let beside = lives.iter().filter(|life| life.overlaps(alone)).count();
        if beside > 0 {
            findings.push(format!("{beside} ran beside {}", alone.kind));
        }
        let passed = lives.iter().filter(|l| l.queued > alone.queued && l.dispatched < alone.dispatched).count();
        if passed > 0 {
            findings.push(format!("{passed} went before {}, which was asked for before them", alone.kind));
        }
    }
    findings
}

#[test]
fn many_agents_share_a_repository_at_most_four_at_once_and_the_prune_is_alone() {
    let is_full = std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full");
    let hosts = if is_full { 30 } else { 8 };
    let crowd = Crowd::started(hosts, 4, "restic");
    crowd.wait_for_end(&[crowd.post("web-1", "init")], Duration::from_secs(60));
    let mut ids: Vec<String> = (1..=hosts / 2).map(|number| crowd.post(&host(number), "backup")).collect();
    ids.push(crowd.post("web-2", "prune"));
    ids.extend((hosts / 2 + 1..=hosts).map(|number| crowd.post(&host(number), "backup")));
    let last = crowd.job(ids.last().expect("one"));
    let said = last["waiting_for"].as_str().unwrap_or_default();
    assert!(said.contains("before it, and for job") && said.contains("(prune on web-2)"), "{last}");
    let jobs = crowd.wait_for_end(&ids, Duration::from_secs(20 + 10 * u64::try_from(hosts).expect("small")));
    for job in &jobs {
        assert_eq!((&job["status"], job.get("waiting_for")), (&json!("succeeded"), None), "{job}");
    }
    let lives = crowd.lives();
    assert_eq!(lives.len(), hosts + 2);
    assert_eq!(findings(&lives, 4), Vec::<String>::new());
    assert!(peak(&lives) > 1, "some ran at once");
    eventually("every lease is given back", Duration::from_secs(5), || {
        let said = fs::read_to_string(segment(&crowd)).expect("a journal");
        (said.matches("lease.released").count() == hosts + 2).then_some(())
    });
    crowd.check_leases();
    for number in 1..=hosts {
        let log = crowd.fleet.read(&format!("{}.log", host(number)));
        assert!(!log.contains("locked"), "{log}");
    }

    // The control: of the same history with one backup moved the judge says what is wrong.
    let moved = |to: DateTime<Utc>| {
        let mut lives = lives.clone();
        let backup = lives.iter_mut().rfind(|life| life.kind == "backup").expect("one");
        (backup.started, backup.finished) = (to, to + TimeDelta::milliseconds(1));
        lives
    };
    let prune = lives.iter().find(|life| life.kind == "prune").expect("the prune");
    assert_eq!(findings(&moved(prune.started), 4), ["1 ran beside prune"]);
    assert_eq!(findings(&lives, 1), [format!("{} ran at once", peak(&lives))]);
    let mut passed = lives.clone();
    passed.iter_mut().filter(|life| life.queued > prune.queued).for_each(|life| life.dispatched = prune.queued);
    assert_eq!(
        findings(&passed, 4),
        [format!("{} went before prune, which was asked for before them", hosts - hosts / 2)]
    );
}

fn segment(crowd: &Crowd) -> std::path::PathBuf {
    crate::checker::segments(&crowd.fleet.path("state/repositories/main/leases")).pop().expect("a segment")
}

#[test]
fn a_job_says_what_it_waits_for_ends_at_once_when_it_is_cancelled_and_two_of_one_host_go_in_order() {
    let crowd = Crowd::started(2, 1, "");
    crowd.fleet.write("hold", "");
    let first = crowd.post("web-1", "backup");
    eventually("the first runs", Duration::from_secs(20), || (crowd.job(&first)["status"] == "running").then_some(()));
    let second = crowd.post("web-1", "backup");
    let other = crowd.post("web-2", "backup");
    let cancelled = crowd.post("web-2", "prune");
    let says = |id: &str| crowd.job(id)["waiting_for"].as_str().unwrap_or_default().to_owned();
    assert_eq!(says(&second), format!("for job {first} (backup on web-1), which its own agent runs first"));
    assert_eq!(says(&other), "1 job before it, and for repository main, which is at its max_parallel of 1");
    assert!(says(&cancelled).starts_with("2 jobs before it, and "), "{}", says(&cancelled));
    let answer = crowd.fleet.post(&format!("/v1/jobs/{cancelled}/cancel"), "");
    assert_eq!((&answer["status"], answer.get("waiting_for")), (&json!("cancelled"), None), "{answer}");
    fs::remove_file(crowd.fleet.path("hold")).expect("removed");
    let jobs = crowd.wait_for_end(&[first, second, other], Duration::from_secs(20));
    assert!(jobs.iter().all(|job| job["status"] == "succeeded"), "{jobs:?}");
    let ends: Vec<&str> = jobs.iter().filter_map(|job| job["finished_at"].as_str()).collect();
    assert!(ends.is_sorted() && ends.len() == 3, "{ends:?}");
    eventually("every lease is given back", Duration::from_secs(5), || {
        let said = fs::read_to_string(segment(&crowd)).expect("a journal");
        (said.matches("lease.released").count() == 4).then_some(())
    });
    crowd.check_leases();
}

#[test]
fn waiting_jobs_go_on_after_a_kill_of_the_server_at_any_moment() {
    let seed = number_of("RESTIC_MANAGER_SEED", 20_261_125);
    eprintln!("RESTIC_MANAGER_SEED={seed}");
    let mut random = Random(seed);
    let mut crowd = Crowd::started(3, 1, "");
    let mut ids = Vec::new();
    for round in 0..5 {
        // In the last round all are there when it dies, and nothing but the start looks at them.
        for number in 1..=3 {
            let kind = if random.below(4) == 0 { "prune" } else { "backup" };
            ids.push(crowd.post(&host(number), kind));
            std::thread::sleep(Duration::from_millis(random.below(60)));
        }
        std::thread::sleep(Duration::from_millis(random.below(if round < 4 { 400 } else { 1 })));
        crowd.fleet.server = None;
        crowd.fleet.start_server();
    }
    let jobs = crowd.wait_for_end(&ids, Duration::from_secs(60));
    assert!(jobs.iter().all(|job| job["status"] == "succeeded"), "{jobs:?}");
    let lives = crowd.lives();
    assert_eq!((lives.len(), peak(&lives)), (15, 1));
    eventually("every lease is given back", Duration::from_secs(40), || {
        let said = fs::read_to_string(segment(&crowd)).expect("a journal");
        (said.matches("lease.released").count() == 15).then_some(())
    });
    crowd.check_leases();
}

#[test]
fn a_job_whose_lease_cannot_be_written_stays_queued_and_goes_on_when_it_can() {
    let crowd = Crowd::started(1, 1, "");
    // Where the journals of leases would be made is something else.
    crowd.fleet.write("state/repositories", "");
    let id = crowd.post("web-1", "backup");
    let says_why = || crowd.fleet.read("server.log").contains("jobs wait until the leases can be written");
    eventually("the log says why", Duration::from_secs(10), || says_why().then_some(()));
    let job = crowd.job(&id);
    assert_eq!((&job["status"], job.get("error")), (&json!("queued"), None), "{job}");
    let dispatched = |fleet: &Fleet| fleet.journal().iter().any(|line| line["type"] == "job.dispatched");
    assert!(!dispatched(&crowd.fleet));
    fs::remove_file(crowd.fleet.path("state/repositories")).expect("removed");
    assert_eq!(crowd.fleet.wait_for_job(&id, Duration::from_secs(20))["status"], "succeeded");
    assert!(dispatched(&crowd.fleet));
}

#[test]
fn a_fire_whose_job_must_wait_is_told_so_and_then_gets_its_command() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let bearer = enrolled_with_curl(&fleet, "web-1");
    let post = |path: &str, body: &str| {
        let answer = fleet.ask(&bearer, &["-H", "Content-Type: application/x-ndjson", "--data-binary", body, path]);
        answer.expect("an answer").json()
    };
    post("/v1/agents/web-1/hello", &hello(INSTANCE, STREAM).to_string());
    let events = format!("/v1/agents/web-1/events?stream={STREAM}&instance={INSTANCE}");
    let event = |seq: u64, kind: &str, payload: Value| {
        json!({"seq": seq, "ts": "2026-11-23T00:00:00Z", "type": kind, "payload": payload}).to_string()
    };
    let first = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"check"}"#);
    let due = "2026-11-23T03:00:00Z";
    let name = format!("restic-manager:web-1/data@{due}");
    let job_id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes());
    let fire = json!({"schedule_id": "data", "scheduled_at": due, "fired_at": due, "job_id": job_id});
    assert_eq!(post(&events, &event(1, "schedule.fire", fire))["acked"], 1);
    let mut cursor = String::new();
    let mut told = |kind: &str| {
        eventually(kind, Duration::from_secs(10), || {
            let path = format!(
                "/v1/agents/web-1/commands?instance={INSTANCE}&wait=5&after={cursor}&config_version=9&schedule_version=9"
            );
            let answer = fleet.ask(&bearer, &[&path]).expect("an answer").json();
            cursor = answer["cursor"].as_str().expect("a cursor").to_owned();
            let messages = answer["messages"].as_array().expect("messages").iter();
            messages.filter(|m| m["type"] == kind).map(|m| m["payload"].clone()).next_back()
        })
    };
    let result = told("fire.result");
    assert_eq!((&result["outcome"], &result["job_id"]), (&json!("waiting"), &json!(job_id)), "{result}");
    // The repository's url has no `{host}`: all hosts share it.
    let check = first["id"].as_str().expect("an id");
    assert_eq!(result["waiting_for"], format!("for job {check} (check on web-1), which has repository main alone"));
    let end =
        json!({"job_id": first["id"], "status": "succeeded", "exit_code": 0, "finished_at": due, "last_log_seq": 0});
    assert_eq!(post(&events, &event(2, "job.finished", end))["acked"], 2);
    assert_eq!(told("command.run")["job_id"], json!(job_id));
}
