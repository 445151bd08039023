//! A hostile agent against the real server. It has a credential, and sends everything that an agent can: events and log lines out of
//! place, of other hosts' jobs, at the ends of numbers and of time, deep, large, not UTF-8, with terminals' escapes. No answer is
//! a server's failure, the server goes on, reads its own files after a restart as before, and the other host has noticed nothing.

use std::fs;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::bad_input::{INSTANCE, STREAM, enrolled_with_curl, hello};
use crate::checker::{checked_line, lines_that_count};
use crate::harness::{Fleet, text};
use crate::hostile_payloads::{ODD, hellos, logs, payloads, polls};

pub(crate) const AT: &str = "2026-11-25T00:00:00Z";
/// The agent of one host, as a program of somebody's who has its credential.
pub(crate) struct HostileAgent<'a> {
    fleet: &'a Fleet,
    bearer: String,
    stream: String,
    pub(crate) seq: u64,
    refused: usize,
    sent: usize,
}

impl HostileAgent<'_> {
    /// One request; nothing but the documented answers may come.
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        let file = self.fleet.path("hostile-body");
        fs::write(&file, body).expect("written");
        let body = format!("@{}", text(&file));
        self.ask(&["-H", "Content-Type: application/x-ndjson", "--data-binary", &body, path])
    }

    pub(crate) fn ask(&mut self, arguments: &[&str]) -> (u16, Value) {
        let answer = self.fleet.ask(&self.bearer, arguments).expect("the server answers");
        self.sent += 1;
        assert!(
            answer.code < 500 || matches!(answer.code, 503 | 507),
            "{arguments:?}: {} {}",
            answer.code,
            answer.body
        );
        assert!(!answer.body.contains(|c: char| c < ' ' && c != '\n'), "{arguments:?}: {:?}", answer.body);
        if answer.code >= 400 {
            self.refused += 1;
            assert_eq!(answer.content_type, "application/problem+json", "{arguments:?}");
        }
        (answer.code, answer.json())
    }

    pub(crate) fn events(&self) -> String {
        format!("/v1/agents/web-1/events?stream={}&instance={INSTANCE}", self.stream)
    }

    /// One event that is next in the stream; the next one follows it if it was taken.
    pub(crate) fn tell(&mut self, kind: &str, payload: &Value) -> u16 {
        self.tell_at(AT, kind, &payload.to_string())
    }

    pub(crate) fn tell_at(&mut self, ts: &str, kind: &str, payload: &str) -> u16 {
        let line =
            format!(r#"{{"seq":{},"ts":{},"type":{},"payload":{payload}}}"#, self.seq + 1, json!(ts), json!(kind));
        let (code, answer) = self.post(&self.events(), format!("{line}\n").as_bytes());
        if code == 200 {
            self.seq += 1;
            assert_eq!(answer["acked"], self.seq);
        }
        code
    }
}

pub(crate) fn id(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

#[test]
fn a_hostile_agent_harms_neither_the_server_nor_another_host() {
    let mut fleet = Fleet::new();
    fleet.write("config/hosts/web-2.toml", &fleet.read("config/hosts/web-1.toml"));
    fleet.write("secrets/web-2", "another-password");
    fleet.start_server();
    let bearer = enrolled_with_curl(&fleet, "web-1");
    let other = enrolled_with_curl(&fleet, "web-2");
    // What web-2 has: a job that ended and one that waits.
    let jobs = [0, 1].map(|_| {
        let job = fleet.post("/v1/hosts/web-2/jobs", r#"{"schedule_id":"data"}"#);
        job["id"].as_str().expect("an id").to_owned()
    });
    let as_web_2 = |path: &str, body: &str| fleet.curl_as(&other, &["-d", body, path]).expect("an answer");
    let (second_instance, second_stream) = (id(21), id(22));
    assert_eq!(as_web_2("/v1/agents/web-2/hello", &hello(&second_instance, &second_stream).to_string()).0, 200);
    let events = format!("/v1/agents/web-2/events?stream={second_stream}&instance={second_instance}");
    let end = json!({"job_id": jobs[0], "status": "succeeded", "exit_code": 0, "finished_at": AT, "last_log_seq": 0});
    let line = |seq: u64, kind: &str, payload: &Value| {
        json!({"seq": seq, "ts": AT, "type": kind, "payload": payload}).to_string()
    };
    assert_eq!(as_web_2(&events, &line(1, "job.finished", &end)).0, 200);
    let of_web_2 = |fleet: &Fleet| {
        let mut host = fleet.get("/v1/hosts/web-2");
        for volatile in ["online", "last_seen"] {
            host.as_object_mut().expect("a host").remove(volatile);
        }
        (host, fleet.get("/v1/hosts/web-2/jobs"), jobs.clone().map(|job| fleet.get(&format!("/v1/jobs/{job}"))))
    };
    let journal_of_web_2 = |fleet: &Fleet| lines_that_count(&fleet.path("state/hosts/web-2/journal"));
    let before = (of_web_2(&fleet), journal_of_web_2(&fleet));

    let mut agent = HostileAgent { fleet: &fleet, bearer, stream: STREAM.to_owned(), seq: 0, refused: 0, sent: 0 };
    hellos(&mut agent);
    assert_eq!(agent.post("/v1/agents/web-1/hello", hello(INSTANCE, STREAM).to_string().as_bytes()).0, 200);
    sequences(&mut agent);
    others(&mut agent, &jobs);
    payloads(&mut agent);
    logs(&mut agent, &jobs);
    polls(&mut agent);
    let (sent, refused) = (agent.sent, agent.refused);
    assert!(refused > 60 && sent - refused > 60, "both are there: {refused} of {sent} refused");

    assert_eq!((of_web_2(&fleet), journal_of_web_2(&fleet)), before, "the other host has noticed nothing");
    assert_eq!(as_web_2(&events, &line(2, "schedule.ack", &json!({"version": 1, "applied_at": AT}))).0, 200);
    let log = fs::read(fleet.path("server.log")).expect("a log");
    assert!(!String::from_utf8_lossy(&log).contains("panicked"), "no thread has died");
    let is_raw = |byte: &u8| (*byte < 0x20 && *byte != b'\n' && *byte != b'\t') || *byte == 0x7f;
    // The server's own colours, if it has any, are not for a file.
    assert!(!log.iter().any(is_raw), "no control characters in the log");
    let views = |fleet: &Fleet| {
        let list = fleet.get("/v1/hosts/web-1/jobs?limit=1000");
        let ids: Vec<String> = list["jobs"]
            .as_array()
            .expect("jobs")
            .iter()
            .map(|job| job["id"].as_str().expect("an id").to_owned())
            .collect();
        let each: Vec<Value> = ids.iter().map(|id| fleet.get(&format!("/v1/jobs/{id}"))).collect();
        let logs: Vec<_> = ids.iter().map(|id| fleet.curl(&[&format!("/v1/jobs/{id}/log")])).collect();
        let mut host = fleet.get("/v1/hosts/web-1");
        for volatile in ["online", "last_seen", "clock_skew_ms"] {
            host.as_object_mut().expect("a host").remove(volatile);
        }
        (host, list, each, logs, fleet.curl(&["/v1/hosts/web-1/snapshots"]))
    };
    let seen = views(&fleet);
    let (code, all) = fleet.curl(&["/v1/events?wait=0&limit=10000"]).expect("an answer");
    assert!(
        code == 200 && all.lines().all(|line| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok()),
        "{code}"
    );
    assert_metrics_are_whole(&fleet);
    for (number, line) in (1..).zip(lines_that_count(&fleet.path("state/hosts/web-1/journal"))) {
        let line = String::from_utf8(line).expect("a line is UTF-8");
        assert_eq!(checked_seq(&line), number, "every line is whole: {line:.300}");
    }
    fleet.server = None;
    fleet.start_server();
    let after = views(&fleet);
    assert_eq!(seen, after, "the files say the same");
    assert_eq!(of_web_2(&fleet).1, before.0.1);
    eprintln!("{sent} requests, {refused} refused");
}

/// Whatever the agent said of itself, each line of the metrics is a comment or a sample of ours.
fn assert_metrics_are_whole(fleet: &Fleet) {
    let (code, text) = fleet.curl(&["/metrics"]).expect("an answer");
    assert_eq!(code, 200);
    for line in text.lines() {
        let is_ours = ["# HELP ", "# TYPE ", "restic_manager_", "process_"].iter().any(|start| line.starts_with(start));
        let figure = line.rsplit_once(' ').map(|(_, figure)| figure.parse::<f64>());
        assert!(is_ours && (line.starts_with('#') || matches!(figure, Some(Ok(_)))), "{line:?}");
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
    assert!(text.contains("restic_manager_host_online{host=\"web-1\"}"), "{text}");
}

/// The line's seq, its checksum verified where our JSON reader can read it at all: it does not follow deep nesting.
fn checked_seq(line: &str) -> u64 {
    if serde_json::from_str::<Value>(line).is_ok() {
        return checked_line(line)["seq"].as_u64().expect("a seq");
    }
    let at = line.rfind(",\"crc\":\"").expect("a checksum");
    assert_eq!(line[at..], format!(",\"crc\":\"{:08x}\"}}", crc32c::crc32c(&line.as_bytes()[..at])));
    line["{\"seq\":".len()..].split(',').next().and_then(|seq| seq.parse().ok()).expect("a seq")
}

/// Numbers out of place, and streams that are not its own.
fn sequences(agent: &mut HostileAgent<'_>) {
    let ack = |seq: &str| {
        format!(
            "{{\"seq\":{seq},\"ts\":\"{AT}\",\"type\":\"schedule.ack\",\"payload\":{{\"version\":1,\"applied_at\":\"{AT}\"}}}}\n"
        )
    };
    let events = agent.events();
    for seq in ["0", "2", "18446744073709551615", "18446744073709551616", "-1", "1.5", "1e3", "\"1\"", "null", "[]"] {
        let (code, answer) = agent.post(&events, ack(seq).as_bytes());
        assert!(code >= 400 || answer["acked"] == 0, "{seq}: {answer}");
    }
    agent.post(&events, (ack("1") + &ack("18446744073709551615")).as_bytes());
    agent.post(&events, (ack("1") + &ack("1") + &ack("3")).as_bytes());
    assert_eq!(agent.post(&events, &[ack("1").as_bytes(), b"\xff\xfe\n"].concat()).0, 400);
    for query in
        ["", "?stream=x&instance=y", "?stream=&instance=", "?stream=%00&instance=%ff", "?stream=../../x&instance=1"]
    {
        agent.post(&format!("/v1/agents/web-1/events{query}"), ack("1").as_bytes());
    }
    // Many streams: each is one of its own.
    for n in 100..120 {
        agent.post(&events.replace(STREAM, &id(n)), ack("1").as_bytes());
    }
    agent.stream = id(1);
    for path in [
        "/v1/agents/web-2/hello",
        "/v1/agents/web-2/commands?wait=0",
        "/v1/agents/..%2fweb-2/hello",
        "/v1/agents/web-2/events",
        "/v1/hosts",
    ] {
        assert!(agent.post(path, b"{}").0 >= 400, "{path}");
    }
}

/// What it says of the other host's jobs.
fn others(agent: &mut HostileAgent<'_>, jobs: &[String; 2]) {
    for job in jobs {
        agent.tell("command.result", &json!({"job_id": job, "accepted": false, "error": "not mine"}));
        agent.tell("job.started", &json!({"job_id": job, "kind": "prune", "started_at": AT}));
        agent.tell(
            "job.finished",
            &json!({"job_id": job, "kind": "prune", "status": "failed", "finished_at": AT, "error": "hijacked"}),
        );
        let line = json!({"seq": 1, "ts": AT, "type": "log.stream", "payload": {"job_id": job, "seq": 1, "ts": AT, "stream": "stdout", "payload": "x"}});
        assert_eq!(agent.post(&format!("/v1/agents/web-1/jobs/{job}/log"), line.to_string().as_bytes()).0, 404);
        agent.ask(&["-X", "POST", "-H", "Content-Type: application/json", &format!("/v1/jobs/{job}/cancel")]);
    }
    for kind in [
        "host.enrolled",
        "host.revoked",
        "job.queued",
        "job.abandoned",
        "schedule.versioned",
        "segment.opened",
        "hello",
        "",
        ODD,
    ] {
        agent.tell(kind, &json!({"job_id": jobs[1], "version": u64::MAX, "hash": "x", "previous": {"segment": "x", "bytes": u64::MAX}}));
    }
}
