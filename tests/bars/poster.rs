//! Agents that only post, over one connection each: fire, acceptance, start and end of one job after another. What event N of a
//! host says follows from N alone, so whoever knows what was acknowledged knows every byte of it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta};
use serde_json::{Value, json};
use sha2::Digest;
use uuid::Uuid;

use crate::checker::lines_that_count;

/// Events of one job: fire, acceptance, start, end.
const EVENTS_OF_A_JOB: u64 = 4;

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// With TLS or without.
pub(crate) trait Stream: Read + Write + Send + Sync {}
impl<T: Read + Write + Send + Sync> Stream for T {}

/// A connection that is kept.
pub(crate) struct Connection(BufReader<Box<dyn Stream>>);

impl Connection {
    pub(crate) fn new(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self::over(stream))
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self(BufReader::new(Box::new(stream)))
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, bearer: &str, body: &str) -> io::Result<Reply> {
        self.ask_with(method, path, bearer, &[], body)
    }

    /// With more headers.
    fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        bearer: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Reply> {
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n{more}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?.split(' ').nth(1).and_then(|code| code.parse().ok());
        let (mut length, mut content_type) = (0, String::new());
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "content-type" => value.trim().clone_into(&mut content_type),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Reply { status, content_type, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(port: u16, method: &str, path: &str, bearer: &str, body: &str) -> io::Result<Reply> {
    Connection::new(port)?.ask(method, path, bearer, body)
}

/// The same with more headers.
pub(crate) fn ask_with(
    port: u16,
    method: &str,
    path: &str,
    bearer: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Reply> {
    Connection::new(port)?.ask_with(method, path, bearer, headers, body)
}

pub(crate) struct Poster {
    pub(crate) host: String,
    pub(crate) credential: String,
    pub(crate) instance: Uuid,
    stream: Uuid,
    port: u16,
    connection: Option<Connection>,
    /// What the server has said is durable. Read by others while the poster works.
    pub(crate) acked: Arc<AtomicU64>,
    /// The last event that was ever sent.
    sent: u64,
    /// Whether lines of its first job's log are posted too, and how many the server has said are durable.
    pub(crate) with_log: bool,
    logged: u64,
    /// What the server did that it never may.
    pub(crate) findings: Vec<String>,
    /// Refusals by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    pub(crate) last_refusal: Option<Reply>,
    refused_since: Option<Instant>,
    /// From a refusal to the next acknowledgement.
    pub(crate) longest_refusal: Duration,
}

impl Poster {
    /// Lets the host in.
    pub(crate) fn enroll(port: u16, admin: &str, host: &str) -> Self {
        let credential = format!("rma_{}", host.repeat(43).split_at(43).0);
        let token = ask(port, "POST", "/v1/enrollment-tokens", admin, &json!({"host": host}).to_string());
        let token = token.expect("an answer").json()["token"].clone();
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(credential.as_bytes()));
        let body = json!({"token": token, "enrollment_id": Uuid::new_v4(), "host": host, "credential_sha256": sha256});
        let reply = ask(port, "POST", "/v1/enroll", "", &body.to_string()).expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.body);
        Self {
            host: host.to_owned(),
            credential,
            instance: Uuid::new_v4(),
            stream: Uuid::new_v4(),
            port,
            connection: None,
            acked: Arc::default(),
            sent: 0,
            with_log: false,
            logged: 0,
            findings: Vec::new(),
            refused: BTreeMap::new(),
            last_refusal: None,
            refused_since: None,
            longest_refusal: Duration::ZERO,
        }
    }

    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// The id of a job: that of its due time, as the protocol fixes it.
    pub(crate) fn job_id(&self, number: u64) -> Uuid {
        let name = format!("restic-manager:{}/data@{}", self.host, due(number));
        Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
    }

    /// What event `seq` says.
    fn payload(&self, seq: u64) -> (&'static str, Value) {
        let number = (seq - 1) / EVENTS_OF_A_JOB;
        let (id, at) = (self.job_id(number), due(number));
        match (seq - 1) % EVENTS_OF_A_JOB {
            0 => (
                "schedule.fire",
                json!({"schedule_id": "data", "scheduled_at": at, "fired_at": at, "job_id": id, "mark": seq}),
            ),
            1 => ("command.result", json!({"job_id": id, "accepted": true, "mark": seq})),
            2 => ("job.started", json!({"job_id": id, "kind": "backup", "started_at": at, "mark": seq})),
            _ => (
                "job.finished",
                json!({"job_id": id, "status": "succeeded", "exit_code": 0, "finished_at": at, "last_log_seq": 0, "mark": seq}),
            ),
        }
    }

    /// Posts until told to stop, and then until its job has ended.
    pub(crate) fn post_until(&mut self, stop: &AtomicBool) {
        let mut batch = 1;
        while !stop.load(Ordering::SeqCst) {
            batch = batch % 3 + 1;
            self.step(batch);
        }
    }

    /// The server is another one now, which may know no more than the first `count` events.
    pub(crate) fn begin_anew_from(&mut self, count: u64) {
        self.connection = None;
        self.acked.store(count, Ordering::SeqCst);
    }

    /// Asks the server how far it is: that too is an acknowledgement.
    pub(crate) fn greet(&mut self) {
        self.connection = Some(self.hello().expect("an answer to hello"));
    }

    /// Ends its job and brings one more.
    pub(crate) fn post_one_job(&mut self) {
        self.end_the_job();
        self.step(1);
        self.end_the_job();
    }

    /// Ends the job that it is in the middle of.
    pub(crate) fn end_the_job(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        // What was refused last may be in the journal all the same, until the next batch.
        let unsettled = |poster: &Self| poster.connection.is_none() || poster.refused_since.is_some();
        while unsettled(self) || !self.acked().is_multiple_of(EVENTS_OF_A_JOB) {
            self.step(1);
            assert!(Instant::now() < until, "{}: its job does not end: {:?}", self.host, self.refused);
        }
    }

    fn step(&mut self, batch: u64) {
        if self.post(batch).and_then(|()| self.post_log(batch)).is_err() {
            self.connection = None;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn post(&mut self, batch: u64) -> io::Result<()> {
        if self.connection.is_none() {
            let connection = self.hello()?;
            self.connection = Some(connection);
        }
        let first = self.acked() + 1;
        let events: String = (first..first + batch)
            .map(|seq| {
                let (kind, payload) = self.payload(seq);
                json!({"seq": seq, "ts": "2026-11-23T00:00:00Z", "type": kind, "payload": payload}).to_string() + "\n"
            })
            .collect();
        self.sent = self.sent.max(first + batch - 1);
        let path = format!("/v1/agents/{}/events?stream={}&instance={}", self.host, self.stream, self.instance);
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let reply = connection.ask("POST", &path, &self.credential, &events)?;
        if reply.status == 200 {
            let acked = reply.json()["acked"].as_u64().unwrap_or(0);
            if acked != first + batch - 1 {
                self.findings.push(format!("{}: acked {acked} and not {}", self.host, first + batch - 1));
            }
            self.acked.store(acked, Ordering::SeqCst);
            self.taken();
        } else {
            self.refusal(reply);
        }
        Ok(())
    }

    fn post_log(&mut self, count: u64) -> io::Result<()> {
        if !self.with_log || self.acked() == 0 {
            return Ok(());
        }
        let job = self.job_id(0);
        let lines: String = (self.logged + 1..=self.logged + count).map(|seq| log_line(job, seq) + "\n").collect();
        let path = format!("/v1/agents/{}/jobs/{job}/log", self.host);
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let reply = connection.ask("POST", &path, &self.credential, &lines)?;
        if reply.status == 200 {
            let acked = reply.json()["acked"].as_u64().unwrap_or(0);
            let sent = self.logged + count;
            // After an answer that was lost it has more.
            if acked < sent {
                self.findings.push(format!("{}: log lines acked to {acked} and not {sent}", self.host));
            }
            self.logged = acked;
        } else {
            self.refusal(reply);
        }
        Ok(())
    }

    fn taken(&mut self) {
        if let Some(since) = self.refused_since.take() {
            self.longest_refusal = self.longest_refusal.max(since.elapsed());
        }
    }

    fn refusal(&mut self, reply: Reply) {
        if !matches!(reply.status, 503 | 507) || reply.content_type != "application/problem+json" {
            self.findings.push(format!("{}: {} {}", self.host, reply.status, reply.body));
        }
        *self.refused.entry(reply.status).or_default() += 1;
        self.last_refusal = Some(reply);
        self.refused_since.get_or_insert_with(Instant::now);
        std::thread::sleep(Duration::from_millis(20));
    }

    /// How far the server says it is; less than it has acknowledged is a loss.
    fn hello(&mut self) -> io::Result<Connection> {
        let mut connection = Connection::new(self.port)?;
        // Every job whose end may not be there, or the server takes it for lost.
        let jobs = (self.acked() / EVENTS_OF_A_JOB).saturating_sub(1)..=self.sent / EVENTS_OF_A_JOB;
        let running: Vec<Uuid> = jobs.map(|number| self.job_id(number)).collect();
        let hello = json!({"protocol_version": 1, "agent_version": "0", "hostname": "h", "os": "linux", "arch": "amd64", "instance_id": self.instance, "stream": self.stream, "running_jobs": running});
        let path = format!("/v1/agents/{}/hello", self.host);
        let reply = connection.ask("POST", &path, &self.credential, &hello.to_string())?;
        if reply.status != 200 {
            self.refusal(reply);
            return Err(io::ErrorKind::Other.into());
        }
        let theirs = reply.json()["acked"][self.stream.to_string()].as_u64().unwrap_or(0);
        if theirs < self.acked() {
            self.findings.push(format!("{}: {} were acknowledged, and it says {theirs}", self.host, self.acked()));
        }
        self.acked.store(theirs, Ordering::SeqCst);
        Ok(connection)
    }

    /// Which of the first `count` events are not in the host's journal once, as they were sent.
    pub(crate) fn missing(&self, state: &Path, count: u64) -> Vec<String> {
        let stream = self.stream.to_string();
        let mut there: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for line in lines_that_count(&state.join("hosts").join(&self.host).join("journal")) {
            // Damage is not there; the checker speaks of it.
            let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
            if let (Some(seq), true) = (line["stream_seq"].as_u64(), line["stream"] == stream.as_str()) {
                there.entry(seq).or_default().push(json!([line["type"], line["payload"]]));
            }
        }
        let mut findings = Vec::new();
        for seq in 1..=count {
            let (kind, payload) = self.payload(seq);
            match there.get(&seq).map(Vec::as_slice) {
                Some([one]) if *one == json!([kind, payload]) => {}
                Some([one]) => findings.push(format!("{}: event {seq} is {one}", self.host)),
                Some(several) => findings.push(format!("{}: event {seq} is there {} times", self.host, several.len())),
                None => findings.push(format!("{}: event {seq} is lost", self.host)),
            }
        }
        let log = state.join("hosts").join(&self.host).join("logs").join(format!("{}.jsonl", self.job_id(0)));
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let lines = (1..=self.logged).map(|seq| log_line(self.job_id(0), seq));
        for (expected, line) in lines.zip(log.lines().chain(std::iter::repeat(""))) {
            if serde_json::from_str::<Value>(line).ok() != serde_json::from_str(&expected).ok() {
                findings.push(format!("{}: the log has {line:?} where {expected} was acknowledged", self.host));
            }
        }
        findings
    }
}

/// A line of a job's log, as it is posted.
fn log_line(job: Uuid, seq: u64) -> String {
    let at = "2026-11-23T00:00:00Z";
    let words = format!("line {seq}");
    let payload = json!({"job_id": job, "seq": seq, "ts": at, "stream": "stdout", "payload": words});
    json!({"seq": seq, "ts": at, "type": "log.stream", "payload": payload}).to_string()
}

/// A due time per job, a minute apart.
fn due(number: u64) -> String {
    let minutes = TimeDelta::minutes(i64::try_from(number).expect("small"));
    let first = DateTime::from_timestamp(1_600_000_020, 0).expect("an instant");
    (first + minutes).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Tells to stop, also when a test fails.
pub(crate) struct StopAtLast<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does something while all of them post.
pub(crate) fn while_posting<R>(posters: &mut [Poster], act: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let at_last = StopAtLast(&stop);
        for poster in posters {
            let stop = &stop;
            scope.spawn(move || poster.post_until(stop));
        }
        let result = act();
        drop(at_last);
        result
    })
}
