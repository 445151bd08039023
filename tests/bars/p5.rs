//! P5: a job id starts at most one process, ever, and every id ends. The agent dies at every edge of its ledger: at each of the
//! system calls that write, sync, replace, spawn, one after the other, and at random moments. What counts as a start is what the
//! started program itself wrote down. The control deletes the ledger at each death: then ids start twice, and the check says so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::checker::check_history;
use crate::count;
use crate::harness::{AGENT, Fleet, Process, eventually, text};

/// A restic that writes down the job it was started for, and is done. It is a shell script: an agent that dies leaves no lock.
const RESTIC: &str = r#"#!/bin/sh
for word; do
    case $word in
        --tag=job:*) printf '%s\n' "${word#--tag=}" >> DIR/starts ;;
        version) echo 'restic 0.16.4 compiled with go1.21 on linux/amd64'; exit 0 ;;
        snapshots) echo '[]'; exit 0 ;;
    esac
done
[ -e DIR/slow ] && sleep 0.03
echo '{"message_type":"summary","files_new":1,"files_changed":0,"files_unmodified":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"data_blobs":0,"tree_blobs":0,"data_added":1,"total_files_processed":1,"total_bytes_processed":1,"total_duration":0.1,"snapshot_id":"4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e"}'
"#;

pub(crate) fn write_restic(fleet: &Fleet) -> String {
    fleet.write("fast-restic", &RESTIC.replace("DIR", text(fleet.dir.path())));
    let path = fleet.path("fast-restic");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    text(&path).to_owned()
}

fn started() -> Fleet {
    let mut fleet = Fleet::new();
    let restic = write_restic(&fleet);
    fleet.start_server();
    fleet.enroll("agent");
    fleet.permit_everything("agent", &restic);
    fleet
}

/// Posts backups, in one curl for many.
fn post(fleet: &Fleet, count: usize) {
    let body = format!(r#"{{"kind":"backup","options":{{"paths":[{:?}]}}}}"#, fleet.path("data"));
    let url = format!("{}/v1/hosts/web-1/jobs", fleet.url());
    let mut config = String::new();
    for _ in 0..count {
        config += &format!(
            "url = {url:?}\nrequest = POST\nheader = {:?}\nheader = \"Content-Type: application/json\"\ndata = {body:?}\noutput = /dev/null\nwrite-out = \"%{{http_code}}\\n\"\nsilent\nnext\n",
            fleet.bearer()
        );
    }
    fleet.write("posts", config.trim_end_matches("next\n"));
    let posted = Command::new("curl").args(["-K", text(&fleet.path("posts"))]).output().expect("curl runs");
    let codes = String::from_utf8_lossy(&posted.stdout).into_owned();
    assert_eq!(codes.lines().filter(|code| *code == "201").count(), count, "{codes}");
}

/// The agent, which dies by SIGKILL as it begins the `nth` of these system calls.
fn start_agent(fleet: &Fleet, calls: &str, nth: usize) -> Process {
    let (trace, dir) = (format!("trace={calls}"), fleet.path("agent"));
    let inject = format!("inject={calls}:signal=SIGKILL:when={nth}");
    let arguments = ["-o", "/dev/null", "-e", &trace, "-e", &inject, AGENT, "run", "--dir", text(&dir)];
    Process::start("strace", &arguments, &fleet.path("agent.log"), &[])
}

/// How often each id was started, as the programs that were started say.
fn starts(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut starts = BTreeMap::new();
    for line in fleet.read("starts").lines() {
        *starts.entry(line.trim_start_matches("job:").to_owned()).or_default() += 1;
    }
    starts
}

/// Ids that were started more than once.
fn started_twice(fleet: &Fleet) -> usize {
    starts(fleet).values().filter(|times| **times > 1).count()
}

/// Waits until every job has ended, with an agent that nobody kills.
fn let_it_end(fleet: &mut Fleet, deadline: Duration) {
    fleet.agent = Some(fleet.agent_process("agent"));
    eventually("every job ends and is told", deadline, || {
        std::thread::sleep(Duration::from_millis(500));
        let (_, metrics) = fleet.curl(&["/v1/hosts/web-1/jobs?limit=1000&status=queued"])?;
        let (_, running) = fleet.curl(&["/v1/hosts/web-1/jobs?limit=1000&status=running"])?;
        let none =
            |body: &str| serde_json::from_str::<Value>(body).ok().is_some_and(|v| v["jobs"] == Value::Array(vec![]));
        (none(&metrics) && none(&running)).then_some(())
    });
}

/// strace does not take the agent with it.
pub(crate) fn kill_traced(strace: &mut Process) {
    let id = strace.id();
    let child = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let _ = Command::new("kill").args(["-s", "KILL", child.trim()]).status();
    let _ = strace.wait(Duration::from_secs(25));
}

/// One life of the agent up to its death at a system call; false: it did all its work without coming to that call.
fn dies_at(fleet: &Fleet, calls: &str, nth: usize) -> bool {
    let mut agent = start_agent(fleet, calls, nth);
    let until = std::time::Instant::now() + Duration::from_millis(2_500);
    while std::time::Instant::now() < until {
        if !agent.is_running() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_traced(&mut agent);
    false
}

/// The system calls by which something becomes so: what the ledger and spool write, what makes it durable, and what starts restic.
/// Only those of the agent's one thread that does all this are counted.
const EDGES: [&str; 4] =
    ["write,writev,pwrite64", "fdatasync,fsync", "rename,renameat,renameat2", "clone,clone3,vfork"];

/// How many of these calls a life of the agent makes, from its start to the end of one job.
fn calls_in_a_life(fleet: &Fleet, calls: &str) -> usize {
    let (trace, calls_file, dir) = (format!("trace={calls}"), fleet.path("calls"), fleet.path("agent"));
    let before = starts(fleet).len();
    post(fleet, 1);
    let arguments = ["-o", text(&calls_file), "-e", &trace, AGENT, "run", "--dir", text(&dir)];
    let mut agent = Process::start("strace", &arguments, &fleet.path("agent.log"), &[]);
    eventually("the job is started", Duration::from_secs(30), || (starts(fleet).len() > before).then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    kill_traced(&mut agent);
    fleet.read("calls").lines().filter(|line| line.contains('(')).count()
}

/// Kills at every edge of a life, one after the other, with a job that waits each time; where fewer deaths are wanted, at as many
/// evenly apart. Returns the deaths and the jobs posted.
fn kill_at_every_edge(fleet: &Fleet, most_per_edge: usize) -> (usize, usize) {
    let (mut deaths, mut posted) = (0, 0);
    for calls in EDGES {
        let in_a_life = calls_in_a_life(fleet, calls);
        let step = in_a_life.div_ceil(most_per_edge).max(1);
        let before = deaths;
        for nth in (1..=in_a_life).rev().step_by(step) {
            post(fleet, 1);
            posted += 1;
            deaths += usize::from(dies_at(fleet, calls, nth));
        }
        posted += 1;
        eprintln!("{calls}: {} deaths at {in_a_life} calls of a life", deaths - before);
        assert!(deaths > before, "{calls}: the agent was never killed there");
    }
    (deaths, posted)
}

#[test]
fn p5_no_id_starts_twice_and_every_id_ends_whatever_edge_the_agent_dies_at() {
    let mut fleet = started();
    let (deaths, mut posted) = kill_at_every_edge(&fleet, count(8, 10_000));
    let ids = count(60, 10_000);
    // The rest at random moments, with many waiting.
    let mut random = 20_261_125_u64;
    fleet.write("slow", "");
    while posted < ids {
        let many = (ids - posted).min(100);
        post(&fleet, many);
        posted += many;
        for _ in 0..3 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            fleet.agent = Some(fleet.agent_process("agent"));
            std::thread::sleep(Duration::from_millis(300 + (random >> 33) % 2_500));
            fleet.agent = None;
        }
    }
    let_it_end(&mut fleet, Duration::from_secs(if ids > 100 { 3_600 } else { 120 }));
    assert_eq!(started_twice(&fleet), 0, "an id was started twice");
    fleet.server.as_ref().expect("a server").signal("TERM");
    let history = check_history(&fleet.path("state/hosts/web-1/journal"));
    let started = starts(&fleet).len();
    assert!(history.jobs >= ids && started * 2 > ids, "{started} of {} ids came to be started", history.jobs);
    eprintln!("{deaths} deaths at edges, {} ids, {started} started, each once; {} lines", history.jobs, history.lines);
}

/// The agent has begun a job when server and agent die: the server does not know yet that it was taken. With `forget` the
/// agent's ledger is lost, and what it had to tell.
fn lose_both_amid_a_job(fleet: &mut Fleet, forget: bool) {
    let before = starts(fleet).len();
    let received = fleet.read("agent/ledger.jsonl").matches("\"received\"").count();
    fleet.agent = Some(fleet.agent_process("agent"));
    eventually("the agent is online", Duration::from_secs(30), || {
        (fleet.get("/v1/hosts/web-1")["online"] == true).then_some(())
    });
    post(fleet, 1);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while fleet.read("agent/ledger.jsonl").matches("\"received\"").count() == received {
        assert!(std::time::Instant::now() < until, "the agent does not receive the job");
    }
    fleet.server = None;
    eventually("the job is started", Duration::from_secs(20), || (starts(fleet).len() > before).then_some(()));
    fleet.agent = None;
    if forget {
        fs::remove_file(fleet.path("agent/ledger.jsonl")).expect("removed");
        fs::remove_dir_all(fleet.path("agent/spool")).expect("removed");
    }
    fleet.start_server();
    let_it_end(fleet, Duration::from_secs(60));
    fleet.agent = None;
}

#[test]
fn p5_without_its_ledger_an_agent_starts_ids_twice_and_the_check_sees_it() {
    let mut fleet = started();
    for _ in 0..3 {
        lose_both_amid_a_job(&mut fleet, false);
    }
    assert_eq!(started_twice(&fleet), 0, "with its ledger it does not");
    for _ in 0..20 {
        lose_both_amid_a_job(&mut fleet, true);
        if started_twice(&fleet) > 0 {
            return;
        }
    }
    unreachable!("the check does not tell an agent with a ledger from one without");
}
