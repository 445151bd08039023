//! Questions about snapshots with curl alone, with every restic that is there: the list, what a folder holds, where a file is, what
//! changed, how much it is; in pages, in one shape, and with plain words where there is no answer.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Fleet, eventually, restics, text};

/// A fleet with two snapshots: the second has another `file-3`, a new file, and lacks `file-4`.
fn two_snapshots(restic: &str) -> (Fleet, Vec<String>) {
    let fleet = Fleet::new().start(restic);
    std::fs::create_dir(fleet.path("data/sub")).expect("a folder");
    fleet.write("data/sub/deep", "deep\n");
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    fleet.write("data/file-3", "changed\n");
    fleet.write("data/new [1]", "new\n");
    std::fs::remove_file(fleet.path("data/file-4")).expect("removed");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let list = eventually("both are reported", Duration::from_secs(20), || {
        let list = fleet.get("/v1/hosts/web-1/snapshots")["snapshots"].as_array().cloned().unwrap_or_default();
        (list.len() == 2).then_some(list)
    });
    let ids = list.iter().rev().map(|snapshot| snapshot["id"].as_str().expect("an id").to_owned()).collect();
    (fleet, ids)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|entry| entry["name"].as_str().expect("a name")).collect()
}

#[test]
fn every_question_is_answered_alike_by_every_restic() {
    std::thread::scope(|scope| {
        restics().into_iter().for_each(|restic| drop(scope.spawn(move || ask_everything(&restic))));
    });
}

fn ask_everything(restic: &str) {
    let (fleet, ids) = two_snapshots(restic);
    let (old, new) = (&ids[0], &ids[1]);
    let data = fleet.path("data");
    let data = text(&data);
    let base = "/v1/hosts/web-1";
    let listed = fleet.get(&format!("{base}/snapshots/{new}/ls?path={data}"));
    assert_eq!(listed["entries"].as_array().expect("entries").len(), 21, "{restic}: {listed}");
    assert_eq!(
        (&listed["next"], &listed["truncated"], &listed["snapshot"]),
        (&Value::Null, &false.into(), &new.as_str().into())
    );
    let entry = listed["entries"].as_array().expect("a list").iter().find(|entry| entry["name"] == "file-3");
    let entry = entry.expect("it is there");
    let fields: Vec<&str> = entry.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["gid", "mtime", "name", "path", "permissions", "size", "type", "uid"], "{restic}");
    assert_eq!((&entry["size"], &entry["type"]), (&8.into(), &"file".into()), "{restic}: {entry}");
    assert_eq!(entry["path"], format!("{data}/file-3"));
    let below = fleet.get(&format!("{base}/snapshots/{}/ls?path={data}/sub&recursive=1", &new[..8]));
    assert_eq!(names(&below["entries"]), ["deep"], "{restic}: {below}");

    let found = fleet.get(&format!("{base}/find?pattern=file-3"));
    let versions = found["matches"].as_array().expect("matches");
    let sizes: Vec<_> = versions.iter().map(|entry| (entry["snapshot"].as_str(), entry["size"].as_u64())).collect();
    assert_eq!(sizes, [(Some(new.as_str()), Some(8)), (Some(old.as_str()), Some(4000))], "{restic}: newest first");
    assert!(versions[0]["snapshot_time"].as_str() > versions[1]["snapshot_time"].as_str(), "{restic}: {found}");
    let since = versions[0]["snapshot_time"].as_str().expect("a time");
    let found = fleet.get(&format!("{base}/find?pattern=FILE-*&ignore_case=1&since={since}"));
    assert_eq!(found["matches"].as_array().map(Vec::len), Some(19), "{restic}");
    assert_eq!(found["snapshots_searched"], 1, "{restic}");
    // As curl -G --data-urlencode and forms send a space; and a zone's plus as it stands.
    let found = fleet.get(&format!("{base}/find?pattern=new+*&until=2099-01-01T00:00:00+01:00"));
    assert_eq!(names(&found["matches"]), ["new [1]"], "{restic}: {found}");
    let (code, answer) = fleet.curl(&[&format!("{base}/find?pattern=x&since=yesterday")]).expect("an answer");
    assert!(code == 400 && answer.contains("since: ") && answer.contains("such as 2026-"), "{code} {answer}");

    let diff = fleet.get(&format!("{base}/snapshots/{old}/diff/{new}"));
    let mut changes: Vec<(&str, &str)> = diff["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| {
            let path = change["path"].as_str().expect("a path").strip_prefix(data).expect("below the data");
            (change["modifier"].as_str().expect("a modifier"), path)
        })
        .collect();
    changes.sort_unstable();
    assert_eq!(changes, [("+", "/new [1]"), ("-", "/file-4"), ("M", "/file-3")], "{restic}");
    assert_eq!(diff["statistics"]["added"]["files"], 1, "{restic}: {diff}");

    let all = fleet.get(&format!("{base}/stats"));
    let one = fleet.get(&format!("{base}/stats?snapshot={new}&mode=files-by-contents"));
    assert_eq!(
        (&all["stats"]["snapshots_count"], &one["stats"]["snapshots_count"]),
        (&2.into(), &1.into()),
        "{restic}"
    );
    assert!(all["stats"]["total_size"].as_u64() > one["stats"]["total_size"].as_u64(), "{restic}: {all} {one}");

    let (code, answer) = fleet.curl(&[&format!("{base}/snapshots/deadbeef/ls")]).expect("an answer");
    assert!(code == 422 && answer.contains("no snapshot deadbeef"), "{restic}: {code} {answer}");
    let (code, answer) = fleet.curl(&[&format!("{base}/snapshots/{new}/ls?path=/no/such/place")]).expect("an answer");
    assert!(code == 422 && answer.contains("/no/such/place"), "{restic}: {code} {answer}");
}

#[test]
fn pages_go_on_where_the_last_one_ended_and_nothing_runs_again() {
    let (fleet, ids) = two_snapshots("restic");
    let data = fleet.path("data");
    let path = format!("/v1/hosts/web-1/snapshots/{}/ls?path={}&limit=4", ids[0], text(&data));
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let page = fleet.get(&format!("{path}{next}"));
        seen.extend(names(&page["entries"]).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(cursor) => next = format!("&after={cursor}"),
            None => break,
        }
        assert!(seen.len() <= 21);
    }
    let root = fleet.get("/v1/hosts/web-1/snapshots/latest/ls");
    assert_eq!(names(&root["entries"]), [text(&data).split('/').nth(1).expect("a folder")], "{root}");
    let file = fleet.get(&format!("/v1/hosts/web-1/snapshots/{}/ls?path={}/sub/deep", ids[0], text(&data)));
    assert_eq!(names(&file["entries"]), ["deep"], "{file}");
    let none = fleet.get("/v1/hosts/web-1/find?pattern=nowhere");
    assert_eq!((none["matches"].as_array().map(Vec::len), &none["found"]), (Some(0), &0.into()), "{none}");
    let whole = fleet.get(&path.replace("limit=4", "limit=100"));
    assert_eq!(seen, names(&whole["entries"]));
    assert_eq!(seen.len(), 21);
    let asked = fleet.get("/v1/hosts/web-1/jobs?kind=ls")["jobs"].as_array().map(Vec::len);
    assert_eq!(asked, Some(4), "pages read what is there");
    let (code, answer) = fleet.curl(&[&format!("{path}&after=x")]).expect("an answer");
    assert!(code == 400 && answer.contains("bad-cursor"), "{code} {answer}");
}

#[test]
fn who_cannot_answer_now_says_so_at_once_and_where_to_ask_again() {
    let mut fleet = Fleet::started_with_script(
        "case \"$1\" in ls) while [ ! -e \"$(dirname \"$0\")/go\" ]; do sleep 0.05; done;; esac",
    );
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let ls = "/v1/hosts/web-1/snapshots/latest/ls?wait=0";
    let answers: Vec<(u16, String)> = (0..5).map(|_| fleet.curl(&[ls]).expect("an answer")).collect();
    let codes: Vec<u16> = answers.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [202, 202, 202, 202, 429], "{answers:?}");
    // Beside the questions that wait, the host's work goes on.
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let first: Value = serde_json::from_str(&answers[0].1).expect("JSON");
    let again = first["again"].as_str().expect("where to ask again").to_owned();
    assert_eq!(fleet.curl(&[&format!("{again}&wait=0")]).expect("an answer").0, 202);
    fleet.write("go", "");
    let answered = fleet.get(&again);
    assert_eq!(answered["entries"].as_array().map(Vec::len), Some(1), "{answered}");
    assert_eq!(answered["job"], first["job"]["id"]);
    eventually("all questions are answered", Duration::from_secs(20), || {
        fleet.get("/v1/hosts/web-1")["running"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    // What a question found is refreshed: the list of snapshots.
    let list = fleet.get("/v1/hosts/web-1/snapshots?refresh=1");
    assert_eq!(list["snapshots"].as_array().map(Vec::len), Some(2), "{list}");
    // A wrong password is restic's own word.
    std::fs::rename(fleet.path("repo/config"), fleet.path("repo/config-away")).expect("renamed");
    let (code, answer) = fleet.curl(&["/v1/hosts/web-1/stats"]).expect("an answer");
    assert!(code == 422 && answer.contains("query-failed"), "{code} {answer}");
    fleet.agent = None;
    fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"unlock"}"#);
    let revoked = fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("an answer");
    assert_eq!(revoked.0, 200);
    let (code, answer) = fleet.curl(&["/v1/hosts/web-1/stats"]).expect("an answer");
    assert!(code == 409 && answer.contains("offline"), "{code} {answer}");
}

/// A large folder, as a program that talks like restic tells it: more than the agent may hold back, so that it has to wait for the
/// server. `RESTIC_MANAGER_BARS=full`: of 100,000 files.
#[test]
fn a_large_folder_comes_whole_in_pages_that_all_take_as_long() {
    let is_full = std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full");
    let count = if is_full { 100_000 } else { 30_000 };
    let id = "deadbeef".repeat(8);
    let fleet = Fleet::started_with_script(&format!(
        r#"case "$1" in
    snapshots) echo '[{{"id":"{id}","time":"2026-01-01T00:00:00Z","hostname":"web-1","paths":["/data"]}}]'; exit 0 ;;
    ls) seq {count} | awk '{{printf "{{\"struct_type\":\"node\",\"name\":\"file-%d\",\"type\":\"file\",\"path\":\"/data/file-%d\",\"uid\":0,\"gid\":0,\"size\":%d,\"permissions\":\"-rw-r--r--\",\"mtime\":\"2026-01-01T00:00:00Z\"}}\n", $1, $1, $1}}'; exit 0 ;;
esac"#
    ));
    let path = format!("/v1/hosts/web-1/snapshots/{id}/ls?path=/data&limit=1000&wait=120");
    let (mut seen, mut next, mut pages) = (0, String::new(), Vec::new());
    loop {
        let began = std::time::Instant::now();
        let page = fleet.get(&format!("{path}{next}"));
        pages.push(began.elapsed());
        for entry in page["entries"].as_array().expect("entries") {
            seen += 1;
            assert_eq!(entry["size"], seen, "in order, each once");
        }
        assert_eq!(page["truncated"], false);
        let Some(cursor) = page["next"].as_str() else { break };
        next = format!("&after={cursor}");
    }
    assert_eq!((seen, pages.len()), (count, count as usize / 1000));
    // The first page waits for the answer itself.
    let sum = |pages: &[Duration]| pages.iter().sum::<Duration>();
    let (early, late) = (sum(&pages[1..6]), sum(&pages[pages.len() - 5..]));
    assert!(late < early * 5 + Duration::from_secs(1), "{early:?} and then {late:?}");
    assert_eq!(fleet.get("/v1/hosts/web-1/jobs?kind=ls")["jobs"].as_array().map(Vec::len), Some(1));
}
