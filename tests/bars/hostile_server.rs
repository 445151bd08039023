//! A server that an agent had better not have: it speaks the protocol well enough to be obeyed, hands out whatever messages a
//! test wants, or raw bytes instead of an answer, and keeps what the agent says. With it a scratch directory for its agent.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::{Value, json};

use crate::harness::{AGENT, Process, eventually, text};

const EPOCH: &str = "0190b5a2-7c1e-4c3a-9f00-0123456789ab";

/// What a request gets instead of the protocol's answer.
pub(crate) enum Raw {
    /// These bytes, and the connection ends.
    Bytes(Vec<u8>),
    /// These bytes, and then more of the second without an end.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, and silence.
    Silence(Vec<u8>),
}

#[derive(Default)]
pub(crate) struct State {
    /// Messages as JSON, one batch a poll.
    pub(crate) batches: VecDeque<Vec<String>>,
    /// By the last part of the path: "hello", "commands", "events", "log".
    pub(crate) raw: BTreeMap<&'static str, VecDeque<Raw>>,
    cursor: u64,
    /// By stream.
    acked: BTreeMap<String, u64>,
    pub(crate) events: Vec<Value>,
    pub(crate) streams: Vec<String>,
    pub(crate) polls: u64,
    pub(crate) hellos: u64,
    /// The last poll's query.
    pub(crate) question: String,
}

pub(crate) struct HostileServer {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl HostileServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("it can wait elsewhere");
        let port = listener.local_addr().expect("an address").port();
        let (state, stop) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let server = Self { port, state: Arc::clone(&state), stop: Arc::clone(&stop) };
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
                stream.set_nonblocking(false).expect("blocking");
                std::thread::spawn(move || serve(&stream, &state, &stop));
            }
        });
        server
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no other test's panic")
    }

    /// One poll's answer.
    pub(crate) fn send(&self, messages: impl IntoIterator<Item = String>) {
        self.state().batches.push_back(messages.into_iter().collect());
    }

    /// What the next request to this endpoint gets.
    pub(crate) fn answer_with(&self, endpoint: &'static str, raw: Raw) {
        self.state().raw.entry(endpoint).or_default().push_back(raw);
    }

    /// What the agent said about a job, in order: `(type, payload)`.
    pub(crate) fn said_of(&self, id: &str) -> Vec<(String, Value)> {
        let state = self.state();
        let of_job = state.events.iter().filter(|event| event["payload"]["job_id"] == id);
        of_job.map(|event| (event["type"].as_str().unwrap_or_default().to_owned(), event["payload"].clone())).collect()
    }

    /// How each job ended that has: "rejected", or its status.
    pub(crate) fn ends(&self) -> BTreeMap<String, String> {
        let mut ends = BTreeMap::new();
        for event in &self.state().events {
            let payload = &event["payload"];
            let end = match event["type"].as_str() {
                Some("command.result") if payload["accepted"] == false => "rejected",
                Some("job.finished") => payload["status"].as_str().unwrap_or_default(),
                _ => continue,
            };
            ends.insert(payload["job_id"].as_str().unwrap_or_default().to_owned(), end.to_owned());
        }
        ends
    }

    /// Waits until the agent has polled once more from its beginning to its end.
    pub(crate) fn await_polls(&self, deadline: Duration) {
        let before = self.state().polls;
        eventually("the agent polls on", deadline, || (self.state().polls > before + 1).then_some(()));
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// One connection to its end.
fn serve(stream: &TcpStream, state: &Mutex<State>, stop: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    while !stop.load(Ordering::SeqCst) {
        let Some((path, body)) = request(&mut reader) else { return };
        let plain = path.split('?').next().unwrap_or_default();
        let endpoint = plain.rsplit('/').next().unwrap_or_default();
        let raw = state.lock().expect("a state").raw.get_mut(endpoint).and_then(VecDeque::pop_front);
        let mut writer = stream;
        match raw {
            None => {}
            Some(Raw::Bytes(bytes)) => {
                let _ = writer.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Some(Raw::Endless(head, more)) => {
                let mut sent = writer.write_all(&head);
                while sent.is_ok() && !stop.load(Ordering::SeqCst) {
                    sent = writer.write_all(&more);
                }
                return;
            }
            Some(Raw::Silence(bytes)) => {
                let _ = writer.write_all(&bytes);
                while !stop.load(Ordering::SeqCst) && writer.write(&[]).is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                return;
            }
        }
        let answer = match endpoint {
            "commands" => poll(state, &path, stop),
            _ => post(state, endpoint, &path, &body),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(answer.as_bytes())).is_err() {
            return;
        }
    }
}

fn request(reader: &mut BufReader<&TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 2)?;
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        if reader.buffer().starts_with(b"\r\n") {
            break;
        }
    }
    reader.consume(2);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, body))
}

fn poll(state: &Mutex<State>, path: &str, stop: &AtomicBool) -> String {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let mut state = state.lock().expect("a state");
        path.split_once('?').unwrap_or_default().1.clone_into(&mut state.question);
        let batch = state.batches.pop_front();
        if batch.is_none() && Instant::now() < until && !stop.load(Ordering::SeqCst) {
            drop(state);
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        state.polls += 1;
        state.cursor += u64::from(batch.is_some());
        return poll_answer(state.cursor, &batch.unwrap_or_default());
    }
}

/// A poll's answer with these messages.
pub(crate) fn poll_answer(cursor: u64, messages: &[String]) -> String {
    let (now, messages) = (Utc::now().to_rfc3339(), messages.join(","));
    format!(r#"{{"epoch":"{EPOCH}","cursor":"c{cursor}","server_time":"{now}","messages":[{messages}]}}"#)
}

fn post(state: &Mutex<State>, endpoint: &str, path: &str, body: &[u8]) -> String {
    let mut state = state.lock().expect("a state");
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).expect("an agent's JSON")).collect();
    match endpoint {
        "hello" => {
            state.hellos += 1;
            let now = Utc::now();
            json!({"server_time": now, "protocol_version": 1, "host": "web-1", "epoch": EPOCH, "acked": state.acked, "poll_wait": 5})
                .to_string()
        }
        "events" => {
            let stream =
                path.split(['?', '&']).find_map(|part| part.strip_prefix("stream=")).expect("a stream").to_owned();
            if !state.acked.contains_key(&stream) {
                state.streams.push(stream.clone());
            }
            let mut acked = state.acked.get(&stream).copied().unwrap_or(0);
            for line in lines.into_iter().filter(|line| line["seq"].as_u64() > Some(acked)).collect::<Vec<_>>() {
                acked += 1;
                assert_eq!(line["seq"], acked, "contiguous: {line}");
                state.events.push(line);
            }
            state.acked.insert(stream, acked);
            json!({"acked": acked}).to_string()
        }
        _ => json!({"acked": lines.last().map_or(json!(0), |line| line["seq"].clone())}).to_string(),
    }
}

/// A message of a poll's answer; the payload is any text that may stand there.
pub(crate) fn message(kind: &str, payload: &str) -> String {
    let kind = Value::from(kind);
    format!(r#"{{"ts":"2026-11-25T00:00:00Z","type":{kind},"payload":{payload}}}"#)
}

/// A hostile server, and an agent's directory with a policy.
pub(crate) struct Station {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: HostileServer,
    pub(crate) agent: Option<Process>,
}

impl Station {
    /// `policy` is agent.toml's, with DIR for the scratch directory, in which `data`, `restore`, `repo` and `outside` are, and links
    /// from the first two into the last. `restic` is in it too.
    pub(crate) fn new(policy: &str, restic: &str, offline_grace: &str) -> Self {
        let mut dir = tempfile::tempdir().expect("a temporary directory");
        dir.disable_cleanup(std::env::var_os("RESTIC_MANAGER_TEST_KEEP").is_some());
        let station = Self { dir, server: HostileServer::start(), agent: None };
        for sub in ["data", "restore", "repo", "outside", "records", "agent"] {
            fs::create_dir(station.path(sub)).expect("a directory");
        }
        fs::set_permissions(station.path("agent"), fs::Permissions::from_mode(0o700)).expect("chmod");
        fs::write(station.path("data/file"), "some text\n").expect("written");
        fs::write(station.path("outside/secret"), "a secret\n").expect("written");
        for root in ["data/link", "restore/link"] {
            std::os::unix::fs::symlink(station.path("outside"), station.path(root)).expect("a link");
        }
        let url = format!("http://127.0.0.1:{}", station.server.port);
        let identity =
            json!({"enrollment_id": uuid::Uuid::new_v4(), "credential": "rma_x", "host": "web-1", "server": url});
        fs::write(station.path("agent/identity.json"), identity.to_string()).expect("written");
        fs::set_permissions(station.path("agent/identity.json"), fs::Permissions::from_mode(0o600)).expect("chmod");
        let policy = policy.replace("DIR", text(station.dir.path()));
        let settings = format!(
            "server = {url:?}\nhost = \"web-1\"\nrestic = {restic:?}\noffline_grace = {offline_grace:?}\n[policy]\n{policy}\n"
        );
        fs::write(station.path("agent/agent.toml"), settings.replace("DIR", text(station.dir.path())))
            .expect("written");
        station
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn start_agent(&mut self) {
        let dir = self.path("agent");
        let log = self.path("agent.log");
        self.agent = Some(Process::start(AGENT, &["run", "--dir", text(&dir)], &log, &[("RUST_LOG", "info")]));
        eventually("the agent polls", Duration::from_secs(30), || (self.server.state().polls > 0).then_some(()));
    }

    /// The most memory that the agent ever had, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let id = self.agent.as_ref().expect("an agent").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// The settings and schedules that the agent has, as they lie on its disk, and its identity.
    pub(crate) fn kept(&self) -> Vec<Option<String>> {
        ["settings.json", "schedules.json", "identity.json", "agent.toml"]
            .map(|file| fs::read_to_string(self.path("agent").join(file)).ok())
            .to_vec()
    }
}
