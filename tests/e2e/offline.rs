//! The server is away: backups go on by the agent's own schedule, nothing else does, and everything is delivered afterwards.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::harness::{Fleet, eventually, text};

/// The agent's ledger, line by line; a line that is being written is left out.
fn ledger(fleet: &Fleet) -> Vec<Value> {
    fleet.read("agent/ledger.jsonl").lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn without_its_server_the_agent_backs_up_and_delivers_afterwards() {
    let mut fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    // Two schedules at every minute: the backup runs alone, the check waits for the server.
    let data = fleet.path("data");
    fleet.write(
        "config/hosts/web-1.toml",
        &format!(
            "repository = \"main\"\ntimezone = \"UTC\"\n[[schedule]]\nid = \"data\"\nkind = \"backup\"\ncron = \"* * * * *\"\npaths = [{:?}]\n[[schedule]]\nid = \"verify\"\nkind = \"check\"\ncron = \"* * * * *\"\n",
            text(&data)
        ),
    );
    eventually("the schedules are applied", Duration::from_secs(20), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["schedule"]["applied"] == host["schedule"]["wanted"] && host["schedules"][1]["id"] == "verify")
            .then_some(())
    });
    fleet.server = None;
    // The next minute's, or the one after where the server had answered that before it was gone.
    let (id, scheduled_at) = eventually("the agent runs a backup by itself", Duration::from_secs(150), || {
        let ledger = ledger(&fleet);
        let offline = ledger.iter().find(|line| line["offline"].is_object())?;
        let id = offline["job_id"].as_str()?.to_owned();
        let ended = ledger.iter().find(|line| line["stage"] == "finished" && line["job_id"] == id.as_str())?;
        assert_eq!(ended["finished"]["status"], "succeeded", "{ended}");
        Some((id, offline["offline"]["scheduled_at"].as_str()?.to_owned()))
    });
    let name = format!("restic-manager:web-1/data@{scheduled_at}");
    let namespace = Uuid::parse_str("6ba7b811-9dad-11d1-80b4-00c04fd430c8").expect("a UUID");
    assert_eq!(id, Uuid::new_v5(&namespace, name.as_bytes()).to_string(), "{name}");
    assert!(
        !fleet.journal().iter().any(|line| line["payload"]["job_id"] == id.as_str()),
        "the server knows nothing yet"
    );
    let verify = Uuid::new_v5(&namespace, format!("restic-manager:web-1/verify@{scheduled_at}").as_bytes()).to_string();
    assert!(
        !ledger(&fleet).iter().any(|line| line["job_id"] == verify.as_str()),
        "a check does not run without the server"
    );

    fleet.start_server();
    // After minutes without a server the agent asks again within two.
    let job = eventually("the job is delivered", Duration::from_secs(150), || {
        let (code, body) = fleet.curl(&[&format!("/v1/jobs/{id}")])?;
        let job: Value = serde_json::from_str(&body).ok()?;
        (code == 200 && job["status"] == "succeeded").then_some(job)
    });
    assert_eq!(job["offline"], true, "{job}");
    assert_eq!(job["schedule_id"], "data", "{job}");
    assert_eq!(job["kind"], "backup", "{job}");
    assert_eq!(job["stats"]["files_new"], 20, "{job}");
    let log = eventually("the log is delivered", Duration::from_secs(30), || {
        let (_, log) = fleet.curl(&["-H", "Accept: text/plain", &format!("/v1/jobs/{id}/log")])?;
        log.contains("restic backup").then_some(log)
    });
    assert!(log.contains(text(&data)), "{log}");
    // The check's fire was told, and the server had it run: late, but not alone.
    let check = fleet.wait_for_job(&verify, Duration::from_secs(60));
    assert_eq!((&check["status"], &check["offline"]), (&Value::from("succeeded"), &Value::from(false)), "{check}");
    let journal = fleet.journal();
    for kind in ["job.queued", "job.started", "job.finished"] {
        let count = journal.iter().filter(|line| line["type"] == kind && line["payload"]["job_id"] == id.as_str());
        assert_eq!(count.count(), 1, "{kind} of the offline job, once");
    }
    let snapshots = fs::read_dir(fleet.path("repo/snapshots")).map_or(0, Iterator::count);
    let backups = fleet.get("/v1/hosts/web-1/jobs?kind=backup&status=succeeded&limit=1000");
    assert_eq!(Some(snapshots), backups["jobs"].as_array().map(Vec::len), "each backup ran once");
}
