//! An agent that obeys and runs nothing: hello, one poll after the other, and for each command the three events of a job that
//! succeeds. Every request may be repeated until it is answered, as the protocol allows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::poster::{Poster, Reply, ask};

const AT: &str = "2026-11-23T00:00:00Z";

pub(crate) struct SmallAgent {
    port: u16,
    host: String,
    credential: String,
    instance: Uuid,
    stream: Uuid,
    /// Events that are not acknowledged, the first with the number after `acked`.
    waiting: Vec<(&'static str, Value)>,
    acked: u64,
    cursor: String,
    /// Versions and hashes of settings and schedules, as a query.
    has: [(u64, String); 2],
    /// Commands that it has taken: a repeated one is not run again.
    taken: BTreeSet<String>,
}

impl SmallAgent {
    /// Lets a host in.
    pub(crate) fn enroll(port: u16, admin: &str, host: &str) -> Self {
        let poster = Poster::enroll(port, admin, host);
        Self {
            port,
            host: host.to_owned(),
            credential: poster.credential.clone(),
            instance: poster.instance,
            stream: Uuid::new_v4(),
            waiting: Vec::new(),
            acked: 0,
            cursor: String::new(),
            has: [(0, String::new()), (0, String::new())],
            taken: BTreeSet::new(),
        }
    }

    /// Polls and obeys until it is told to stop. Gives the commands that it took.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> BTreeSet<String> {
        let mut is_known = false;
        while !stop.load(Ordering::SeqCst) {
            let worked = if is_known { self.deliver() && self.poll() } else { self.hello() };
            if !worked {
                std::thread::sleep(Duration::from_millis(50));
            }
            is_known = worked;
        }
        self.taken
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Reply> {
        let path = format!("/v1/agents/{}/{path}", self.host);
        ask(self.port, method, &path, &self.credential, body).ok().filter(|reply| reply.status == 200)
    }

    fn hello(&mut self) -> bool {
        let hello = json!({
            "protocol_version": 1, "agent_version": "0", "hostname": self.host, "os": "linux", "arch": "amd64",
            "instance_id": self.instance, "stream": self.stream, "running_jobs": [],
        });
        self.ask("POST", "hello", &hello.to_string()).is_some()
    }

    fn deliver(&mut self) -> bool {
        if self.waiting.is_empty() {
            return true;
        }
        let events: String = (self.acked + 1..)
            .zip(&self.waiting)
            .map(|(seq, (kind, payload))| {
                json!({"seq": seq, "ts": AT, "type": kind, "payload": payload}).to_string() + "\n"
            })
            .collect();
        let path = format!("events?stream={}&instance={}", self.stream, self.instance);
        let Some(reply) = self.ask("POST", &path, &events) else { return false };
        let acked = reply.json()["acked"].as_u64().unwrap_or(0);
        self.waiting.drain(..usize::try_from(acked.saturating_sub(self.acked)).expect("few"));
        self.acked = acked;
        true
    }

    fn poll(&mut self) -> bool {
        let [(config, config_hash), (schedule, schedule_hash)] = &self.has;
        let path = format!(
            "commands?instance={}&after={}&config_version={config}&config_hash={config_hash}&schedule_version={schedule}&schedule_hash={schedule_hash}&wait=5",
            self.instance, self.cursor
        );
        let Some(reply) = self.ask("GET", &path, "") else { return false };
        let answer = reply.json();
        for message in answer["messages"].as_array().into_iter().flatten() {
            let payload = &message["payload"];
            let version =
                || (payload["version"].as_u64().unwrap_or(0), payload["hash"].as_str().unwrap_or("").to_owned());
            match message["type"].as_str() {
                Some("config.update") => {
                    self.has[0] = version();
                    self.waiting.push(("config.ack", json!({"version": self.has[0].0, "applied_at": AT})));
                }
                Some("schedule.set") => {
                    self.has[1] = version();
                    self.waiting.push(("schedule.ack", json!({"version": self.has[1].0, "applied_at": AT})));
                }
                Some("command.run") => {
                    let id = payload["job_id"].as_str().expect("an id").to_owned();
                    if self.taken.insert(id.clone()) {
                        self.waiting.push(("command.result", json!({"job_id": id, "accepted": true})));
                        self.waiting.push(("job.started", json!({"job_id": id, "kind": "check", "started_at": AT})));
                        self.waiting.push((
                            "job.finished",
                            json!({"job_id": id, "status": "succeeded", "finished_at": AT, "last_log_seq": 0}),
                        ));
                    }
                }
                _ => {}
            }
        }
        // In its ledger by now.
        answer["cursor"].as_str().unwrap_or_default().clone_into(&mut self.cursor);
        !answer["cursor"].is_null()
    }
}
