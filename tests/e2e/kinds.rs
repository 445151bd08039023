//! All six kinds and restore, with the restic of the PATH and every other that is there.

use std::fs;

use crate::harness::{Fleet, restics, text};

#[test]
fn all_six_kinds_and_restore_run_with_every_restic() {
    for restic in restics() {
        let fleet = Fleet::new().start(&restic);
        let succeed = |body: &str| {
            let job = fleet.run_job(body);
            assert_eq!(job["status"], "succeeded", "{restic}: {body}: {job}");
            job
        };
        succeed(r#"{"kind":"init"}"#);
        let first = succeed(r#"{"schedule_id":"data"}"#);
        assert_eq!(first["stats"]["files_new"], 20, "{restic}: {first}");
        fleet.write("data/file-3", "changed\n");
        let second = succeed(r#"{"schedule_id":"data"}"#);
        assert_eq!(second["stats"]["files_changed"], 1, "{restic}: {second}");
        succeed(r#"{"kind":"check"}"#);
        succeed(r#"{"kind":"check","options":{"read_data":true}}"#);
        let forgot = succeed(r#"{"kind":"forget","options":{"schedule":"data","retention_policy":{"keep_last":1}}}"#);
        assert_eq!(
            (&forgot["stats"]["snapshots_kept"], &forgot["stats"]["snapshots_removed"]),
            (&1.into(), &1.into()),
            "{restic}"
        );
        succeed(r#"{"kind":"prune","options":{"max_unused":"0"}}"#);
        succeed(r#"{"kind":"unlock"}"#);
        let snapshots = fleet.get("/v1/hosts/web-1/snapshots");
        let target = fleet.path("restore/tree");
        let body = format!(r#"{{"snapshot":"latest","target":{:?}}}"#, text(&target));
        let restored = fleet.post("/v1/hosts/web-1/restore?wait=120", &body);
        assert_eq!(restored["status"], "succeeded", "{restic}: {restored}");
        let data = fleet.path("data");
        let copy = target.join(data.strip_prefix("/").expect("absolute"));
        for entry in fs::read_dir(&data).expect("list") {
            let path = entry.expect("an entry").path();
            let other = copy.join(path.file_name().expect("a name"));
            assert_eq!(fs::read(&path).expect("read"), fs::read(&other).expect("restored"), "{restic}");
        }
        assert!(snapshots["snapshots"].as_array().is_some_and(|list| !list.is_empty()), "{restic}: {snapshots}");
        assert_eq!(restored["stats"]["target"], text(&target), "{restic}: where it went is told");
        let nothing = r#"{"snapshot":"latest","include":["/no/such/file"]}"#;
        let nothing = fleet.post("/v1/hosts/web-1/restore?wait=120", nothing);
        let error = nothing["error"].as_str().unwrap_or_default();
        assert!(nothing["status"] == "failed" && error.contains("include"), "{restic}: {nothing}");
        let again = fleet.post("/v1/hosts/web-1/restore?wait=120", &body);
        assert_eq!(again["status"], "failed", "{restic}: what is there is not overwritten: {again}");
    }
}
