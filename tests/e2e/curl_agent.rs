//! The protocol as written: a whole agent made of curl, through a job, and what it is told when it errs.

use serde_json::{Value, json};

use crate::bad_input::{AGENT_LOG, INSTANCE, STREAM, enrolled_with_curl, expect_as, hello};
use crate::harness::{Fleet, text};

#[test]
fn an_agent_written_with_curl_runs_a_job_and_is_told_gaps_and_repetitions() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let bearer = enrolled_with_curl(&fleet, "web-1");
    let ask = |arguments: &[&str]| {
        let answer = fleet.ask(&bearer, arguments).expect("an answer");
        (answer.code, answer.json())
    };
    let post = |path: &str, body: &str| {
        fleet.write("body", body);
        ask(&[
            "-H",
            "Content-Type: application/x-ndjson",
            "--data-binary",
            &format!("@{}", text(&fleet.path("body"))),
            path,
        ])
    };
    let poll = format!("/v1/agents/web-1/commands?instance={INSTANCE}&wait=0");
    expect_as(&fleet, &bearer, &[&poll], 409, "hello-first");
    let events = format!("/v1/agents/web-1/events?stream={STREAM}&instance={INSTANCE}");
    assert_eq!(post(&events, "").1["code"], "not-current");
    let mut old = hello(INSTANCE, STREAM);
    old["protocol_version"] = json!(0);
    assert_eq!(post("/v1/agents/web-1/hello", &old.to_string()).1["code"], "protocol-version");
    // An agent with more jobs at hand than an ordinary body could name is not locked out; without any bound it would be a flood.
    let with_jobs = |count: u32| {
        let ids: Vec<String> = (0..count).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
        let mut many = hello(INSTANCE, STREAM);
        many["running_jobs"] = json!(ids);
        post("/v1/agents/web-1/hello", &many.to_string())
    };
    assert_eq!(with_jobs(60_000).0, 200);
    assert_eq!(with_jobs(120_000).1["code"], "body-too-large");
    let lines = fleet.journal();
    let kept = &lines.iter().rev().find(|line| line["type"] == "hello").expect("a line")["payload"];
    assert_eq!(kept["running_jobs"].as_array().map(Vec::len), Some(100), "the history keeps some of them");
    let (code, greeted) = post("/v1/agents/web-1/hello", &hello(INSTANCE, STREAM).to_string());
    assert_eq!((code, &greeted["protocol_version"], &greeted["acked"]), (200, &json!(1), &json!({})), "{greeted}");

    // What it should have comes before what it should do; the cursor then moves on.
    let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    let id = job["id"].as_str().expect("an id");
    let answer = ask(&[&poll]).1;
    let kinds: Vec<&str> =
        answer["messages"].as_array().expect("messages").iter().filter_map(|m| m["type"].as_str()).collect();
    assert_eq!(kinds, ["config.update", "schedule.set", "command.run"], "{answer}");
    assert_eq!((&answer["epoch"], &answer["reset"]), (&greeted["epoch"], &json!(true)), "{answer}");
    assert_eq!(answer["messages"][2]["payload"]["job_id"], id);
    let hash = |index: usize| answer["messages"][index]["payload"]["hash"].as_str().expect("a hash").to_owned();
    let cursor = answer["cursor"].as_str().expect("a cursor");
    let poll = format!(
        "{poll}&after={cursor}&config_version=1&config_hash={}&schedule_version=1&schedule_hash={}",
        hash(0),
        hash(1)
    );
    assert_eq!(ask(&[&poll]).1["messages"], json!([]));
    assert_eq!(ask(&[&poll.replace(cursor, "nonsense")]).1["reset"], true, "an unknown cursor begins anew");

    let event = |seq: u64, kind: &str, payload: Value| {
        json!({"seq": seq, "ts": "2026-11-23T00:00:00Z", "type": kind, "payload": payload}).to_string() + "\n"
    };
    let ack = |seq: u64| event(seq, "schedule.ack", json!({"version": 1, "applied_at": "2026-11-23T00:00:00Z"}));
    // More lines than memory holds do not make the cursor an unknown one.
    let others: String = (1..=200).map(ack).collect();
    let (code, _) = post(&events.replace(STREAM, "00000000-0000-4000-8000-0000000000aa"), &others);
    let followed = ask(&[&poll]).1;
    assert_eq!((code, &followed["reset"], &followed["messages"]), (200, &Value::Null, &json!([])), "{followed}");

    let line = |seq: u64, words: &str| {
        let payload =
            json!({"job_id": id, "seq": seq, "ts": "2026-11-23T00:00:01Z", "stream": "stdout", "payload": words});
        event(seq, "log.stream", payload)
    };
    let accepted = event(2, "command.result", json!({"job_id": id, "accepted": true}));
    let started =
        event(3, "job.started", json!({"job_id": id, "kind": "backup", "started_at": "2026-11-23T00:00:00Z"}));
    assert_eq!(post(&events, &(ack(1) + &accepted)), (200, json!({"acked": 2})));
    assert_eq!(post(&events, &(ack(1) + &accepted + &started)).1["acked"], 3, "what is there already is skipped");
    assert_eq!(fleet.get(&format!("/v1/jobs/{id}"))["status"], "running");
    assert_eq!(fleet.get("/v1/hosts/web-1")["schedule"]["applied"], 1);
    let log = format!("/v1/agents/web-1/jobs/{id}/log");
    let progress = event(2, "job.progress", json!({"job_id": id, "percent_done": 0.5}));
    assert_eq!(post(&log, &(line(1, "one") + &progress)).1["acked"], 2);
    assert_eq!(fleet.get(&format!("/v1/jobs/{id}"))["progress"]["percent_done"], 0.5);
    let (code, gap) = post(&log, &line(4, "four"));
    assert_eq!((code, gap["code"].as_str(), &gap["expected"]), (409, Some("event-gap"), &json!(3)), "{gap}");
    assert_eq!(post(&log, &(line(1, "one") + &progress + &line(3, "three"))).1["acked"], 3);

    let before = fleet.journal();
    let (code, gap) = post(&events, &ack(7));
    assert_eq!((code, gap["code"].as_str(), &gap["expected"]), (409, Some("event-gap"), &json!(4)), "{gap}");
    let gap = post(&events, &(ack(4) + &ack(6))).1;
    assert_eq!((gap["code"].as_str(), &gap["expected"]), (Some("event-gap"), &json!(5)), "taken whole or not: {gap}");
    let bad = event(4, "schedule.ack", json!({"applied_at": "2026-11-23T00:00:00Z"}));
    let (code, bad) = post(&events, &(ack(4) + &bad.replace("\"seq\":4", "\"seq\":5")));
    assert_eq!((code, bad["code"].as_str()), (422, Some("bad-event")), "{bad}");
    let (code, bad) = post(&events, &(ack(4) + "no json\n"));
    assert_eq!((code, bad["code"].as_str()), (400, Some("not-json")), "{bad}");
    assert!(bad["detail"].as_str().is_some_and(|detail| detail.contains("line 2")), "{bad}");
    let long =
        event(4, "schedule.ack", json!({"version": 1, "applied_at": "2026-11-23T00:00:00Z", "x": "x".repeat(65_536)}));
    let (code, bad) = post(&events, &long);
    assert_eq!((code, bad["code"].as_str()), (413, Some("event-too-large")), "{bad}");
    let (code, bad) = post(&events, &ack(4).repeat(2500));
    assert_eq!((code, bad["code"].as_str()), (413, Some("body-too-large")), "{bad}");
    assert_eq!(post(&events.replace(INSTANCE, STREAM), &ack(4)).1["code"], "not-current");
    assert_eq!(post("/v1/agents/web-1/events", &ack(4)).1["code"], "bad-query");
    assert_eq!(fleet.journal(), before, "nothing of all that was taken");

    let finished = json!({"job_id": id, "status": "succeeded", "exit_code": 0, "finished_at": "2026-11-23T00:00:02Z", "last_log_seq": 3});
    assert_eq!(post(&events, &(event(4, "job.finished", finished) + &event(5, "of.later", json!({})))).1["acked"], 5);
    let job = fleet.get(&format!("/v1/jobs/{id}"));
    assert_eq!((&job["status"], &job["exit_code"]), (&json!("succeeded"), &json!(0)), "{job}");
    let (_, told) = fleet.curl(&["-H", "Accept: text/plain", &format!("/v1/jobs/{id}/log?follow=1")]).expect("a log");
    assert_eq!(told.lines().filter(|line| line.contains("one") || line.contains("three")).count(), 2, "{told}");
    assert_eq!(post(AGENT_LOG, &line(1, "x")).1["code"], "no-such-job");
    let (code, beat) = post("/v1/agents/web-1/heartbeat", r#"{"sent_at":"2026-11-23T00:00:00Z"}"#);
    assert!(code == 200 && beat["server_time"].is_string(), "{beat}");
    assert_eq!(fleet.journal().iter().filter(|line| line["stream"] == STREAM).count(), 5, "each event once");
}
