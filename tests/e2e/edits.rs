//! Edits of the configuration, however they are made, reach the agent within two seconds as one new version; jobs are cancelled.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Fleet, eventually, text};

/// Makes an edit and waits until the agent has acknowledged exactly the next version.
fn acknowledged(fleet: &Fleet, what: &str, edit: impl FnOnce()) {
    let before = fleet.get("/v1/hosts/web-1")["schedule"]["wanted"].as_u64().expect("a version");
    edit();
    let edited = Instant::now();
    eventually(what, Duration::from_secs(10), || {
        let schedule = &fleet.get("/v1/hosts/web-1")["schedule"];
        assert!(schedule["wanted"].as_u64() <= Some(before + 1), "{what}: more than one version: {schedule}");
        (schedule["applied"].as_u64() == Some(before + 1)).then_some(())
    });
    let took = edited.elapsed();
    assert!(took < Duration::from_secs(2), "{what} took {took:?}");
}

/// The version that a host should have.
fn wanted(fleet: &Fleet, host: &str) -> Option<u64> {
    let (code, body) = fleet.curl(&[&format!("/v1/hosts/{host}")]).expect("an answer");
    let host: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    host["schedule"]["wanted"].as_u64().filter(|_| code == 200)
}

fn git(dir: &str, arguments: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-C", dir];
    let done = Command::new("git").args(identity).args(arguments).output().expect("git runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn every_way_of_editing_is_acknowledged_within_two_seconds_as_one_version() {
    let fleet = Fleet::started();
    fleet.write("config/hosts/web-2.toml", "groups = []\n");
    eventually("the other host is there", Duration::from_secs(5), || wanted(&fleet, "web-2"));
    acknowledged(&fleet, "a file written in place", || fleet.set_cron("1 3 * * *"));
    acknowledged(&fleet, "a file renamed over", || {
        let text = fleet.read("config/hosts/web-1.toml").replace("1 3 * * *", "2 3 * * *");
        fleet.write("config/hosts/.web-1.toml.new", &text);
        fs::rename(fleet.path("config/hosts/.web-1.toml.new"), fleet.path("config/hosts/web-1.toml")).expect("rename");
    });
    let config = fleet.path("config");
    let dir = text(&config);
    git(dir, &["init", "-q"]);
    git(dir, &["add", "."]);
    git(dir, &["commit", "-qm", "one"]);
    acknowledged(&fleet, "a file of a work tree", || fleet.set_cron("3 3 * * *"));
    git(dir, &["commit", "-qam", "two"]);
    acknowledged(&fleet, "git checkout", || git(dir, &["checkout", "-q", "HEAD~1"]));
    acknowledged(&fleet, "git checkout back", || git(dir, &["checkout", "-q", "-"]));
    acknowledged(&fleet, "git revert is a newer version", || git(dir, &["revert", "--no-edit", "HEAD"]));
    let commit = Command::new("git").args(["-C", dir, "rev-parse", "HEAD"]).output().expect("git runs");
    let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
    assert_eq!(fleet.get("/v1/hosts/web-1")["schedule"]["commit"], commit.as_str());
    assert_eq!(wanted(&fleet, "web-2"), Some(1), "a host that did not change keeps its version");
}

/// Changes a file to a text of the same length, and sets its time back to what it was.
fn change_unseen(fleet: &Fleet, file: &str, text: &str) {
    let path = fleet.path(file);
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
    assert_eq!(fleet.read(file).len(), text.len());
    fs::write(&path, text).expect("written");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("set back");
}

#[test]
fn files_that_lay_still_for_long_are_not_read_again_and_no_change_of_them_is_missed() {
    let fleet = Fleet::started();
    let wanted = |what: &str| fleet.get("/v1/hosts/web-1")[what]["wanted"].as_u64().expect("a version");
    // Younger files are read whatever their times say.
    std::thread::sleep(Duration::from_millis(2500));
    for (nth, host) in ["web-2", "web-3"].iter().enumerate() {
        fleet.write(&format!("config/hosts/{host}.toml"), "groups = []\n");
        eventually("the other host is there", Duration::from_secs(5), || self::wanted(&fleet, host));
        let (schedule, config) = (wanted("schedule"), wanted("config"));
        let minute = format!("{} 4 * * *", nth + 1);
        let text = fleet.read("config/hosts/web-1.toml").replace(["0 3 * * *", "1 4 * * *"][nth], &minute);
        change_unseen(&fleet, "config/hosts/web-1.toml", &text);
        eventually("the host's file", Duration::from_secs(2), || (wanted("schedule") == schedule + 1).then_some(()));
        let secret: String = fleet.read("secrets/web-1").chars().rev().collect();
        change_unseen(&fleet, "secrets/web-1", &secret);
        eventually("the secret", Duration::from_secs(2), || (wanted("config") == config + 1).then_some(()));
        assert_eq!((wanted("schedule"), self::wanted(&fleet, host)), (schedule + 1, Some(1)));
        std::thread::sleep(Duration::from_millis(2500));
    }
}

#[test]
fn a_swapped_symlink_and_a_removed_file_are_edits_and_other_hosts_keep_their_version() {
    let mut fleet = Fleet::new();
    fleet.write("config/hosts/web-2.toml", "groups = []\n");
    for release in ["one", "two"] {
        let copied = Command::new("cp").args(["-r", text(&fleet.path("config")), text(&fleet.path(release))]).status();
        assert!(copied.expect("cp runs").success());
    }
    let text_of_two = fleet.read("two/hosts/web-1.toml").replace("0 3 * * *", "7 3 * * *");
    fleet.write("two/hosts/web-1.toml", &text_of_two);
    fs::remove_dir_all(fleet.path("config")).expect("remove");
    let (config, new) = (fleet.path("config"), fleet.path("config.new"));
    let point_to = |release: &str| {
        std::os::unix::fs::symlink(release, &new).expect("a link");
        fs::rename(&new, &config).expect("rename");
    };
    point_to("one");
    fleet.start_server();
    fleet.enroll("agent");
    fleet.permit_everything("agent", "restic");
    fleet.start_agent();
    assert_eq!((wanted(&fleet, "web-1"), wanted(&fleet, "web-2")), (Some(1), Some(1)));
    let init = fleet.run_job(r#"{"kind":"init"}"#);
    let backup = fleet.run_job(r#"{"schedule_id":"data"}"#);
    assert_eq!((&init["status"], &backup["status"]), (&"succeeded".into(), &"succeeded".into()), "{init} {backup}");
    acknowledged(&fleet, "a swapped symlink", || point_to("two"));
    acknowledged(&fleet, "a symlink swapped back is a newer version", || point_to("one"));
    assert_eq!(wanted(&fleet, "web-2"), Some(1), "a host that did not change keeps its version");

    let before = fleet.journal();
    acknowledged(&fleet, "a removed file", || fs::remove_file(fleet.path("one/hosts/web-1.toml")).expect("remove"));
    let set = fleet.get("/v1/hosts/web-1/schedules");
    assert_eq!((&set["version"], &set["schedules"]), (&4.into(), &serde_json::json!([])), "{set}");
    assert_eq!(wanted(&fleet, "web-2"), Some(1));
    assert_eq!(fleet.journal()[..before.len()], before[..], "history stays");
    assert_eq!(fleet.get("/v1/hosts/web-1/jobs")["jobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(fleet.get("/v1/hosts/web-1/snapshots")["snapshots"].as_array().map(Vec::len), Some(1));
    let (code, refused) = fleet.try_post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    assert!((400..500).contains(&code), "what was removed does not run: {refused}");
}

#[test]
fn a_running_job_and_a_queued_one_are_cancelled_and_leave_no_lock() {
    let fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let mut bytes = vec![0_u8; 24 << 20];
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in bytes.chunks_mut(8) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&(word ^ (word >> 29)).to_le_bytes());
    }
    fs::write(fleet.path("data/large"), bytes).expect("write");
    let repository = fleet.read("config/repositories/main.toml");
    fleet.write("config/repositories/main.toml", &format!("{repository}limit_upload_kib = 1024\n"));
    eventually("the limit is applied", Duration::from_secs(10), || {
        let config = &fleet.get("/v1/hosts/web-1")["config"];
        (config["wanted"] == 2 && config["applied"] == 2).then_some(())
    });
    let running = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    let queued = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"check"}"#);
    let id = |job: &serde_json::Value| job["id"].as_str().expect("an id").to_owned();
    eventually("the backup runs", Duration::from_secs(20), || {
        (fleet.get(&format!("/v1/jobs/{}", id(&running)))["progress"]["bytes_done"].as_u64() > Some(0)).then_some(())
    });
    for job in [&queued, &running] {
        let (code, _) = fleet.try_post(&format!("/v1/jobs/{}/cancel", id(job)), "");
        assert_eq!(code, 202);
        assert_eq!(fleet.try_post(&format!("/v1/jobs/{}/cancel", id(job)), "").0, 202, "twice equals once");
    }
    let queued = fleet.wait_for_job(&id(&queued), Duration::from_secs(10));
    assert_eq!((queued["status"].as_str(), queued.get("started_at")), (Some("cancelled"), None), "{queued}");
    // The pack that is on its way, 16 MiB of them at the most, is still sent.
    assert_eq!(fleet.wait_for_job(&id(&running), Duration::from_secs(25))["status"], "cancelled");
    let log = fleet.curl(&[&format!("/v1/jobs/{}/log", id(&running))]).expect("a log").1;
    assert!(log.contains("cancelled: asked restic to stop"), "{log}");
    assert_eq!(fleet.run_job(r#"{"kind":"check"}"#)["status"], "succeeded", "no lock is left");
}
