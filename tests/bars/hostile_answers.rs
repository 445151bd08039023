//! P13 and P16, answers: whatever comes instead of an answer of the server's changes nothing at the agent, does not end it, and
//! does not fill its memory; the agent asks again. The control sends the same words as a proper answer, and they are applied.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Process, eventually};
use crate::hostile_commands::command;
use crate::hostile_server::{Raw, Station, message, poll_answer};
use crate::hostile_settings::good_config;

/// What an agent may have in memory at most, in KiB.
const MEMORY_KIB: u64 = 64 * 1024;

/// A poll's answer that would change settings and schedules.
fn changes() -> String {
    let config = json!({"version": 9, "hash": "x", "repo_url": "/srv/other", "repo_password": "other"});
    let set = json!({"version": 9, "hash": "x", "schedules": []});
    poll_answer(9, &[message("config.update", &config.to_string()), message("schedule.set", &set.to_string())])
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn with_type(status: &str, content_type: &str, body: &str) -> Raw {
    Raw::Bytes(answer(status, &format!("Content-Type: {content_type}\r\n"), body.as_bytes()))
}

/// Each with its name, and the last part of the path that it is the answer to.
fn hostile_answers() -> Vec<(String, &'static str, Raw)> {
    let (changes, html) = (changes(), "<html><body>Please log in</body></html>");
    let problem =
        json!({"type": "about:blank", "title": "t", "status": 502, "detail": "d", "code": "superseded"}).to_string();
    let mut cases: Vec<(String, &'static str, Raw)> = Vec::new();
    for status in [
        "200 OK",
        "204 No Content",
        "301 Moved",
        "401 Unauthorized",
        "403 Forbidden",
        "407 Login",
        "429 Slow",
        "502 Bad",
        "504 Late",
        "999 X",
    ] {
        for (content_type, body) in
            [("text/html", html), ("text/html", &changes), ("application/problem+json", &problem)]
        {
            cases.push((
                format!("{status} {content_type} of {} bytes", body.len()),
                "commands",
                with_type(status, content_type, body),
            ));
        }
    }
    for status in [
        "302 Found\r\nLocation: /v1/agents/web-1/hello",
        "407 Login",
        "502 Bad",
        "504 Late",
        "500 Error",
        "404 Not Found",
    ] {
        cases.push((format!("{status} with the words"), "commands", with_type(status, "application/json", &changes)));
    }
    for content_type in ["text/plain", "application/jsonp", "application/x-json", "", "application/problem+json"] {
        cases.push((format!("as {content_type:?}"), "commands", with_type("200 OK", content_type, &changes)));
    }
    for cut in [0, 1, changes.len() / 2, changes.len() - 1] {
        cases.push((format!("cut at {cut}"), "commands", with_type("200 OK", "application/json", &changes[..cut])));
        let mut whole = answer("200 OK", "Content-Type: application/json\r\n", changes.as_bytes());
        whole.truncate(whole.len() - changes.len() + cut);
        cases.push((format!("connection cut at {cut}"), "commands", Raw::Bytes(whole)));
    }
    for (find, replace) in [
        ("\"messages\":[", "\"messages\":{\"0\":["),
        ("\"messages\"", "\"massages\""),
        ("\"cursor\"", "\"curser\""),
        ("\"cursor\":\"c9\"", "\"cursor\":9"),
        ("\"epoch\":\"", "\"epoch\":\"x"),
        ("\"server_time\":\"", "\"server_time\":\"x"),
        ("{\"epoch\"", "[{\"epoch\""),
        ("\"config.update\"", "\"config\u{0}update\""),
        ("{\"epoch\"", "\u{feff}{\"epoch\""),
    ] {
        cases.push((
            format!("{replace} for {find}"),
            "commands",
            with_type("200 OK", "application/json", &changes.replacen(find, replace, 1)),
        ));
    }
    let deep = |depth: usize| {
        changes.replacen(
            "{\"epoch\"",
            &format!("{{\"x\":{}1{},\"epoch\":5,\"epoch\"", "[".repeat(depth), "]".repeat(depth)),
            1,
        )
    };
    cases.push(("deep nesting".into(), "commands", with_type("200 OK", "application/json", &deep(200_000))));
    let mut noise = changes.clone().into_bytes();
    noise[20] = 0xff;
    cases.push((
        "bad UTF-8".into(),
        "commands",
        Raw::Bytes(answer("200 OK", "Content-Type: application/json\r\n", &noise)),
    ));
    let large = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000000000\r\n\r\n";
    cases.push(("a giant body".into(), "commands", Raw::Endless(large.into(), vec![b' '; 65_536])));
    let html = large.replace("application/json", "text/html");
    cases.push(("a giant page".into(), "commands", Raw::Endless(html.into(), vec![b'x'; 65_536])));
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 65_536], b"\r\n".to_vec()].concat();
    cases.push(("an endless body".into(), "commands", Raw::Endless(chunked.into(), chunk)));
    cases.push((
        "endless headers".into(),
        "commands",
        Raw::Endless("HTTP/1.1 200 OK\r\n".into(), b"X-Header: of no use\r\n".repeat(100)),
    ));
    cases.push((
        "endless continues".into(),
        "commands",
        Raw::Endless(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)),
    ));
    cases.push(("no HTTP".into(), "commands", Raw::Bytes(vec![0; 4096])));
    cases.push(("nothing".into(), "commands", Raw::Bytes(Vec::new())));
    cases.push(("half a head".into(), "commands", Raw::Silence("HTTP/1.1 200 OK\r\nContent-".into())));
    cases.push((
        "half a body".into(),
        "commands",
        Raw::Silence("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{".into()),
    ));
    for endpoint in ["hello", "events"] {
        for (name, body) in [
            ("a page", html_page()),
            ("other JSON", "{\"ok\":true}".to_owned()),
            ("null", "null".to_owned()),
            ("less", "{\"acked\":-1}".to_owned()),
        ] {
            let content_type = if name == "a page" { "text/html" } else { "application/json" };
            cases.push((format!("{name} to {endpoint}"), endpoint, with_type("200 OK", content_type, &body)));
        }
    }
    cases.push((
        "more than was sent".into(),
        "events",
        with_type("200 OK", "application/json", &json!({"acked": u64::MAX}).to_string()),
    ));
    cases
}

fn html_page() -> String {
    "<html>".repeat(1000)
}

/// An agent that has settings and schedules, and what it has.
fn settled() -> Station {
    let mut station = Station::new("backup_roots = [\"DIR/data\"]", "restic", "1h");
    let dir = station.dir.path().to_owned();
    let set = json!({"version": 5, "hash": "s5", "schedules": [{"id": "a", "kind": "backup", "cron_expr": "0 3 29 2 *", "enabled": true}]});
    station.server.send([good_config(5, &dir), message("schedule.set", &set.to_string())]);
    station.start_agent();
    eventually("both are applied", Duration::from_secs(30), || {
        (station.server.state().events.len() >= 2).then_some(())
    });
    station
}

fn withstands(name: &str, endpoint: &'static str, raw: Raw) {
    let mut station = settled();
    let before = station.kept();
    station.server.answer_with(endpoint, raw);
    if endpoint != "commands" {
        // Something to say, which is said although the first answer to it was none.
        station.server.send([command(&uuid::Uuid::nil().to_string(), &json!("no kind"), &json!({}))]);
    }
    if endpoint == "hello" {
        station.server.answer_with("commands", Raw::Bytes(Vec::new()));
    }
    eventually(&format!("{name}: it is given"), Duration::from_secs(60), || {
        station.server.state().raw[endpoint].is_empty().then_some(())
    });
    station.server.await_polls(Duration::from_secs(90));
    assert!(station.agent.as_mut().is_some_and(Process::is_running), "{name}: the agent is alive");
    assert_eq!(station.kept(), before, "{name}: nothing has changed");
    let peak = station.peak_memory_kib();
    assert!(peak < MEMORY_KIB, "{name}: {peak} KiB");
    if endpoint != "commands" {
        eventually(&format!("{name}: what was to be said is said"), Duration::from_secs(60), || {
            (station.server.said_of(&uuid::Uuid::nil().to_string()).len() == 1).then_some(())
        });
    }
}

#[test]
fn p13_no_answer_that_is_not_the_servers_changes_anything() {
    // Most of the time each of them waits: many at once.
    std::thread::scope(|scope| {
        let workers: Vec<_> = hostile_answers()
            .into_iter()
            .map(|(name, endpoint, raw)| scope.spawn(move || withstands(&name, endpoint, raw)))
            .collect();
        let failed = workers.into_iter().filter_map(|worker| worker.join().err()).count();
        assert_eq!(failed, 0, "answers that were not withstood");
    });
}

#[test]
fn p13_the_same_words_from_the_server_are_applied_and_lower_versions_never() {
    let station = settled();
    let before = station.kept();
    for (config, set) in [(4, 4), (5, 5), (0, 0)] {
        let update = json!({"version": config, "hash": "other", "repo_url": "/srv/other"});
        let schedules = json!({"version": set, "hash": "other", "schedules": []});
        station
            .server
            .send([message("config.update", &update.to_string()), message("schedule.set", &schedules.to_string())]);
    }
    for broken in [
        json!({"version": 9, "hash": "x"}),
        json!({"version": 9, "hash": "x", "schedules": null}),
        json!({"version": "9", "hash": "x", "schedules": []}),
        json!({"version": 9, "schedules": []}),
        json!([]),
    ] {
        station.server.send([message("schedule.set", &broken.to_string())]);
    }
    for broken in [
        json!({"version": -9, "hash": "x"}),
        json!({"version": 9}),
        json!({"version": 9, "hash": "x", "env": []}),
        json!({"version": 9, "hash": "x", "repo_url": 5}),
    ] {
        station.server.send([message("config.update", &broken.to_string())]);
    }
    eventually("all is polled", Duration::from_secs(30), || station.server.state().batches.is_empty().then_some(()));
    station.server.await_polls(Duration::from_secs(30));
    assert_eq!(station.kept(), before, "lower and equal versions, and what cannot be read, change nothing");

    station.server.answer_with("commands", with_type("200 OK", "application/json; charset=utf-8", &changes()));
    eventually("the control: they are applied", Duration::from_secs(60), || {
        let kept = station.kept();
        (kept[0] != before[0] && kept[1] != before[1]).then_some(())
    });
}

#[test]
fn p13_a_server_with_a_strange_clock_and_the_largest_answers_are_withstood() {
    let mut station = settled();
    for (number, time) in
        ["+262142-12-31T23:59:59Z", "-262143-01-01T00:00:00Z", "9999-12-31T23:59:59Z"].into_iter().enumerate()
    {
        let hello = json!({"server_time": time, "protocol_version": 1, "host": "web-1", "epoch": "0190b5a2-7c1e-4c3a-9f00-0123456789ab", "acked": {}, "poll_wait": u64::MAX});
        station.server.answer_with("hello", with_type("200 OK", "application/json", &hello.to_string()));
        station.server.answer_with("commands", Raw::Bytes(Vec::new()));
        eventually("it is given", Duration::from_secs(60), || {
            station.server.state().raw["hello"].is_empty().then_some(())
        });
        let id = uuid::Uuid::from_u128(number as u128 + 1).to_string();
        let payload = json!({"job_id": id, "kind": "check", "issued_at": time, "expires_at": time});
        station.server.send([message("command.run", &payload.to_string())]);
        eventually(&format!("a command at {time} is answered"), Duration::from_secs(60), || {
            (!station.server.said_of(&id).is_empty()).then_some(())
        });
    }
    // A cursor and hashes that no query could hold as they are.
    for odd in ["a b&wait=0#\u{0}\n\u{1b}[2J\u{202e}%zz", &"long".repeat(50_000)] {
        let config = json!({"version": 6 + odd.len(), "hash": odd, "repo_url": "/srv/other"});
        let body =
            poll_answer(0, &[message("config.update", &config.to_string())]).replace("\"c0\"", &json!(odd).to_string());
        station.server.answer_with("commands", with_type("200 OK", "application/json", &body));
        eventually("it is given", Duration::from_secs(60), || {
            station.server.state().raw["commands"].is_empty().then_some(())
        });
        station.server.await_polls(Duration::from_secs(60));
        let question = station.server.state().question.clone();
        assert!(
            question.contains(&format!("config_version={}&", 6 + odd.len())) && !question.contains("&wait=0"),
            "{question}"
        );
    }
    // The most that an answer may have, in one command, and in many, whose content is not kept.
    let options = json!({"x": "y".repeat(15 << 20)});
    station.server.send([command(&uuid::Uuid::from_u128(10).to_string(), &json!("backup"), &options)]);
    for round in 0..8 {
        let many = (0..40).map(|n| {
            command(
                &uuid::Uuid::from_u128(100 + round * 40 + n).to_string(),
                &json!("backup"),
                &json!({"paths": ["/".repeat(100_000)]}),
            )
        });
        station.server.send(many);
    }
    let id = uuid::Uuid::from_u128(100 + 8 * 40 - 1).to_string();
    eventually("all are answered", Duration::from_secs(120), || {
        (!station.server.said_of(&id).is_empty()).then_some(())
    });
    assert_eq!(station.server.said_of(&uuid::Uuid::from_u128(10).to_string()).len(), 1, "the large one too");
    let peak = station.peak_memory_kib();
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    assert!(station.agent.as_mut().is_some_and(Process::is_running));
}
