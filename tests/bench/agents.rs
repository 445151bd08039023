//! The load generator: simulated agents that speak the protocol as the real one does. Each enrolls, says hello, polls with
//! cursor, versions and hashes, acknowledges what it is given, runs each command in no time, and posts its events in
//! order in a stream of its own. What it does not do: keep anything on disk, or run restic.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::Outcome;
use crate::http::{Connection, Target, request};

/// What an agent that runs by itself tells.
pub(crate) enum Happening {
    /// Its poll is written.
    Parked,
    /// It holds an answer with a command.
    Command(usize, Instant, String),
    /// It holds an answer with another schedule set.
    Schedules(Instant),
    Failed(String),
}

/// What one agent has.
struct Memory {
    instance: String,
    stream: String,
    /// Of its last acknowledged event.
    event_seq: u64,
    cursor: String,
    schedule: (u64, String),
    config: (u64, String),
}

pub(crate) struct Agent {
    pub(crate) index: usize,
    pub(crate) host: String,
    credential: String,
    memory: Mutex<Memory>,
}

/// The name of the host with this number.
pub(crate) fn host_name(index: usize) -> String {
    format!("h{index:05}")
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// A UUID (version 4 in form) that is the same for the same text.
pub(crate) fn uuid_of(text: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(text)[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

impl Agent {
    /// `seed` tells this fleet from others; credentials follow from it, so that a later process finds them again.
    fn new(index: usize, seed: &str) -> Self {
        let host = host_name(index);
        let key = data_encoding::BASE64URL_NOPAD.encode(&digest(&format!("{seed} {host}")));
        let memory = Memory {
            instance: uuid_of(&format!("{seed} instance {host}")),
            stream: uuid_of(&format!("{seed} stream {host}")),
            event_seq: 0,
            cursor: String::new(),
            schedule: (0, String::new()),
            config: (0, String::new()),
        };
        Self { index, host, credential: format!("rma_{key}"), memory: Mutex::new(memory) }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enroll(&self, connection: &mut Connection, admin: &str) -> Outcome<()> {
        let body = json!({"host": self.host, "ttl": "20s"}).to_string();
        let made = connection.ask_json(&request("POST", "/v1/enrollment-tokens", admin, &body)).await?;
        let body = json!({
            "token": made["token"], "enrollment_id": uuid_of(&self.credential), "host": self.host,
            "credential_sha256": data_encoding::HEXLOWER.encode(&digest(&self.credential)),
        });
        connection.ask_json(&request("POST", "/v1/enroll", "", &body.to_string())).await.map(drop)
    }

    async fn hello(&self, connection: &mut Connection) -> Outcome<()> {
        let bytes = {
            let memory = self.memory();
            let body = json!({
                "protocol_version": 1, "agent_version": "0.1.0", "restic_version": "0.18.0", "hostname": self.host,
                "os": "linux", "arch": "amd64", "instance_id": memory.instance, "stream": memory.stream,
                "running_jobs": [],
            });
            request("POST", &format!("/v1/agents/{}/hello", self.host), &self.credential, &body.to_string())
        };
        let answer = connection.ask_json(&bytes).await?;
        let mut memory = self.memory();
        memory.event_seq = answer["acked"][&memory.stream].as_u64().unwrap_or_default();
        Ok(())
    }

    fn poll(&self, wait: u64) -> Vec<u8> {
        let memory = self.memory();
        let mut path = format!("/v1/agents/{}/commands?instance={}&wait={wait}", self.host, memory.instance);
        if !memory.cursor.is_empty() {
            path.push_str(&format!("&after={}", memory.cursor));
        }
        for (what, (version, hash)) in [("schedule", &memory.schedule), ("config", &memory.config)] {
            if *version > 0 {
                path.push_str(&format!("&{what}_version={version}&{what}_hash={hash}"));
            }
        }
        drop(memory);
        request("GET", &path, &self.credential, "")
    }

    /// Takes a poll's answer in: the events to post, the job of a command, whether there were schedules.
    fn take(&self, answer: &Value) -> (Vec<(&'static str, Value)>, Option<String>, bool) {
        let now = restic_manager::clock::now();
        let (mut events, mut job, mut schedules) = (Vec::new(), None, false);
        let mut memory = self.memory();
        for message in answer["messages"].as_array().into_iter().flatten() {
            let payload = &message["payload"];
            let version = payload["version"].as_u64().unwrap_or_default();
            let hash = payload["hash"].as_str().unwrap_or_default().to_owned();
            let acknowledgement = json!({"version": version, "applied_at": now});
            match message["type"].as_str() {
                Some("config.update") => {
                    memory.config = (version, hash);
                    events.push(("config.ack", acknowledgement));
                }
                Some("schedule.set") => {
                    memory.schedule = (version, hash);
                    schedules = true;
                    events.push(("schedule.ack", acknowledgement));
                }
                Some("command.run") => {
                    let (id, kind) = (&payload["job_id"], &payload["kind"]);
                    job = id.as_str().map(str::to_owned);
                    events.push(("command.result", json!({"job_id": id, "accepted": true})));
                    events.push(("job.started", json!({"job_id": id, "kind": kind, "started_at": now})));
                    let finished = json!({"job_id": id, "status": "succeeded", "exit_code": 0, "finished_at": now});
                    events.push(("job.finished", finished));
                }
                _ => {}
            }
        }
        if let Some(cursor) = answer["cursor"].as_str() {
            cursor.clone_into(&mut memory.cursor);
        }
        (events, job, schedules)
    }

    /// Posts events in one request; they have their numbers from the acknowledgement on.
    pub(crate) async fn post(&self, connection: &mut Connection, events: &[(&str, Value)]) -> Outcome<()> {
        if events.is_empty() {
            return Ok(());
        }
        let (bytes, last) = {
            let memory = self.memory();
            let ts = restic_manager::clock::now();
            let lines = events.iter().zip(memory.event_seq + 1..).map(|((kind, payload), seq)| {
                format!("{}\n", json!({"seq": seq, "ts": ts, "type": kind, "payload": payload}))
            });
            let (stream, instance) = (&memory.stream, &memory.instance);
            let path = format!("/v1/agents/{}/events?stream={stream}&instance={instance}", self.host);
            let body: String = lines.collect();
            (request("POST", &path, &self.credential, &body), memory.event_seq + events.len() as u64)
        };
        let answer = connection.ask_json(&bytes).await?;
        if answer["acked"] != last {
            return Err(format!("{} acknowledged up to {}, not up to {last}", self.host, answer["acked"]));
        }
        self.memory().event_seq = last;
        Ok(())
    }

    /// Polls without waiting until there is nothing new.
    async fn catch_up(&self, connection: &mut Connection) -> Outcome<()> {
        for _ in 0..5 {
            let answer = connection.ask_json(&self.poll(0)).await?;
            let (events, ..) = self.take(&answer);
            if events.is_empty() {
                return Ok(());
            }
            self.post(connection, &events).await?;
        }
        Err(format!("{} is given news without end", self.host))
    }

    /// Polls for ever. Returns when the server ends the connection in good order.
    async fn live(&self, mut connection: Connection, told: &mpsc::UnboundedSender<Happening>) -> Outcome<()> {
        loop {
            connection.send(&self.poll(300)).await.map_err(|error| error.to_string())?;
            let _ = told.send(Happening::Parked);
            let answer = connection.answer().await.map_err(|error| error.to_string())?;
            let at = Instant::now();
            if answer.status != 200 {
                return Err(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
            }
            let (events, job, schedules) = self.take(&answer.json()?);
            if let Some(job) = job {
                let _ = told.send(Happening::Command(self.index, at, job));
            }
            if schedules {
                let _ = told.send(Happening::Schedules(at));
            }
            if answer.closes {
                return Ok(());
            }
            self.post(&mut connection, &events).await?;
        }
    }
}

/// All agents of this process.
pub(crate) struct Agents {
    pub(crate) target: Target,
    pub(crate) admin: String,
    pub(crate) all: Vec<Arc<Agent>>,
    parked: Vec<JoinHandle<()>>,
    told: mpsc::UnboundedSender<Happening>,
    happenings: mpsc::UnboundedReceiver<Happening>,
}

/// Nothing that agents are waited for takes longer, or something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

impl Agents {
    pub(crate) fn new(target: Target, admin: &str, first: usize, count: usize, seed: &str) -> Self {
        let (told, happenings) = mpsc::unbounded_channel();
        let all = (first..first + count).map(|index| Arc::new(Agent::new(index, seed))).collect();
        Self { target, admin: admin.to_owned(), all, parked: Vec::new(), told, happenings }
    }

    /// Does something with every agent, each on a connection of its own that is closed afterwards; so many at once.
    async fn each<F>(&self, at_once: usize, work: impl Fn(Arc<Agent>, Connection) -> F) -> Outcome<()>
    where
        F: Future<Output = Outcome<()>> + Send + 'static,
    {
        let permits = Arc::new(Semaphore::new(at_once.max(1)));
        let mut tasks = JoinSet::new();
        for agent in &self.all {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(|error| error.to_string())?;
            let connection = self.target.connect().await.map_err(|error| format!("connect: {error}"))?;
            let task = work(Arc::clone(agent), connection);
            tasks.spawn(async move {
                let _permit = permit;
                task.await
            });
            while let Some(ended) = tasks.try_join_next() {
                ended.map_err(|error| error.to_string())??;
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    pub(crate) async fn enroll(&self, at_once: usize) -> Outcome<()> {
        let admin = self.admin.clone();
        self.each(at_once, |agent, mut connection| {
            let admin = admin.clone();
            async move { agent.enroll(&mut connection, &admin).await }
        })
        .await
    }

    /// Hello, and everything that there is to be had.
    pub(crate) async fn hello(&self, at_once: usize) -> Outcome<()> {
        self.each(at_once, |agent, mut connection| async move {
            agent.hello(&mut connection).await?;
            agent.catch_up(&mut connection).await
        })
        .await
    }

    /// Every agent connects and parks a poll; with `greet` it says hello first, as after an outage. Returns when the last poll
    /// is written.
    pub(crate) async fn park(&mut self, at_once: usize, greet: bool) -> Outcome<()> {
        while self.happenings.try_recv().is_ok() {}
        let permits = Arc::new(Semaphore::new(at_once.max(1)));
        for agent in &self.all {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(|error| error.to_string())?;
            let (agent, target, told) = (Arc::clone(agent), self.target.clone(), self.told.clone());
            self.parked.push(tokio::spawn(async move {
                let opening = async {
                    let mut connection = target.connect().await.map_err(|error| format!("connect: {error}"))?;
                    if greet {
                        agent.hello(&mut connection).await?;
                    }
                    Ok::<_, String>(connection)
                };
                let opened = opening.await;
                drop(permit);
                let lived = match opened {
                    Ok(connection) => agent.live(connection, &told).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = lived {
                    let _ = told.send(Happening::Failed(format!("{}: {error}", agent.host)));
                }
            }));
        }
        let mut parked = 0;
        while parked < self.all.len() {
            if matches!(self.next().await?, Happening::Parked) {
                parked += 1;
            }
        }
        Ok(())
    }

    /// The next thing that an agent tells; its failure is an error.
    pub(crate) async fn next(&mut self) -> Outcome<Happening> {
        match tokio::time::timeout(PATIENCE, self.happenings.recv()).await {
            Ok(Some(Happening::Failed(error))) => Err(error),
            Ok(Some(happening)) => Ok(happening),
            Ok(None) | Err(_) => Err(format!("no agent told anything for {} s", PATIENCE.as_secs())),
        }
    }

    /// Closes all connections.
    pub(crate) async fn close(&mut self) {
        for task in self.parked.drain(..) {
            task.abort();
            let _ = task.await;
        }
        while self.happenings.try_recv().is_ok() {}
    }
}
