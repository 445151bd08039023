//! What stands beside the versions: the commit, whether the files are its, and what was refused. And what holds an adoption up: a lock
//! of git's.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{Fleet, are_two_servers, eventually};
use crate::watch::{by_whole_paths, point, sh};

/// A server whose configuration is `fleet/` of a work tree, committed.
fn in_a_work_tree() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.write("config/hosts/web-2.toml", "groups = []\n");
    by_whole_paths(&fleet);
    sh(&fleet, "mkdir -p repository/a/b/c; mv config repository/a/b/c/fleet; echo hello > repository/README.md");
    point(&fleet, "config", "repository/a/b/c/fleet");
    sh(&fleet, "git init -q -b main repository; git -C repository add -A; git -C repository commit -qm 1");
    fleet.start_server();
    fleet
}

fn head(fleet: &Fleet) -> String {
    sh(fleet, "git -C repository rev-parse HEAD > head");
    fleet.read("head").trim().to_owned()
}

#[test]
fn the_commit_and_whether_the_files_are_its_stand_beside_every_version() {
    let fleet = in_a_work_tree();
    let shown = || {
        let view = fleet.get("/v1/config");
        let schedule = fleet.get("/v1/hosts/web-1")["schedule"].clone();
        assert!(view["files_run"] == true && !view["problems"].to_string().contains(".git"), "{view}");
        // One of the two answers may be from just before a reload.
        if (&view["commit"], &view["dirty"]) != (&schedule["commit"], &schedule["dirty"]) {
            return (String::from("differs"), None, Value::Null);
        }
        (
            schedule["commit"].as_str().unwrap_or_default().to_owned(),
            schedule["dirty"].as_bool(),
            schedule["wanted"].clone(),
        )
    };
    let becomes = |what: &str, expected: (&str, Option<bool>, u64)| {
        let (commit, dirty, version) = expected;
        eventually(what, Duration::from_secs(3), || {
            (shown() == (commit.to_owned(), dirty, version.into())).then_some(())
        });
    };
    let one = head(&fleet);
    assert_eq!(shown(), (one.clone(), Some(false), 1.into()), "a directory far below");
    fleet.write("repository/README.md", "other words");
    fleet.post("/v1/config/reload", "");
    assert_eq!(shown().1, Some(false), "what is not of the fleet does not count");
    fleet.set_cron("5 5 * * *");
    becomes("an edit", (&one, Some(true), 2));
    sh(&fleet, "git -C repository commit -qam 2");
    let two = head(&fleet);
    becomes("the same files are committed", (&two, Some(false), 2));
    fleet.write("config/hosts/web-3.toml", "");
    becomes("a file that git does not know", (&two, Some(true), 2));
    sh(&fleet, "git -C repository add -A; git -C repository commit -qm 3");
    let three = head(&fleet);
    becomes("committed too", (&three, Some(false), 2));
    sh(&fleet, "git -C repository commit -q --allow-empty -m 4; git -C repository pack-refs --all");
    let four = head(&fleet);
    becomes("a commit of nothing, packed", (&four, Some(false), 2));
    let facts: Vec<Value> = fs::read_dir(fleet.path("state/fleet"))
        .expect("a directory")
        .flat_map(|entry| {
            fs::read_to_string(entry.expect("an entry").path())
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|line| serde_json::from_str(&line).ok())
        .filter(|line: &Value| line["type"] == "config.committed")
        .collect();
    assert_eq!(
        facts.len(),
        5,
        "one after each of two edits, when git has answered, and one after each commit: {facts:?}"
    );
    // A directory that git is told to leave out has nothing to do with the commit around it.
    sh(&fleet, "cp -r repository/a/b/c/fleet repository/out; echo /out/ >> repository/.git/info/exclude");
    point(&fleet, "config", "repository/out");
    becomes("a directory that git leaves out", ("", None, 2));
    // Nor has one without any git, but it may tell.
    sh(
        &fleet,
        "git -C repository archive --output=../a.tar HEAD a; mkdir released; tar -xf a.tar -C released; rm a.tar",
    );
    fleet.write("released/a/b/c/fleet/.commit", &format!("{one}\n"));
    point(&fleet, "config", "released/a/b/c/fleet");
    becomes("an archive with its commit", (&one, None, 2));
}

#[test]
fn where_git_cannot_say_whether_the_files_are_the_commits_that_is_told_and_the_commit_is_known() {
    let mut fleet = in_a_work_tree();
    let commit = head(&fleet);
    let shown = |fleet: &Fleet| {
        let view = fleet.post("/v1/config/reload", "");
        assert_eq!((&view["commit"], &view["dirty"]), (&commit.as_str().into(), &Value::Null), "{view}");
        let problems = view["problems"].as_array().expect("problems").iter();
        let of_git: Vec<String> = problems
            .filter(|problem| problem["file"] == ".git")
            .map(|problem| problem["message"].to_string())
            .collect();
        assert_eq!(of_git.len(), 1, "{view}");
        of_git[0].clone()
    };
    fleet.start_server_with(&[("PATH", "/nowhere")]);
    assert!(shown(&fleet).contains("no program git"));
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata(fleet.path("config")).expect("its owner")) != 0 {
        eprintln!("skipped: a work tree of somebody else's needs root");
        return;
    }
    sh(&fleet, "chown -R 12345 repository");
    let home = fleet.dir.path().to_string_lossy().into_owned();
    fleet.start_server_with(&[("HOME", &home), ("XDG_CONFIG_HOME", &home)]);
    assert!(shown(&fleet).contains("safe.directory"));
    fleet.post("/v1/config/reload", "");
    assert_eq!(
        fleet.read("server.log").matches("safe.directory").count(),
        if are_two_servers() { 2 } else { 1 },
        "told once"
    );
    sh(&fleet, "chown -R 0 repository");
}

#[test]
fn while_git_has_its_lock_nothing_is_adopted_and_an_old_lock_is_told() {
    let fleet = in_a_work_tree();
    let wanted = || fleet.get("/v1/hosts/web-1")["schedule"]["wanted"].as_u64().expect("a version");
    let lock = fleet.path("repository/.git/index.lock");
    let told = |view: &Value| view["problems"].to_string().contains("index.lock");
    fs::write(&lock, "").expect("written");
    fleet.set_cron("6 6 * * *");
    // Longer than the quiet moment, and asked for: an answer comes, and says why.
    std::thread::sleep(Duration::from_millis(900));
    let view = fleet.post("/v1/config/reload", "");
    assert!(told(&view) && view["files_run"] == true && wanted() == 1, "{view}");
    fs::remove_file(&lock).expect("removed");
    eventually("the lock is gone", Duration::from_secs(2), || (wanted() == 2).then_some(()));
    assert!(!told(&fleet.get("/v1/config")));
    fs::write(&lock, "").expect("written");
    fleet.set_cron("7 7 * * *");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(wanted(), 2);
    let old = SystemTime::now() - Duration::from_secs(601);
    fs::File::options().write(true).open(&lock).and_then(|file| file.set_modified(old)).expect("set");
    eventually("the lock is an old one", Duration::from_secs(2), || (wanted() == 3).then_some(()));
    assert!(told(&fleet.get("/v1/config")));
}

#[test]
fn a_refusal_lists_its_problems_with_a_bound_survives_a_restart_and_ends_by_itself() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let good = fleet.get("/v1/config")["hash"].clone();
    let schedule = |n: usize| {
        format!("[[schedule]]\nid = \"s{n}\"\nkind = \"backup\"\ncron = \"99 * * * *\"\npaths = [\"/etc\"]\n")
    };
    let bad: String = (0..1500).map(schedule).collect();
    fleet.write("config/hosts/web-2.toml", &format!("repository = \"main\"\n{bad}"));
    let refused = fleet.post("/v1/config/reload", "");
    let count = refused["problem_count"].as_u64().expect("a count");
    assert!(count >= 1500 && refused["problems"].as_array().map(Vec::len) == Some(1000), "{count}");
    assert_eq!((&refused["hash"], &refused["files_run"]), (&good, &false.into()));
    assert_eq!(refused["refused"]["problem_count"], count);
    let journal = || -> Vec<Value> {
        let lines = fleet.read(&format!("state/fleet/{}.jsonl", chrono::Utc::now().format("%Y-%m")));
        lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|l: &Value| l["type"] == "config.rejected")
            .collect()
    };
    let facts = journal();
    assert_eq!((facts.len(), &facts[0]["payload"]["count"]), (1, &count.into()));
    assert_eq!(facts[0]["payload"]["problems"].as_array().map(Vec::len), Some(200));
    fleet.start_server();
    let after = fleet.get("/v1/config");
    for key in ["hash", "files_run", "refused", "problem_count"] {
        assert_eq!(after[key], refused[key], "{key}");
    }
    fs::remove_file(fleet.path("config/hosts/web-2.toml")).expect("removed");
    eventually("it ends by itself", Duration::from_secs(2), || {
        let view = fleet.get("/v1/config");
        (view["files_run"] == true && view["refused"].is_null() && view["hash"] == good).then_some(())
    });
}
