//! What an operator asks a server from the shell that is about no snapshot: whether all is well, where alerts are told, who did
//! what, and a job that nobody takes. And with what the server is asked: a token that others could read.

use std::os::unix::fs::PermissionsExt;

use crate::cli::{Said, ends, json_lines};
use crate::harness::{Fleet, text};
use crate::receivers::Receiver;

/// What a channel's address must not be shown with.
const SECRET_PATH: &str = "/canary-31-in-a-path";

/// A fleet with a channel that works and one that does not, a server, and no agent.
fn fleet(works: &Receiver) -> Fleet {
    let mut fleet = Fleet::new();
    let dead = { Receiver::start().port };
    let channel = |name: &str, url: &str| format!("[alerts.channels.{name}]\nkind = \"webhook\"\nurl = {url:?}\n");
    let dead = channel("dead", &format!("http://127.0.0.1:{dead}{SECRET_PATH}"));
    let settings = format!("secret_roots = [\"../secrets\"]\n{}{dead}", channel("hook", &works.url(SECRET_PATH)));
    fleet.write("config/server.toml", &settings);
    fleet.start_server();
    fleet
}

/// Likewise, and it names no secret.
fn said(fleet: &Fleet, code: i32, arguments: &[&str]) -> Said {
    let said = ends(fleet, code, arguments);
    assert!(!said.out.contains(SECRET_PATH) && !said.beside.contains(SECRET_PATH), "{}{}", said.out, said.beside);
    said
}

#[test]
fn a_monitor_the_channels_the_audit_log_and_a_job_that_nobody_takes_are_told_in_a_shell() {
    let works = Receiver::start();
    let fleet = fleet(&works);
    let late = said(&fleet, 1, &["status"]).out;
    assert!(late.starts_with("1 of 1 schedule has not succeeded in time: data of web-1\nHOST "), "{late}");
    assert!(late.contains("never: no agent"), "{late}");
    assert!(said(&fleet, 1, &["status", "-q"]).out.starts_with("1 of 1 "), "cron has something to mail");
    assert!(said(&fleet, 2, &["status", "--nagios"]).out.starts_with("CRITICAL - 1 of 1 "));
    assert_eq!(json_lines(&said(&fleet, 1, &["status", "--json"]).out)[0]["hosts"][0]["name"], "web-1");
    fleet.enroll("agent");
    assert_eq!(said(&fleet, 0, &["status"]).out, "the one schedule is not late\n");
    assert_eq!(said(&fleet, 0, &["status", "--quiet", "--max-age", "26h"]).out, "");
    assert!(said(&fleet, 0, &["status", "--nagios"]).out.starts_with("OK - "));
    said(&fleet, 5, &["status", "--host", "web-9"]);
    let nobody = ["status", "--nagios", "--server", "http://127.0.0.1:9", "--token", "x"];
    assert!(said(&fleet, 3, &nobody).out.starts_with("UNKNOWN - cannot connect to "));

    let channels = said(&fleet, 0, &["alerts", "channels"]).out;
    assert!(channels.starts_with("CHANNEL ") && channels.contains("hook     webhook  not used yet"), "{channels}");
    assert!(said(&fleet, 0, &["alerts", "test", "hook"]).out.contains("answered 200"));
    assert_eq!(works.received().len(), 1);
    assert!(said(&fleet, 0, &["alerts", "channels"]).out.contains("hook     webhook  works "));
    let dead = said(&fleet, 1, &["alerts", "test", "dead"]).beside;
    assert!(dead.starts_with("restic-manager: channel dead has not taken it: cannot connect to http"), "{dead}");
    assert_eq!(dead.lines().count(), 1, "{dead}");
    said(&fleet, 5, &["alerts", "test", "hokk"]);
    assert_eq!(json_lines(&said(&fleet, 0, &["alerts", "channels", "--json"]).out).len(), 2);

    let job = json_lines(&said(&fleet, 0, &["run", "web-1", "data", "--json"]).out).remove(0);
    let id = job["id"].as_str().expect("an id");
    let cancelled = said(&fleet, 0, &["cancel", &id[..8]]);
    assert!(cancelled.out.contains(&format!("job {id}, backup data on web-1: will be cancelled")), "{}", cancelled.out);
    let told =
        format!("the job ends when its agent is back; if that will not be, `restic-manager abandon {id}` ends it here");
    assert!(cancelled.beside.contains("host web-1 is offline (was never seen)"), "{}", cancelled.beside);
    assert!(cancelled.beside.contains(&told), "{}", cancelled.beside);
    assert!(said(&fleet, 0, &["abandon", id]).out.starts_with(&format!("job {id}, backup data on web-1: ")));
    assert_eq!(json_lines(&said(&fleet, 0, &["jobs", "web-1", "--json"]).out)[0]["status"], "failed");
    said(&fleet, 5, &["abandon", "ffffffff"]);

    let audit = said(&fleet, 0, &["audit"]).out;
    let actions: Vec<&str> =
        audit.lines().filter_map(|line| line.split_whitespace().find(|w| w.contains('.'))).collect();
    assert!(
        audit.starts_with("WHEN ") && actions.contains(&"job.abandon") && actions.contains(&"alert.test"),
        "{audit}"
    );
    let newest = json_lines(&said(&fleet, 0, &["audit", "-n", "1", "--json"]).out).remove(0);
    assert_eq!((&newest["action"], &newest["job"]), (&"job.abandon".into(), &id.into()));
    let before = newest["seq"].to_string();
    let next = json_lines(&said(&fleet, 0, &["audit", "-n", "1", "--json", "--before", &before]).out).remove(0);
    assert_eq!(next["action"], "job.cancel");
    fleet.write("config/hosts/web-2.toml", "repository = 5\n");
    fleet.post("/v1/config/reload", "");
    let alerts = json_lines(&said(&fleet, 0, &["alerts", "--json"]).out);
    let alert = alerts.iter().find(|alert| alert["kind"] == "config_rejected").expect("the refusal is one");
    let alert = alert["id"].as_str().expect("an id");
    assert!(
        said(&fleet, 0, &["alerts", "ack", &alert[..8]]).out.contains(&format!("alert {alert}, config_rejected of "))
    );
    said(&fleet, 5, &["alerts", "ack", "ffffffff"]);
    assert!(said(&fleet, 0, &["completions", "bash"]).out.contains("abandon"));
}

#[test]
fn a_token_that_others_could_read_is_refused_or_warned_of_and_settings_that_they_could_write_are_refused() {
    let fleet = fleet(&Receiver::start());
    said(&fleet, 0, &["hosts"]);
    let (token, settings) = (fleet.path("state/admin-token"), fleet.path("home/.config/restic-manager/client.toml"));
    let set = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    set(&token, 0o644);
    let open = format!("{} is open to others than its owner: chmod 600 {}", text(&token), text(&token));
    assert!(said(&fleet, 1, &["hosts"]).beside.contains(&open));
    let warned = said(&fleet, 0, &["hosts", "--token-file", text(&token)]);
    assert_eq!(warned.beside, format!("warning: {open}\n"));
    set(&token, 0o620);
    assert!(said(&fleet, 1, &["hosts", "--token-file", text(&token)]).beside.contains(&open));
    set(&token, 0o600);
    set(&settings, 0o666);
    assert!(said(&fleet, 1, &["hosts"]).beside.contains("client.toml is open to others than its owner: chmod go-w "));
    set(&settings, 0o644);
    said(&fleet, 0, &["hosts"]);
}
