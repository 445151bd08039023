//! A repository that another restic, started by hand, has locked: jobs wait for it, and who may remove its lock.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fleet, PASSWORD, eventually};
use crate::troubles::oldest_and_newest;

/// restic with the fleet's repository, beside its agent.
pub(crate) fn restic_by_hand(fleet: &Fleet, restic: &str, arguments: &[&str]) -> Child {
    Command::new(restic)
        .args(arguments)
        .env("RESTIC_REPOSITORY", fleet.path("repo"))
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("RESTIC_CACHE_DIR", fleet.path("cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("restic runs")
}

/// It ends well, and its lock with it.
pub(crate) fn let_go(holder: &mut Child) {
    use std::io::Write;
    holder.stdin.take().expect("a pipe").write_all(b"that is all").expect("written");
    assert!(holder.wait().expect("wait").success());
}

pub(crate) fn locks(fleet: &Fleet) -> usize {
    locks_in(&fleet.path("repo"))
}

/// Of a repository in a directory. What restic is still writing has another name and is no lock; it stays when restic is killed.
pub(crate) fn locks_in(repository: &Path) -> usize {
    let files = fs::read_dir(repository.join("locks")).expect("locks");
    files.filter(|file| file.as_ref().is_ok_and(|file| !file.file_name().to_string_lossy().contains("-tmp-"))).count()
}

#[test]
fn a_job_waits_for_a_lock_as_long_as_its_repository_says_with_any_restic() {
    for restic in oldest_and_newest() {
        let fleet = Fleet::new();
        let repository = fleet.read("config/repositories/main.toml");
        fleet.write("config/repositories/main.toml", &format!("{repository}retry_lock = \"60s\"\n"));
        let fleet = fleet.start(&restic);
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        let mut holder = restic_by_hand(&fleet, &restic, &["backup", "--stdin", "--stdin-filename", "hold"]);
        eventually("another restic has its lock", Duration::from_secs(20), || (locks(&fleet) == 1).then_some(()));
        let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"check"}"#);
        let id = job["id"].as_str().expect("an id");
        eventually("restic is started", Duration::from_secs(20), || {
            let lines = fleet.curl(&[&format!("/v1/jobs/{id}/log")])?.1;
            lines.contains("restic check").then_some(())
        });
        let began = Instant::now();
        eventually("it has looked at the lock and waits", Duration::from_secs(20), || {
            assert_eq!(fleet.get(&format!("/v1/jobs/{id}"))["status"], "running", "{restic}");
            (began.elapsed() > Duration::from_secs(2)).then_some(())
        });
        let_go(&mut holder);
        let job = fleet.wait_for_job(id, Duration::from_secs(60));
        assert_eq!(job["status"], "succeeded", "{restic}: {job}");
    }
}

#[test]
fn only_an_admin_may_have_the_locks_of_running_jobs_removed() {
    use sha2::Digest;
    let fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let mut server = fleet.read("config/server.toml");
    for (role, token) in [("admin", fleet.token()), ("operator", "an-operator".to_owned())] {
        let hash: String = sha2::Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        server += &format!("[[tokens]]\nname = {role:?}\nrole = {role:?}\nsha256 = {hash:?}\n");
    }
    fleet.write("config/server.toml", &server);
    let ask = |header: &str, options: Value| {
        let body = json!({"kind": "unlock", "options": options}).to_string();
        let arguments =
            ["-X", "POST", "-H", "Content-Type: application/json", "-d", &body, "/v1/hosts/web-1/jobs?wait=60"];
        let (code, answer) = fleet.curl_as(header, &arguments).expect("an answer");
        (code, serde_json::from_str::<Value>(&answer).expect("JSON"))
    };
    let operator = "Authorization: Bearer an-operator";
    let (_, job) = eventually("the operator is known", Duration::from_secs(20), || {
        Some(ask(operator, json!({}))).filter(|(code, _)| *code == 201)
    });
    assert_eq!(job["status"], "succeeded", "{job}");
    let mut holder = restic_by_hand(&fleet, "restic", &["backup", "--stdin", "--stdin-filename", "hold"]);
    eventually("another restic has its lock", Duration::from_secs(20), || (locks(&fleet) == 1).then_some(()));
    let (code, problem) = ask(operator, json!({"remove_all": true}));
    assert_eq!(code, 403, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("admin")), "{problem}");
    ask(operator, json!({}));
    assert_eq!(locks(&fleet), 1, "a plain unlock leaves the lock of one that runs");
    let (code, job) = ask(&fleet.bearer(), json!({"remove_all": true}));
    assert_eq!((code, &job["status"]), (201, &json!("succeeded")), "{job}");
    assert_eq!(locks(&fleet), 0);
    let _ = holder.kill();
    let _ = holder.wait();
}
