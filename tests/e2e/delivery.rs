//! Delivery, judged alike whoever is the agent: ours, and tests/tools/shell-agent, which was written from the protocol's text.
//! Commands are posted while the agent is killed (kill -9) at random moments and the server is too: every command ends exactly
//! once, no id starts twice, and every stream is contiguous. What counts as a start is what the started program wrote down. The
//! control takes the shell agent's ledger away at each death; the same judge must then see ids that started twice.
//!
//! `RESTIC_MANAGER_DELIVERIES` commands are posted (20); `RESTIC_MANAGER_SEED` repeats a run's choices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::checker::check_history;
use crate::crash::{Random, number_of};
use crate::harness::{Fleet, Process, eventually, text};

/// What both agents start for a job: it writes down which one, and is done soon. To ours it looks like restic.
const PROGRAM: &str = r#"#!/bin/sh
for word; do
    case $word in
        --tag=job:*) printf '%s\n' "${word#--tag=job:}" >> DIR/starts ;;
        version) echo 'restic 0.16.4 compiled with go1.21 on linux/amd64'; exit 0 ;;
        snapshots) echo '[]'; exit 0 ;;
    esac
done
sleep 0.2
echo '{"message_type":"summary","files_new":1,"files_changed":0,"files_unmodified":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"data_blobs":0,"tree_blobs":0,"data_added":1,"total_files_processed":1,"total_bytes_processed":1,"total_duration":0.1,"snapshot_id":"4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e"}'
"#;

const SHELL_AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/shell-agent");

/// An agent that can be judged.
struct Kind {
    enroll: fn(&Fleet),
    start: fn(&Fleet) -> Process,
    ledger: &'static str,
    /// What it has not delivered yet.
    spool: &'static str,
}

const OURS: Kind = Kind {
    enroll: |fleet| {
        fleet.enroll("agent");
        fleet.permit_everything("agent", text(&fleet.path("program")));
    },
    start: |fleet| fleet.agent_process("agent"),
    ledger: "agent/ledger.jsonl",
    spool: "agent/spool",
};

const OF_SHELL: Kind = Kind {
    enroll: |fleet| {
        let token = fleet.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#);
        let (url, dir) = (fleet.url(), fleet.path("agent"));
        let arguments = ["enroll", &url, token["token"].as_str().expect("a token"), "web-1", text(&dir)];
        // The answer to the first may have been lost: the second is the same request.
        for _ in 0..2 {
            let enrolled = Command::new(SHELL_AGENT).args(arguments).output().expect("bash, curl and jq");
            assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
        }
    },
    start: |fleet| {
        let run = fleet.path("program");
        Process::start(
            SHELL_AGENT,
            &["run", text(&fleet.path("agent"))],
            &fleet.path("agent.log"),
            &[("RUN", text(&run))],
        )
    },
    ledger: "agent/ledger",
    spool: "agent/spool",
};

fn started(kind: &Kind) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.write("program", &PROGRAM.replace("DIR", text(fleet.dir.path())));
    fs::set_permissions(fleet.path("program"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fleet.start_server();
    (kind.enroll)(&fleet);
    fleet
}

fn post(fleet: &Fleet) -> String {
    let backup = json!({"kind": "backup", "options": {"paths": [fleet.path("data")]}}).to_string();
    fleet.post("/v1/hosts/web-1/jobs", &backup)["id"].as_str().expect("an id").to_owned()
}

/// How often each id was started, as the programs that were started say.
fn starts(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut starts = BTreeMap::new();
    for id in fleet.read("starts").lines() {
        *starts.entry(id.to_owned()).or_default() += 1;
    }
    starts
}

/// What is wrong with what became of the commands.
fn findings(fleet: &Fleet, posted: &BTreeSet<String>) -> Vec<String> {
    let starts = starts(fleet);
    let mut findings = Vec::new();
    for (id, times) in &starts {
        if *times > 1 {
            findings.push(format!("{id} was started {times} times"));
        }
        if !posted.contains(id) {
            findings.push(format!("{id} was started, and nobody asked for it"));
        }
    }
    for id in posted {
        let job = fleet.get(&format!("/v1/jobs/{id}"));
        let error = job["error"].as_str().unwrap_or_default();
        if job["status"] != "succeeded" && error != "agent restarted" {
            findings.push(format!("{id} has another end than these: {job}"));
        }
        if job["status"] == "succeeded" && !starts.contains_key(id) {
            findings.push(format!("{id} succeeded and was never started"));
        }
    }
    findings
}

/// Waits until every job has ended and is told, with an agent and a server that nobody kills.
fn let_it_end(fleet: &mut Fleet, kind: &Kind, deadline: Duration) {
    fleet.agent = Some((kind.start)(fleet));
    eventually("every job ends and is told", deadline, || {
        std::thread::sleep(Duration::from_millis(300));
        let open = |status: &str| {
            let (_, body) = fleet.curl(&[&format!("/v1/hosts/web-1/jobs?limit=1000&status={status}")])?;
            let list: Value = serde_json::from_str(&body).ok()?;
            list["jobs"].as_array().map(Vec::len)
        };
        (open("queued")? + open("running")? == 0).then_some(())
    });
}

/// The delivery test.
fn delivers(kind: &Kind) {
    let commands = usize::try_from(number_of("RESTIC_MANAGER_DELIVERIES", 20)).expect("small");
    let seed = number_of("RESTIC_MANAGER_SEED", 20_261_125);
    eprintln!("RESTIC_MANAGER_SEED={seed} RESTIC_MANAGER_DELIVERIES={commands}");
    let mut random = Random(seed);
    let mut fleet = started(kind);
    let (mut posted, mut deaths) = (BTreeSet::new(), 0);
    while posted.len() < commands || deaths < commands / 2 {
        fleet.agent = Some((kind.start)(&fleet));
        let dies = Instant::now() + Duration::from_millis(300 + random.below(3_700));
        for _ in 0..random.below(5).min(u64::try_from(commands - posted.len()).expect("small")) {
            std::thread::sleep(Duration::from_millis(random.below(300)));
            posted.insert(post(&fleet));
        }
        // Twice the server dies too, once while the agent lives.
        let server_dies = [commands / 6, commands / 3].contains(&deaths);
        if server_dies && deaths == commands / 6 {
            fleet.server = None;
        }
        std::thread::sleep(dies.saturating_duration_since(Instant::now()));
        fleet.agent = None;
        deaths += 1;
        if server_dies {
            fleet.server = None;
            fleet.start_server();
        }
    }
    let_it_end(&mut fleet, kind, Duration::from_secs(120 + 3 * u64::try_from(commands).expect("small")));
    assert_eq!(findings(&fleet, &posted), Vec::<String>::new());
    let history = check_history(&fleet.path("state/hosts/web-1/journal"));
    assert_eq!(history.jobs, commands, "each command is one job");
    let started = starts(&fleet).len();
    assert!(started * 2 > commands, "{started} of {commands} commands came to be started");
    eprintln!("{deaths} deaths, {commands} commands, {started} started, each once; {} events", history.events);
}

#[test]
fn every_command_ends_once_whatever_is_killed_with_our_agent() {
    delivers(&OURS);
}

#[test]
fn every_command_ends_once_whatever_is_killed_with_an_agent_of_shell_and_curl() {
    delivers(&OF_SHELL);
}

/// The agent has begun a job when server and agent die, and the server does not know that it was taken. Then the agent forgets.
fn lose_both_amid_a_job(fleet: &mut Fleet, kind: &Kind, forget: bool) -> String {
    let begun = starts(fleet).len();
    let is_received = |fleet: &Fleet| fleet.read(kind.ledger).matches("\"received\"").count();
    fleet.agent = Some((kind.start)(fleet));
    let received = is_received(fleet);
    let id = post(fleet);
    let until = Instant::now() + Duration::from_secs(30);
    while is_received(fleet) == received {
        assert!(Instant::now() < until, "the agent does not receive the job");
    }
    fleet.server = None;
    eventually("the job is started", Duration::from_secs(30), || (starts(fleet).len() > begun).then_some(()));
    fleet.agent = None;
    if forget {
        let _ = fs::remove_file(fleet.path(kind.ledger));
        let _ = fs::remove_dir_all(fleet.path(kind.spool));
        let _ = fs::remove_file(fleet.path(kind.spool));
    }
    fleet.start_server();
    let_it_end(fleet, kind, Duration::from_secs(60));
    fleet.agent = None;
    id
}

#[test]
fn an_agent_of_shell_that_loses_its_ledger_starts_ids_twice_and_the_judge_sees_it() {
    let mut fleet = started(&OF_SHELL);
    let mut posted = BTreeSet::new();
    posted.insert(lose_both_amid_a_job(&mut fleet, &OF_SHELL, false));
    assert_eq!(findings(&fleet, &posted), Vec::<String>::new(), "with its ledger it does not");
    for _ in 0..20 {
        posted.insert(lose_both_amid_a_job(&mut fleet, &OF_SHELL, true));
        if findings(&fleet, &posted).iter().any(|finding| finding.ends_with("was started 2 times")) {
            return;
        }
    }
    unreachable!("the judge does not tell an agent with a ledger from one without");
}
