//! P4: one host, schedule and due time make exactly one job, however often the fire is told, to whichever of two servers that share
//! a state directory, and whatever is killed meanwhile. The control takes the servers' file locks away.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::checker::{check_history, lines_that_count};
use crate::count;
use crate::faults::{has, lied_to};
use crate::harness::{Fleet, Process, SERVER, eventually, free_port, text};
use crate::poster::{Poster, ask};

const DUE: &str = "2026-11-23T02:00:00Z";

/// Two servers over one state directory, and an agent of web-1 that is let in.
struct Pair {
    fleet: Fleet,
    ports: [u16; 2],
    servers: [Option<Process>; 2],
    environment: Vec<(&'static str, &'static str)>,
    agent: Option<Poster>,
}

impl Pair {
    /// With this many schedules, `s0`, `s1`, ...
    fn started(schedules: usize, environment: Vec<(&'static str, &'static str)>) -> Self {
        let fleet = Fleet::new();
        let mut host = fleet.read("config/hosts/web-1.toml");
        for number in 0..schedules {
            host += &format!(
                "[[schedule]]\nid = \"s{number}\"\nkind = \"backup\"\ncron = \"0 2 * * *\"\npaths = [\"/etc\"]\n"
            );
        }
        fleet.write("config/hosts/web-1.toml", &host);
        let mut pair =
            Self { fleet, ports: [free_port(), free_port()], servers: [None, None], environment, agent: None };
        pair.start(0);
        pair.start(1);
        let agent = Poster::enroll(pair.ports[0], &pair.fleet.token(), "web-1");
        let hello = json!({
            "protocol_version": 1, "agent_version": "0", "hostname": "web-1", "os": "linux", "arch": "amd64",
            "instance_id": agent.instance, "stream": Uuid::new_v4(), "running_jobs": [],
        });
        let greeted = ask(pair.ports[1], "POST", "/v1/agents/web-1/hello", &agent.credential, &hello.to_string());
        assert_eq!(greeted.expect("an answer").status, 200);
        pair.agent = Some(agent);
        pair
    }

    fn start(&mut self, which: usize) {
        self.servers[which] = None;
        let (config, state, log) = (self.fleet.path("config"), self.fleet.path("state"), self.fleet.path("server.log"));
        let listen = format!("127.0.0.1:{}", self.ports[which]);
        let arguments = ["serve", "--config", text(&config), "--state", text(&state), "--listen", &listen];
        self.servers[which] = Some(Process::start(SERVER, &arguments, &log, &self.environment));
        self.await_ready(which);
    }

    fn await_ready(&self, which: usize) {
        eventually("the server is ready", Duration::from_secs(20), || {
            ask(self.ports[which], "GET", "/readyz", "", "").ok().filter(|reply| reply.status == 200)
        });
    }

    fn agent(&self) -> &Poster {
        self.agent.as_ref().expect("it is let in")
    }

    /// Posts one event as the first of a stream until a server acknowledges it, to one server and then to the other.
    fn post_first(&self, first_server: usize, stream: Uuid, event: &str) -> Result<(), String> {
        let agent = self.agent();
        let path = format!("/v1/agents/web-1/events?stream={stream}&instance={}", agent.instance);
        let until = Instant::now() + Duration::from_secs(30);
        let mut last = String::new();
        for server in (first_server..).map(|number| number % 2) {
            match ask(self.ports[server], "POST", &path, &agent.credential, event) {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) => last = format!("{} {}", reply.status, reply.body),
                Err(error) => last = error.to_string(),
            }
            if Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(last)
    }
}

fn event(kind: &str, payload: &Value) -> String {
    json!({"seq": 1, "ts": DUE, "type": kind, "payload": payload}).to_string() + "\n"
}

/// Fires every schedule once, told so often, while a server is killed in each round. Says what is wrong with the history.
fn fired(rounds: usize, duplicates: usize, environment: Vec<(&'static str, &'static str)>) -> Result<usize, String> {
    let mut pair = Pair::started(rounds, environment);
    for round in 0..rounds {
        let schedule = format!("s{round}");
        let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("restic-manager:web-1/{schedule}@{DUE}").as_bytes());
        let fire = event(
            "schedule.fire",
            &json!({"schedule_id": schedule, "scheduled_at": DUE, "fired_at": DUE, "job_id": id}),
        );
        // Requests that are repeated, and the same fire told anew: four streams, each of them by many.
        let streams = [(); 4].map(|()| Uuid::new_v4());
        let acknowledged = AtomicUsize::new(0);
        let victim = round % 2;
        let mut killed = pair.servers[victim].take();
        let told: Result<(), String> = std::thread::scope(|scope| {
            let tellers: Vec<_> = (0..duplicates)
                .map(|number| {
                    let (pair, fire, stream, acknowledged) = (&pair, &fire, streams[number % 4], &acknowledged);
                    scope.spawn(move || {
                        let told = pair.post_first(number / 4, stream, fire);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        told
                    })
                })
                .collect();
            // Amid the answers, earlier or later from round to round.
            let until = Instant::now() + Duration::from_secs(5);
            while acknowledged.load(Ordering::SeqCst) < duplicates * (round % 7) / 8 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if let Some(server) = &mut killed {
                server.kill();
            }
            tellers.into_iter().try_for_each(|teller| teller.join().expect("a teller"))
        });
        pair.start(victim);
        told.map_err(|error| format!("round {round}: never acknowledged: {error}"))?;
        for (kind, payload) in [
            ("command.result", json!({"job_id": id, "accepted": true})),
            ("job.started", json!({"job_id": id, "kind": "backup", "started_at": DUE})),
            ("job.finished", json!({"job_id": id, "status": "succeeded", "finished_at": DUE, "last_log_seq": 0})),
        ] {
            pair.post_first(round, Uuid::new_v4(), &event(kind, &payload))?;
        }
    }
    let list = |port: u16| {
        let list = ask(port, "GET", "/v1/hosts/web-1/jobs?limit=1000", &pair.fleet.token(), "");
        list.map(|reply| reply.json()["jobs"].clone()).map_err(|error| error.to_string())
    };
    let lists = [list(pair.ports[0])?, list(pair.ports[1])?];
    pair.servers = [None, None];
    if lists[0] != lists[1] || lists[0].as_array().map(Vec::len) != Some(rounds) {
        return Err(format!("the servers' lists of {rounds} jobs: {} and {}", lists[0], lists[1]));
    }
    judged(&pair.fleet.path("state/hosts/web-1/journal"), rounds)
}

/// The journal as an independent reader has it; gives the number of its lines.
fn judged(journal: &Path, rounds: usize) -> Result<usize, String> {
    let checked = std::panic::catch_unwind(AssertUnwindSafe(|| check_history(journal)));
    let history = checked.map_err(|_| "the checker found what its message says".to_owned())?;
    let mut jobs: BTreeMap<String, usize> = BTreeMap::new();
    let lines = lines_that_count(journal).into_iter().map(|line| serde_json::from_slice::<Value>(&line).expect("JSON"));
    for line in lines.filter(|line| line["type"] == "job.queued") {
        *jobs.entry(line["payload"]["schedule_id"].to_string()).or_default() += 1;
    }
    if jobs.len() != rounds || jobs.values().any(|count| *count != 1) {
        return Err(format!("jobs by schedule: {jobs:?}"));
    }
    Ok(history.lines)
}

#[test]
fn p4_a_due_time_makes_one_job_however_often_it_is_told_to_whichever_server() {
    if !has("p4", &["cc"]) {
        return;
    }
    let (rounds, duplicates) = (count(6, 100), count(60, 200));
    let begun = Instant::now();
    let lines = fired(rounds, duplicates, vec![("RUST_LOG", "info")]).expect("one job each");
    eprintln!(
        "P4: {rounds} due times, each told {duplicates} times, {rounds} kills, {lines} lines, {:?}",
        begun.elapsed()
    );
    let control = fired(6, 60, lied_to("noflock"));
    assert!(control.is_err(), "without the lock the check finds nothing: {control:?}");
    eprintln!("P4's control: {}", control.expect_err("just seen").chars().take(200).collect::<String>());
}
