//! What must not outlive its reason: requests that wait for a token that is gone, enrollment tokens from before a revocation, and
//! the settings of an enrollment that came to nothing.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::harness::{AGENT, Fleet, eventually, text};

#[test]
fn a_request_that_waits_ends_within_a_second_of_its_token() {
    let mut fleet = Fleet::new();
    let sha256 = |text: &str| data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()));
    let settings = fleet.read("config/server.toml");
    let token =
        |name: &str, role: &str| format!("[[tokens]]\nname = {name:?}\nrole = {role:?}\nsha256 = {:?}\n", sha256(name));
    fleet.write("config/server.toml", &format!("{settings}{}{}", token("boss", "admin"), token("eyes", "viewer")));
    fleet.start_server();
    let job = fleet
        .ask(
            "Authorization: Bearer boss",
            &[
                "-H",
                "Content-Type: application/json",
                "-d",
                r#"{"kind":"init","queue_for":"1h"}"#,
                "/v1/hosts/web-1/jobs",
            ],
        )
        .expect("an answer")
        .json();
    let log = format!("/v1/jobs/{}/log?follow=1", job["id"].as_str().expect("an id"));
    let waiting: Vec<_> = ["/v1/events?after=now&wait=60", &log]
        .map(|path| {
            let url = format!("{}{path}", fleet.url());
            Command::new("curl")
                .args(["-sS", "-m", "90", "-H", "Authorization: Bearer eyes", &url])
                .spawn()
                .expect("curl")
        })
        .into();
    std::thread::sleep(Duration::from_millis(500));
    fleet.write("config/server.toml", &format!("{settings}{}", token("boss", "admin")));
    eventually("the token is gone", Duration::from_secs(20), || {
        (fleet.ask("Authorization: Bearer eyes", &["/v1/hosts"]).expect("an answer").code == 401).then_some(())
    });
    let gone = Instant::now();
    for mut curl in waiting {
        eventually("the request ends", Duration::from_secs(10), || curl.try_wait().expect("wait"));
    }
    assert!(gone.elapsed() < Duration::from_secs(3), "{:?}", gone.elapsed());
}

#[test]
fn a_revocation_takes_the_hosts_open_enrollment_tokens_with_it() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let made = |fleet: &Fleet| {
        let answer = fleet.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#);
        answer["token"].as_str().expect("a token").to_owned()
    };
    let spare = made(&fleet);
    fleet.enroll("agent");
    assert_eq!(fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("an answer").0, 200);
    let refused = enroll(&fleet, "second", &spare, &[]);
    assert_eq!(refused.status.code(), Some(4), "{}", String::from_utf8_lossy(&refused.stderr));
    let anew = enroll(&fleet, "third", &made(&fleet), &[]);
    assert!(anew.status.success(), "{}", String::from_utf8_lossy(&anew.stderr));
}

fn enroll(fleet: &Fleet, dir: &str, token: &str, more: &[&str]) -> Output {
    let (url, dir) = (fleet.url(), fleet.path(dir));
    let arguments = ["enroll", "--server", &url, "--token", token, "--host", "web-1", "--dir", text(&dir)];
    Command::new(AGENT).args(arguments).args(more).current_dir(fleet.dir.path()).output().expect("enroll runs")
}

#[test]
fn the_flags_of_an_enrollment_count_until_one_has_come_to_something() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let token =
        fleet.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#)["token"].as_str().expect("a token").to_owned();
    let ca = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("a certificate").cert.pem();
    fleet.write("ca.pem", &ca);
    let settings = |fleet: &Fleet| fleet.read("agent/agent.toml");

    // A flag that cannot be used writes nothing, and repeats no password.
    let refused = enroll(&fleet, "agent", &token, &["--proxy", "http://user:s3cret@proxy:3128"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("password_file") && !told.contains("s3cret"), "{told}");
    assert_eq!(settings(&fleet), "");

    // An attempt that fails leaves nothing that a second one could not change; relative paths are this command's.
    assert!(!enroll(&fleet, "agent", "wrong", &["--ca-file", "no-such.pem"]).status.success());
    assert!(enroll(&fleet, "agent", &token, &["--ca-file", "ca.pem"]).status.success());
    assert!(settings(&fleet).contains(&format!("ca_file = {:?}", fleet.path("ca.pem"))), "{}", settings(&fleet));

    // From then on the file is the administrator's.
    let before = settings(&fleet);
    let refused = enroll(&fleet, "agent", &token, &["--ca-file", "other.pem"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("says otherwise of ca_file"), "{told}");
    assert_eq!(settings(&fleet), before);
}

#[test]
fn an_agent_does_not_start_with_files_that_others_could_change() {
    use std::os::unix::fs::PermissionsExt;
    let mut fleet = Fleet::new();
    fleet.start_server();
    fleet.enroll("agent");
    for (file, mode, good) in
        [("agent/agent.toml", 0o666, 0o600), ("agent/identity.json", 0o644, 0o600), ("agent", 0o777, 0o700)]
    {
        let set =
            |mode| std::fs::set_permissions(fleet.path(file), std::fs::Permissions::from_mode(mode)).expect("chmod");
        set(mode);
        let ran = Command::new(AGENT).args(["run", "--dir", text(&fleet.path("agent"))]).output().expect("it runs");
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(1) && told.contains("chmod"), "{file}: {told}");
        set(good);
    }
}
