//! Restore tests: what a verify job finds of a sample of the newest snapshot's files, with every restic.

use std::fs;

use serde_json::json;

use crate::harness::Fleet;
use crate::troubles::oldest_and_newest;

/// Another content of the same size, behind the back of the file's time.
fn damage(fleet: &Fleet, file: &str) {
    let path = fleet.path(file);
    let before = fs::metadata(&path).expect("there").modified().expect("a time");
    let content = fs::read_to_string(&path).expect("read");
    fs::write(&path, content.replace('\n', " ")).expect("write");
    fs::File::options().write(true).open(&path).expect("open").set_modified(before).expect("set");
}

#[test]
fn a_sample_of_what_was_backed_up_is_restored_and_compared() {
    for restic in oldest_and_newest() {
        let fleet = Fleet::new();
        for name in ["a [x]*?", "back\\slash", "new\nline", "ümlaut", "-dash", "empty"] {
            fleet.write(&format!("data/{name}"), if name == "empty" { "" } else { name });
        }
        let file = fleet.read("config/hosts/web-1.toml");
        let schedule = "[[schedule]]\nid = \"proof\"\nkind = \"verify\"\ncron = \"0 4 * * *\"\noptions = { schedule = \"data\", sample_files = 100, sample_bytes = \"10M\" }\n";
        fleet.write("config/hosts/web-1.toml", &format!("{file}{schedule}"));
        let fleet = fleet.start(&restic);
        let run = |body: &str, status: &str| {
            let job = fleet.run_job(body);
            assert_eq!(job["status"], status, "{restic}: {body}: {job}");
            assert!(!fleet.path("agent/verify").join(job["id"].as_str().expect("an id")).exists(), "{restic}");
            job
        };
        run(r#"{"kind":"init"}"#, "succeeded");
        let nothing = run(r#"{"schedule_id":"proof"}"#, "failed");
        assert!(nothing["error"].as_str().is_some_and(|said| said.contains("snapshot")), "{restic}: {nothing}");
        run(r#"{"schedule_id":"data"}"#, "succeeded");
        let all = run(r#"{"schedule_id":"proof"}"#, "succeeded");
        let stats = &all["stats"];
        assert_eq!((&stats["checked"], &stats["same"]), (&json!(26), &json!(26)), "{restic}: {all}");
        let some = run(r#"{"kind":"verify"}"#, "succeeded");
        assert_eq!(some["stats"]["checked"], 20, "{restic}: {some}");

        // What is another file by now, or none, is no damage; what only looks the same is.
        fleet.write("data/file-1", "edited since");
        fs::remove_file(fleet.path("data/file-2")).expect("removed");
        let all = run(r#"{"schedule_id":"proof"}"#, "succeeded");
        let stats = &all["stats"];
        let counts = ["same", "changed_since", "missing_since", "differing"].map(|name| stats[name].as_u64());
        assert_eq!(counts, [Some(24), Some(1), Some(1), Some(0)], "{restic}: {all}");
        damage(&fleet, "data/file-3");
        let all = run(r#"{"schedule_id":"proof"}"#, "failed");
        let said = all["error"].as_str().unwrap_or_default();
        assert!(said.contains("data/file-3") && !said.contains("file-1"), "{restic}: {all}");
        assert_eq!(all["stats"]["differing"], 1, "{restic}: {all}");
        assert_eq!(fs::read_dir(fleet.path("agent/verify")).expect("list").count(), 0, "{restic}: nothing is left");
        if restic == "restic" {
            let alerts = fleet.get("/v1/alerts");
            assert!(alerts.to_string().contains("verify_failed"), "{alerts}");
        }
    }
}
