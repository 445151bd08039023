//! Whether an agent is there: the same after a restart of the server, and what becomes of requests to one that is not.

use std::fs::File;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually};

/// As if the agent had been silent for so long while a server was there.
fn age(fleet: &mut Fleet, silence: Duration) {
    fleet.server = None;
    for (file, age) in [("state/hosts/web-1/seen", silence), ("state/alive", Duration::ZERO)] {
        let file = File::options().write(true).open(fleet.path(file)).expect("it is there");
        file.set_modified(SystemTime::now() - age).expect("a time");
    }
    fleet.start_server();
}

#[test]
fn an_agent_that_is_away_is_shown_so_after_a_restart_too_and_only_what_may_wait_is_queued_for_it() {
    let mut fleet = Fleet::started();
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    fleet.agent = None;
    let contact = |fleet: &Fleet| {
        let host = fleet.get("/v1/hosts/web-1");
        ["online", "last_seen", "clock_skew_ms"].map(|key| host[key].clone())
    };
    let before = contact(&fleet);
    assert_eq!(before[0], true, "it was there a moment ago");
    fleet.start_server();
    assert_eq!(contact(&fleet), before);
    let queued = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"unlock"}"#)["id"].as_str().expect("an id").to_owned();
    let (code, answer) = fleet.try_post(&format!("/v1/jobs/{queued}/abandon"), "");
    let detail = answer["detail"].as_str().expect("words");
    assert!(code == 409 && detail.contains("can be abandoned after 20"), "{answer}");

    age(&mut fleet, Duration::from_secs(3600));
    assert_eq!(contact(&fleet)[0], false, "a restart brings no agent back");
    let refused: [(&str, Value); 3] = [
        ("restore", json!({"snapshot": "latest", "in_place": true, "confirm": "web-1"})),
        ("jobs", json!({"kind": "check"})),
        ("jobs", json!({"kind": "restore", "options": {"snapshot": "latest"}})),
    ];
    for (path, body) in &refused {
        let (code, answer) = fleet.try_post(&format!("/v1/hosts/web-1/{path}"), &body.to_string());
        assert_eq!((code, &answer["code"]), (409, &json!("agent-offline")), "{body}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("\"queue_for\": \"2h\"")), "{answer}");
    }
    // What an operator asked for while it was there does not wait for days.
    let (code, answer) = fleet.try_post(&format!("/v1/jobs/{queued}/abandon"), "");
    assert_eq!((code, &answer["status"]), (202, &json!("failed")), "{answer}");
    let short = fleet.post("/v1/hosts/web-1/restore", r#"{"snapshot":"latest","queue_for":"1s"}"#);
    let long = fleet.post("/v1/hosts/web-1/restore", r#"{"snapshot":"latest","queue_for":"2h"}"#);
    let backup = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    std::thread::sleep(Duration::from_millis(1100));
    fleet.start_agent();
    let ended = |job: &Value| {
        let id = job["id"].as_str().expect("an id");
        eventually("it ends", Duration::from_secs(60), || {
            let job = fleet.get(&format!("/v1/jobs/{id}"));
            matches!(job["status"].as_str(), Some("succeeded" | "failed")).then_some(job)
        })
    };
    assert_eq!(ended(&long)["status"], "succeeded");
    assert_eq!(ended(&backup)["status"], "succeeded");
    let short = ended(&short);
    assert_eq!((&short["status"], short.get("started_at")), (&json!("failed"), None), "{short}");
    assert!(short["error"].as_str().is_some_and(|error| error.starts_with("expired")), "{short}");
}
