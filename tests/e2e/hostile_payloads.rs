//! What a hostile agent says, at every end: of time, of numbers, of sizes, of nesting, and of what is text.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::bad_input::{INSTANCE, STREAM, hello};
use crate::hostile_agent::{AT, HostileAgent, id};

/// The ends of time, as far as they can be read, and times that are none.
const TIMES: [&str; 8] = [
    "+262142-12-31T23:59:59.999999999Z",
    "-262143-01-01T00:00:00Z",
    "9999-12-31T23:59:59+14:00",
    "0000-01-01T00:00:00-23:59",
    "2016-12-31T23:59:60.999999Z",
    "1969-12-31T23:59:59.5Z",
    "2026-02-30T00:00:00Z",
    "\u{1b}[2J",
];
/// What a terminal or a browser might obey.
pub(crate) const ODD: &str =
    "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\r\n\u{0}\u{202e}</script><script>alert(1)</script>\u{7f}";

fn deep(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}

pub(crate) fn hellos(agent: &mut HostileAgent<'_>) {
    let path = "/v1/agents/web-1/hello";
    let with = |field: &str, value: Value| {
        let mut hello = hello(INSTANCE, STREAM);
        hello[field] = value;
        hello.to_string()
    };
    for body in [
        with("hostname", json!(ODD)),
        with("hostname", json!("h".repeat(3 << 20))),
        with("agent_version", json!(ODD.repeat(1000))),
        with("timezone", json!("../../etc/passwd")),
        with("timezone", json!(ODD)),
        with("boot_time", json!(TIMES[0])),
        with("boot_time", json!(TIMES[1])),
        with("boot_time", json!(TIMES[7])),
        with("protocol_version", json!(u32::MAX)),
        with("protocol_version", json!(-1)),
        with("os", json!("amiga")),
        with("running_jobs", json!((0..100_000).map(id).collect::<Vec<_>>())),
        with("running_jobs", json!(["../x"])),
        with("ended_jobs", json!((0..100_000).map(id).collect::<Vec<_>>())),
        with("stream", json!(id(0))),
        with("instance_id", json!("x")),
        with("x", json!(0)).replacen("\"x\":0", &format!("\"x\":{}", deep(100_000)), 1),
        deep(100_000),
        "{".repeat(50_000),
        "null".to_owned(),
    ] {
        agent.post(path, body.as_bytes());
    }
    agent.post(path, &[&b"{\"hostname\":\"\xff\xfe"[..], &[0; 1000]].concat());
    for body in ["{\"credential_sha256\":\"../x\"}", "{\"credential_sha256\":5}", "[]", "\u{0}"] {
        agent.post("/v1/agents/web-1/credential", body.as_bytes());
        agent.post("/v1/agents/web-1/heartbeat", body.as_bytes());
        agent.post("/v1/enroll", body.as_bytes());
    }
    for time in TIMES {
        agent.post("/v1/agents/web-1/heartbeat", json!({"sent_at": time}).to_string().as_bytes());
    }
}

/// Payloads at every end.
pub(crate) fn payloads(agent: &mut HostileAgent<'_>) {
    for (n, time) in (1000..).zip(TIMES) {
        agent.tell_at(time, "schedule.ack", &json!({"version": 1, "applied_at": time}).to_string());
        agent.tell("job.started", &json!({"job_id": id(n), "kind": "backup", "started_at": time, "schedule_id": "data", "scheduled_at": time}));
        agent.tell("job.finished", &json!({"job_id": id(n), "kind": "backup", "status": "succeeded", "finished_at": time, "schedule_id": "data", "scheduled_at": time}));
        agent.tell(
            "schedule.fire",
            &json!({"schedule_id": "data", "scheduled_at": time, "fired_at": time, "job_id": id(n)}),
        );
        let name = format!("restic-manager:web-1/data@{time}");
        let job = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
        agent.tell(
            "schedule.fire",
            &json!({"schedule_id": "data", "scheduled_at": time, "fired_at": time, "job_id": job}),
        );
        let snapshot =
            json!({"id": ODD, "short_id": ODD, "time": time, "hostname": ODD, "paths": [ODD], "tags": [ODD]});
        agent.tell("snapshots.report", &json!({"report_id": id(n), "page": 1, "pages": 1, "snapshots": [snapshot]}));
    }
    for version in [json!(u64::MAX), json!(1_u64 << 53), json!(-1), json!(1e300), json!("1")] {
        agent.tell("schedule.ack", &json!({"version": version, "applied_at": AT}));
        agent.tell("config.ack", &json!({"version": version, "applied_at": AT}));
    }
    for (page, pages) in [
        (1, 1_000_000_u64),
        (2, 1_000_000),
        (1_000_000, 1_000_000),
        (u64::from(u32::MAX), u64::from(u32::MAX)),
        (0, 0),
        (1, 0),
        (u64::MAX, 1),
    ] {
        let many =
            vec![json!({"id": "a".repeat(64), "short_id": "a", "time": AT, "hostname": "h", "paths": ["/"]}); 300];
        agent.tell("snapshots.report", &json!({"report_id": id(7), "page": page, "pages": pages, "snapshots": many}));
    }
    // Nested, up to what a reader still follows, and beyond: what was taken must be read again after a restart.
    for (n, depth) in (2000..).zip([10, 100, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 1000]) {
        let end =
            json!({"job_id": id(n), "kind": "backup", "status": "succeeded", "finished_at": AT, "stats": {"x": 0}})
                .to_string();
        agent.tell_at(AT, "job.finished", &end.replace("{\"x\":0}", &format!("{{\"x\":{}}}", deep(depth))));
        agent.tell_at(AT, "of.later", &deep(depth));
    }
    agent.tell_at(AT, "of.later", &deep(30_000));
    for (n, field) in (3000..).zip([
        json!({"error": ODD}),
        json!({"error": "e".repeat(60_000)}),
        json!({"warnings": vec![ODD; 500]}),
        json!({"last_log_seq": u64::MAX}),
        json!({"exit_code": i32::MIN}),
        json!({"exit_code": 1_u64 << 40}),
        json!({"status": "running"}),
        json!({"status": ODD}),
        json!({"kind": "shell"}),
        json!({"schedule_id": "../x"}),
        json!({"stats": {ODD: 1e308}}),
        json!({"stats": []}),
    ]) {
        let mut end = json!({"job_id": id(n), "kind": "backup", "status": "failed", "finished_at": AT});
        end.as_object_mut().expect("an object").extend(field.as_object().expect("fields").clone());
        agent.tell("job.finished", &end);
        agent.tell("job.finished", &end);
    }
    let events = agent.events();
    for size in [65_000, 65_536, 262_143, 262_144, 300_000] {
        let line = json!({"seq": agent.seq + 1, "ts": AT, "type": "of.later", "payload": "x".repeat(size)}).to_string();
        if agent.post(&events, line.as_bytes()).0 == 200 {
            agent.seq += 1;
        }
    }
    agent.post(&events, &b"\n".repeat(200_000));
    agent.post(&events, &[b' '; 200_000]);
}

/// Log lines of its own job, and progress.
pub(crate) fn logs(agent: &mut HostileAgent<'_>, jobs: &[String; 2]) {
    let job = id(4000);
    agent.tell("job.started", &json!({"job_id": job, "kind": "backup", "started_at": AT}));
    let path = format!("/v1/agents/web-1/jobs/{job}/log");
    let line = |seq: u64, kind: &str, payload: Value| {
        (json!({"seq": seq, "ts": AT, "type": kind, "payload": payload}).to_string() + "\n").into_bytes()
    };
    agent.post(&path, &line(u64::MAX, "log.stream", json!({})));
    agent.post(&path, &line(1, ODD, json!(ODD)));
    agent.post(
        &path,
        &line(
            2,
            "log.stream",
            json!({"job_id": jobs[1], "seq": u64::MAX, "ts": TIMES[0], "stream": ODD, "payload": ODD}),
        ),
    );
    for progress in [
        json!({"job_id": jobs[1], "percent_done": 1e308}),
        json!({"job_id": job, "percent_done": -1e308, "eta_seconds": u64::MAX, "bytes_done": u64::MAX, "total_bytes": 1}),
    ] {
        agent.post(&path, &line(3, "job.progress", progress));
    }
    agent.post(&path, &line(4, "log.dropped", json!({"from": u64::MAX, "to": 0})));
    agent.post(
        &path,
        format!("{{\"seq\":5,\"ts\":\"{AT}\",\"type\":\"log.stream\",\"payload\":{}}}\n", deep(20_000)).as_bytes(),
    );
    agent.post(&path, &line(u64::MAX, "log.dropped", json!({"from": 1, "to": u64::MAX})));
    agent.post(&path, &line(u64::MAX, "log.stream", json!({})));
    agent.post(&path, &line(7, "log.stream", json!({})));
    for other in ["../../web-2/logs/x", "%2e%2e", "x", &id(0)] {
        assert_eq!(agent.post(&format!("/v1/agents/web-1/jobs/{other}/log"), b"{}").0, 404, "{other}");
    }
}

pub(crate) fn polls(agent: &mut HostileAgent<'_>) {
    let max = u64::MAX;
    let long = "x".repeat(10_000);
    for query in [
        format!("after={max}.{max}.ffffffff"),
        format!("after={}.{max}.ffffffff", id(1)),
        format!("after={long}"),
        format!("schedule_version={max}&schedule_hash=x&config_version={max}&config_hash=y"),
        format!("schedule_version={}&schedule_hash=x&config_version={}&config_hash=y", max - 1, 1_u64 << 53),
        "schedule_version=-1".to_owned(),
        "schedule_hash=%1b%5b2J%00%ff&config_hash=%e2%80%ae".to_owned(),
        "sent_at=%2b262142-12-31T23:59:59Z".to_owned(),
        "sent_at=-262143-01-01T00:00:00Z".to_owned(),
        "keepalive=0".to_owned(),
        format!("keepalive={max}"),
        "keepalive=-1".to_owned(),
        "wait=-1".to_owned(),
        "&&&=&=x&%".to_owned(),
    ] {
        agent.ask(&[&format!("/v1/agents/web-1/commands?instance={INSTANCE}&wait=0&{query}")]);
    }
}
