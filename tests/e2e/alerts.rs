//! What needs a person is told once, can be acknowledged, and ends by itself; a restart of the server changes nothing of it.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, text};

/// The open alerts, by kind.
fn open(fleet: &Fleet) -> Vec<(String, Value)> {
    // Two requests: one may end between them.
    let alerts = eventually("the host shows its own", Duration::from_secs(5), || {
        let alerts = fleet.get("/v1/alerts");
        (fleet.get("/v1/hosts/web-1")["alerts"] == alerts["alerts"]).then_some(alerts)
    });
    let alerts = alerts["alerts"].as_array().expect("a list").clone();
    alerts.into_iter().map(|alert| (alert["kind"].as_str().expect("a kind").to_owned(), alert)).collect()
}

fn kinds(fleet: &Fleet) -> Vec<String> {
    open(fleet).into_iter().map(|(kind, _)| kind).collect()
}

fn run(fleet: &Fleet) -> Value {
    fleet.run_job(r#"{"schedule_id":"data"}"#)
}

#[test]
fn failures_gaps_and_shrunken_backups_are_told_until_they_end() {
    let mut fleet = Fleet::started();
    assert_eq!(kinds(&fleet), [""; 0]);
    let job = run(&fleet);
    let (kind, alert) = open(&fleet).pop().expect("an alert");
    assert_eq!((kind.as_str(), &alert["job_id"], &alert["schedule_id"]), ("backup_failed", &job["id"], &json!("data")));
    assert!(alert["text"].as_str().is_some_and(|text| text.contains("no repository")), "{alert}");
    assert_eq!(alert["severity"], "error");
    run(&fleet);
    assert_eq!(open(&fleet), [(kind, alert.clone())], "once");

    let id = alert["id"].as_str().expect("an id");
    for _ in 0..2 {
        let seen = fleet.post(&format!("/v1/alerts/{id}/ack"), "");
        assert_eq!(seen["acknowledged_by"], "admin-token");
    }
    assert_eq!(fleet.try_post("/v1/alerts/00000000-0000-4000-8000-000000000000/ack", "").0, 404);
    let before = fleet.get("/v1/alerts");
    fleet.start_server();
    assert_eq!(fleet.get("/v1/alerts"), before);

    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    assert_eq!(kinds(&fleet), ["backup_failed"], "init is not the schedule's");
    for _ in 0..4 {
        assert_eq!(run(&fleet)["status"], "succeeded");
        assert_eq!(kinds(&fleet), [""; 0]);
    }
    for number in 0..15 {
        fs::remove_file(fleet.path(&format!("data/file-{number}"))).expect("removed");
    }
    run(&fleet);
    assert_eq!(kinds(&fleet), ["backup_shrunk"]);
    assert_eq!(open(&fleet)[0].1["severity"], "warning");
    for number in 0..15 {
        fleet.write(&format!("data/file-{number}"), &"x\n".repeat(3000));
    }
    run(&fleet);
    assert_eq!(kinds(&fleet), [""; 0]);

    let absent = fleet.path("absent");
    let toml = fleet.read("config/hosts/web-1.toml").replace("paths = [", &format!("paths = [{:?}, ", text(&absent)));
    fleet.write("config/hosts/web-1.toml", &toml);
    fleet.post("/v1/config/reload", "");
    let job = run(&fleet);
    assert_eq!((&job["status"], &job["incomplete"]), (&json!("succeeded"), &json!(true)));
    assert_eq!(kinds(&fleet), ["backup_incomplete"]);
    // The fleet's own: files that are refused.
    let good = fleet.read("config/hosts/web-1.toml");
    fleet.write("config/hosts/web-1.toml", "repository = 5\n");
    fleet.post("/v1/config/reload", "");
    let refused = fleet.get("/v1/alerts")["alerts"][0].clone();
    assert_eq!((&refused["kind"], refused.get("host")), (&json!("config_rejected"), None), "{refused}");
    assert!(
        refused["text"].as_str().is_some_and(|text| text.contains("refused: hosts/web-1.toml:1: repository ")),
        "{refused}"
    );
    let ack = format!("/v1/alerts/{}/ack", refused["id"].as_str().expect("an id"));
    let (code, answer) = fleet.try_post(&ack, r#"{"comment":"seen"}"#);
    assert!(code == 422 && answer["detail"].as_str().is_some_and(|detail| detail.contains("comment")), "{answer}");
    assert_eq!(fleet.try_post(&ack, "{}").0, 200);
    let seen = fleet.post(&ack, "");
    assert_eq!(seen["acknowledged_by"], "admin-token");
    fleet.write("config/hosts/web-1.toml", &good);
    fleet.post("/v1/config/reload", "");
    assert_eq!(kinds(&fleet), ["backup_incomplete"]);
    // A schedule that is gone has no alerts.
    fleet.write("config/hosts/web-1.toml", "repository = \"main\"\n");
    fleet.post("/v1/config/reload", "");
    eventually("its alert ends", Duration::from_secs(25), || kinds(&fleet).is_empty().then_some(()));

    let told =
        fleet.journal().into_iter().filter(|line| line["type"].as_str().is_some_and(|t| t.starts_with("alert.")));
    let told: Vec<String> = told
        .map(|line| {
            format!("{} {}", line["type"].as_str().expect("text"), line["payload"]["kind"].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "alert.raised backup_failed",
            "alert.acknowledged -",
            "alert.resolved backup_failed",
            "alert.raised backup_shrunk",
            "alert.resolved backup_shrunk",
            "alert.raised backup_incomplete",
            "alert.resolved backup_incomplete",
        ]
    );
}
