//! Getting data back with curl alone: a file of some day into a directory, the whole tree in place on a wiped host that was enrolled
//! again, another host's snapshot where the policy says so; and what is refused, with the line to change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, restics, text};

/// The same names, contents, modes, times and links.
fn assert_same(left: &std::path::Path, right: &std::path::Path, restic: &str) {
    let differences = Command::new("diff").args(["-r", "--no-dereference"]).args([left, right]).output().expect("diff");
    assert!(differences.status.success(), "{restic}: {}", String::from_utf8_lossy(&differences.stdout));
    let listed = |dir: &std::path::Path| {
        let found = Command::new("find").arg(".").args(["-printf", "%p %y %m %T@ %l\n"]).current_dir(dir).output();
        let mut lines: Vec<String> =
            String::from_utf8(found.expect("find").stdout).expect("text").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(listed(left), listed(right), "{restic}");
}

/// agent.toml's policy with these restore roots, and other lines.
fn policy(fleet: &Fleet, restic: &str, roots: &[&str], more: &str) {
    fleet.permit_everything("agent", restic);
    let settings = fleet.read("agent/agent.toml");
    let (before, _) = settings.split_once("restore_roots").expect("it is the last line");
    fleet.write("agent/agent.toml", &format!("{before}restore_roots = {roots:?}\n{more}\n"));
}

fn restore(fleet: &Fleet, body: &Value) -> Value {
    fleet.post("/v1/hosts/web-1/restore?wait=120", &body.to_string())
}

#[test]
fn a_wiped_host_gets_one_file_and_then_everything_back() {
    std::thread::scope(|scope| {
        restics().into_iter().for_each(|restic| drop(scope.spawn(move || wipe_and_restore(&restic))));
    });
}

fn wipe_and_restore(restic: &str) {
    let mut fleet = Fleet::new().start(restic);
    let data = fleet.path("data");
    fs::create_dir(data.join("sub")).expect("a folder");
    fleet.write("data/sub/script", "#!/bin/sh\n");
    fs::set_permissions(data.join("sub/script"), fs::Permissions::from_mode(0o750)).expect("chmod");
    std::os::unix::fs::symlink("file-1", data.join("link")).expect("a link");
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{restic}: {body}");
    }
    fleet.write("data/file-7", "the wrong edit\n");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    fs::rename(&data, fleet.path("kept")).expect("kept for comparison");

    // The host is gone: with it its agent, its credential and everything that it had.
    fleet.agent = None;
    fs::remove_dir_all(fleet.path("agent")).expect("wiped");
    fleet.enroll("agent");
    policy(&fleet, restic, &[text(&fleet.path("restore")), text(&data)], "");
    fleet.start_agent();

    let found = fleet.get("/v1/hosts/web-1/find?pattern=file-7");
    let versions = found["matches"].as_array().expect("matches");
    let sizes: Vec<u64> = versions.iter().filter_map(|entry| entry["size"].as_u64()).collect();
    assert_eq!(sizes, [15, 4000], "{restic}: {found}");
    let (new, old) = (versions[0]["snapshot"].clone(), versions[1]["snapshot"].clone());
    let one = restore(&fleet, &json!({"snapshot": old, "include": [data.join("file-7")]}));
    assert_eq!(one["status"], "succeeded", "{restic}: {one}");
    let target = one["stats"]["target"].as_str().expect("where it went");
    let copy = std::path::Path::new(target).join(data.strip_prefix("/").expect("absolute")).join("file-7");
    assert_eq!(fs::read_to_string(copy).expect("restored"), "7\n".repeat(2000), "{restic}");
    assert!(one["stats"]["files_restored"].as_u64() >= Some(1), "{restic}: {one}");

    // What is around it stays as it is.
    fs::set_permissions(fleet.path("."), fs::Permissions::from_mode(0o711)).expect("chmod");
    let whole = restore(&fleet, &json!({"snapshot": new, "in_place": true, "confirm": "web-1"}));
    assert_eq!((&whole["status"], &whole["stats"]["target"]), (&"succeeded".into(), &"/".into()), "{restic}: {whole}");
    assert_same(&fleet.path("kept"), &data, restic);
    let mode = fs::metadata(fleet.path(".")).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o711, "{restic}");
}

#[test]
fn what_may_not_be_restored_is_refused_with_the_line_to_change() {
    let mut fleet = Fleet::new().start("restic");
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    // Another host's snapshot in the same repository, made by hand.
    let other = Command::new("restic")
        .args(["-q", "-r", text(&fleet.path("repo")), "backup", "--host", "db-1", text(&fleet.path("secrets"))])
        .env("RESTIC_PASSWORD", crate::harness::PASSWORD)
        .env("RESTIC_CACHE_DIR", fleet.path("cache"))
        .status();
    assert!(other.expect("restic runs").success());
    let listed = Command::new("restic")
        .args(["-r", text(&fleet.path("repo")), "snapshots", "--json", "--host", "db-1"])
        .env("RESTIC_PASSWORD", crate::harness::PASSWORD)
        .env("RESTIC_CACHE_DIR", fleet.path("cache"))
        .output();
    let listed: Value = serde_json::from_slice(&listed.expect("restic runs").stdout).expect("JSON");
    let foreign = listed[0]["id"].as_str().expect("an id").to_owned();

    let refusals = [
        (json!({"snapshot": "latest", "in_place": true}), "confirm"),
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-2"}), "web-1"),
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-1", "target": "/x"}), "target"),
        (json!({"snapshot": "latest", "overwrite": "never"}), "in_place"),
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-1", "overwrite": "sometimes"}), "sometimes"),
    ];
    for (body, named) in refusals {
        let (code, answer) = fleet.try_post("/v1/hosts/web-1/restore", &body.to_string());
        assert!(code == 422 && answer.to_string().contains(named), "{body}: {code} {answer}");
    }
    let failures = [
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-1"}), "restore_roots"),
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-1", "exclude": ["x"]}), "restore_roots"),
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-1", "include": ["*"]}), "no patterns"),
        (json!({"snapshot": foreign}), "restore_from"),
        (json!({"snapshot": "latest", "in_place": true, "confirm": "web-1", "overwrite": "never"}), "0.14"),
        (json!({"snapshot": "0123456789"}), "no snapshot 0123456789"),
    ];
    for (body, named) in failures {
        let job = restore(&fleet, &body);
        let error = job["error"].as_str().unwrap_or_default();
        assert!(job["status"] == "failed" && error.contains(named), "{body}: {job}");
    }
    let (code, answer) = fleet.curl(&[&format!("/v1/hosts/web-1/snapshots/{foreign}/ls")]).expect("an answer");
    assert!(code == 422 && answer.contains("restore_from"), "{code} {answer}");

    fleet.agent = None;
    policy(&fleet, "restic", &[text(&fleet.path("restore"))], "restore_from = [\"db-*\"]");
    fleet.start_agent();
    let job = restore(&fleet, &json!({"snapshot": foreign}));
    assert_eq!(job["status"], "succeeded", "{job}");
    let target = job["stats"]["target"].as_str().expect("where it went");
    let secrets = fleet.path("secrets");
    assert_same(&secrets, &std::path::Path::new(target).join(secrets.strip_prefix("/").expect("absolute")), "restic");
}

#[test]
fn the_repositorys_size_and_last_check_are_beside_the_host() {
    let fleet = Fleet::started();
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    let shown = |fits: &dyn Fn(&Value) -> bool| {
        eventually("the repository is shown", Duration::from_secs(30), || {
            let repository = fleet.get("/v1/hosts/web-1")["repository"].take();
            fits(&repository).then_some(repository)
        })
    };
    let first = shown(&|repository| repository["snapshot_count"] == 1);
    assert!(first["size_bytes"].as_u64() > Some(0) && first["dedup_ratio"].as_f64() > Some(0.0), "{first}");
    assert_eq!((&first["lock_state"], &first["last_check_at"]), (&"unlocked".into(), &Value::Null));
    assert_eq!(fleet.run_job(r#"{"kind":"check"}"#)["status"], "succeeded");
    let checked = shown(&|repository| repository["last_check_status"] == "succeeded");
    assert!(checked["last_check_at"].is_string(), "{checked}");
}

/// A host with two schedules, and names that are patterns too.
#[test]
fn the_latest_is_all_of_what_is_asked_for_and_a_path_is_taken_letter_for_letter() {
    let fleet = Fleet::new();
    let (data, db) = (fleet.path("data"), fleet.path("db"));
    fs::create_dir(&db).expect("a folder");
    fleet.write("db/dump", "tables");
    fleet.write("data/a[1]*?.txt", "the one");
    fleet.write("data/a1zz.txt", "the other");
    let host = fleet.read("config/hosts/web-1.toml");
    fleet.write(
        "config/hosts/web-1.toml",
        &format!("{host}\n[[schedule]]\nid = \"db\"\nkind = \"backup\"\ncron = \"@yearly\"\npaths = [{db:?}]\n"),
    );
    let mut fleet = fleet.start("restic");
    policy(&fleet, "restic", &[text(&fleet.path("restore")), text(&data), text(&db)], "");
    fleet.agent = None;
    fleet.start_agent();
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#, r#"{"schedule_id":"db"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    let named = data.join("a[1]*?.txt");
    let one = restore(&fleet, &json!({"snapshot": "latest", "paths": [named]}));
    assert_eq!((&one["status"], &one["stats"]["snapshot_paths"]), (&"succeeded".into(), &json!([data])), "{one}");
    let below = |job: &Value, path: &std::path::Path| {
        let target = job["stats"]["target"].as_str().expect("where it went").to_owned();
        std::path::Path::new(&target).join(path.strip_prefix("/").expect("absolute"))
    };
    assert_eq!(fs::read_to_string(below(&one, &named)).expect("restored"), "the one");
    assert!(!below(&one, &data.join("a1zz.txt")).exists(), "what the name would fit as a pattern");
    let all = restore(&fleet, &json!({"snapshot": "latest"}));
    let told = all["warnings"][0].as_str().expect("a warning");
    assert!(below(&all, &db.join("dump")).exists() && told.contains("schedule \"data\""), "{all}");

    fs::write(&named, "a wrong edit").expect("written");
    fs::remove_file(db.join("dump")).expect("removed");
    let in_place = |more: Value| {
        let mut body = json!({"snapshot": "latest", "in_place": true, "confirm": "web-1"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        restore(&fleet, &body)
    };
    let refused = in_place(json!({}));
    let error = refused["error"].as_str().expect("an error");
    assert!(error.contains("schedule \"data\"") && error.contains("name a `schedule`"), "{refused}");
    assert_eq!(in_place(json!({"paths": [named]}))["status"], "succeeded");
    assert_eq!(fs::read_to_string(&named).expect("restored"), "the one");
    assert_eq!(in_place(json!({"schedule": "db"}))["status"], "succeeded");
    assert_eq!(fs::read_to_string(db.join("dump")).expect("restored"), "tables");
    // What is not there is told by name, also beside what is.
    for in_place in [false, true] {
        for (paths, rest) in [(vec![data.join("nosuch")], false), (vec![named.clone(), data.join("nosuch")], true)] {
            let mut body = json!({"snapshot": "latest", "paths": paths});
            if in_place {
                body["in_place"] = true.into();
                body["confirm"] = "web-1".into();
            }
            let missing = restore(&fleet, &body);
            let error = missing["error"].as_str().expect("an error");
            assert!(error.contains("/nosuch\"; `find`") && !error.contains("a[1]"), "{missing}");
            assert_eq!(error.ends_with("the rest was restored"), rest, "{missing}");
            assert_eq!(
                (&missing["status"], missing["stats"].get("files_restored")),
                (&json!("failed"), None),
                "{missing}"
            );
        }
    }
}
