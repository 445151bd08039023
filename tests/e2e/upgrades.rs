//! Programs of different versions: who is behind the agent that is wanted is shown everywhere, and replaces nothing by itself; and
//! agents and servers of other protocol versions are understood, or refused in words.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bad_input::{INSTANCE, STREAM, enrolled_with_curl, hello};
use crate::harness::{AGENT, Fleet, SERVER, eventually, text};
use crate::hostile_server::{Raw, Station, message};

/// server.toml wants this agent.
fn want(fleet: &Fleet, version: &str) {
    let update = format!(
        "secret_roots = [\"../secrets\"]\n[agent_update]\nlatest_version = \"{version}\"\npackage_url = \"https://packages.example.org/\"\nchangelog = \"restores are faster\"\n"
    );
    fleet.write("config/server.toml", &update);
    fleet.post("/v1/config/reload", "");
}

fn behind(fleet: &Fleet) -> Option<bool> {
    let (_, metrics) = fleet.curl(&["/metrics"]).expect("an answer");
    let line = metrics.lines().find(|line| line.starts_with("restic_manager_agent_behind{host=\"web-1\"} "))?;
    Some(line.ends_with(" 1"))
}

/// `restic-manager ...` of the fleet's server.
fn cli(fleet: &Fleet, arguments: &[&str]) -> String {
    let ran = Command::new(SERVER)
        .args(arguments)
        .envs([("RESTIC_MANAGER_URL", fleet.url()), ("RESTIC_MANAGER_TOKEN", fleet.token())])
        .output()
        .expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// `restic-manager-agent status ...`.
fn agent_status(fleet: &Fleet, more: &[&str]) -> String {
    let dir = fleet.path("agent");
    let ran = Command::new(AGENT).args(["status", "--dir", text(&dir)]).args(more).output().expect("it runs");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn who_is_behind_the_agent_that_is_wanted_is_shown_everywhere_and_replaces_nothing() {
    let mut fleet = Fleet::started();
    let own = fleet.get("/v1/hosts/web-1")["agent_version"].as_str().expect("a version").to_owned();
    let program = fs::metadata(AGENT).and_then(|metadata| metadata.modified()).expect("the program");
    assert_eq!((behind(&fleet), fleet.get("/v1/hosts/web-1").get("agent_update")), (None, None), "none is wanted");

    want(&fleet, "99.0.0");
    let update = json!({"latest_version": "99.0.0", "package_url": "https://packages.example.org/", "changelog": "restores are faster"});
    assert_eq!(fleet.get("/v1/hosts/web-1")["agent_update"], update);
    assert_eq!(fleet.get("/v1/hosts")["hosts"][0]["agent_update"], update);
    assert_eq!(behind(&fleet), Some(true));
    let listed = cli(&fleet, &["hosts"]);
    assert!(listed.contains(&format!("{own}, behind 99.0.0")), "{listed}");
    let shown = cli(&fleet, &["host", "web-1"]);
    assert!(shown.contains("agent 99.0.0: https://packages.example.org/ (restores are faster)"), "{shown}");
    let (_, page) = fleet.curl(&["/?show=behind"]).expect("a page");
    assert!(page.contains("1 with an older agent") && page.contains("host-web-1"), "{page}");
    let (_, page) = fleet.curl(&["/hosts/web-1"]).expect("a page");
    assert!(page.contains("99.0.0: https://packages.example.org/ (restores are faster)"), "{page}");

    // Each agent is told when it comes next.
    fleet.agent = None;
    fleet.start_agent();
    let said = format!("this agent is {own}, and the server wants 99.0.0: https://packages.example.org/");
    eventually("the agent says so", Duration::from_secs(20), || fleet.read("agent.log").contains(&said).then_some(()));
    eventually("its status too", Duration::from_secs(20), || {
        let status: Value = serde_json::from_str(&agent_status(&fleet, &["--json"])).ok()?;
        (status["agent_update"] == update).then_some(())
    });
    let status = agent_status(&fleet, &[]);
    assert!(
        status.contains("newer agent       99.0.0: https://packages.example.org/ (restores are faster)"),
        "{status}"
    );
    assert_eq!(fs::metadata(AGENT).and_then(|metadata| metadata.modified()).expect("the program"), program);

    // Up to date, also where a package of an older one is named.
    for version in [own.as_str(), "0.0.1"] {
        want(&fleet, version);
        assert_eq!(
            (behind(&fleet), fleet.get("/v1/hosts/web-1").get("agent_update")),
            (Some(false), None),
            "{version}"
        );
    }
    assert!(!cli(&fleet, &["hosts"]).contains("behind"));
    let (_, page) = fleet.curl(&["/"]).expect("a page");
    assert!(!page.contains("1 with an older agent"), "{page}");
}

/// An agent's request, made with curl.
fn ask(fleet: &Fleet, bearer: &str, arguments: &[&str]) -> (u16, Value) {
    let answer = fleet.ask(bearer, arguments).expect("an answer");
    (answer.code, answer.json())
}

#[test]
fn an_older_or_newer_agent_is_understood_or_refused_in_words() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let bearer = enrolled_with_curl(&fleet, "web-1");
    let say = |hello: &Value| ask(&fleet, &bearer, &["-d", &hello.to_string(), "/v1/agents/web-1/hello"]);

    // Older than anything that this server speaks.
    let mut older = hello(INSTANCE, STREAM);
    (older["protocol_version"], older["agent_version"]) = (json!(0), json!("0.0.1"));
    let (code, problem) = say(&older);
    assert_eq!((code, &problem["code"]), (426, &json!("protocol-version")), "{problem}");
    let detail = "this server speaks protocol version 1, the agent only 0: update the agent";
    assert_eq!(problem["detail"], detail);
    assert_eq!(fleet.get("/v1/hosts/web-1").get("agent_version"), None, "nothing is kept of who was refused");

    // The first release's, without what came later; and a later one's, with what this server does not know.
    let mut first = hello(INSTANCE, STREAM);
    first.as_object_mut().expect("an object").remove("running_jobs");
    assert_eq!(say(&first).0, 200);
    let mut newer = hello(INSTANCE, STREAM);
    (newer["protocol_version"], newer["agent_version"]) = (json!(9), json!("99.0.0"));
    (newer["moon_phase"], newer["capabilities"]) = (json!("full"), json!({"teleport": [1, 2]}));
    let (code, answer) = say(&newer);
    assert_eq!((code, &answer["protocol_version"]), (200, &json!(1)), "they meet at the lower one: {answer}");
    assert_eq!(fleet.get("/v1/hosts/web-1")["agent_version"], "99.0.0");
    let poll = format!(
        "/v1/agents/web-1/commands?instance={INSTANCE}&after=&wait=0&schedule_version=0&config_version=0&moon=full"
    );
    let (code, answer) = ask(&fleet, &bearer, &[&poll]);
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["messages"][0]["type"], "config.update");

    // Its events are kept as they came, and counted.
    let version = &answer["messages"][0]["payload"]["version"];
    let at = "2026-11-25T00:00:00Z";
    let known = json!({"seq": 1, "ts": at, "type": "config.ack", "payload": {"version": version, "applied_at": at, "mood": "glad"}, "more": 1});
    let unknown = json!({"seq": 2, "ts": at, "type": "moon.risen", "payload": {"phase": "full"}});
    let events = format!("/v1/agents/web-1/events?stream={STREAM}&instance={INSTANCE}&moon=full");
    let (code, acked) = ask(&fleet, &bearer, &["--data-binary", &format!("{known}\n{unknown}\n"), &events]);
    assert_eq!((code, &acked["acked"]), (200, &json!(2)), "{acked}");
    assert_eq!(&fleet.get("/v1/hosts/web-1")["config"]["applied"], version);
    let kept = fleet.journal();
    let of = |kind: &str| kept.iter().find(|line| line["type"] == kind).map(|line| line["payload"].clone());
    assert_eq!((of("config.ack"), of("moon.risen")), (Some(known["payload"].clone()), Some(json!({"phase": "full"}))));
}

/// An HTTP answer as bytes.
fn raw(status: &str, content_type: &str, body: &Value) -> Raw {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len());
    Raw::Bytes(format!("{head}{body}").into_bytes())
}

#[test]
fn an_agent_understands_a_newer_server_and_says_which_of_the_two_is_too_old() {
    const JOB: &str = "11111111-1111-4111-8111-111111111111";
    let mut station = Station::new("kinds = [\"backup\"]", "restic", "60s");
    let detail = "this server speaks protocol version 9, the agent only 1: update the agent";
    let refusal = json!({"type": "about:blank", "title": "Upgrade Required", "status": 426, "code": "protocol-version", "detail": detail});
    station.server.answer_with("hello", raw("426 Upgrade Required", "application/problem+json", &refusal));
    let odd = |version: u64| {
        json!({"server_time": chrono::Utc::now(), "protocol_version": version, "host": "web-1",
            "epoch": "0190b5a2-7c1e-4c3a-9f00-0123456789ab", "acked": {}, "poll_wait": 5, "moon_phase": "full"})
    };
    station.server.answer_with("hello", raw("200 OK", "application/json", &odd(9)));
    // The same server once it is content with version 1.
    station.server.answer_with("hello", raw("200 OK", "application/json", &odd(1)));
    station.start_agent();
    let log = || fs::read_to_string(station.path("agent.log")).expect("a log");
    assert!(log().contains(detail), "{}", log());
    assert!(log().contains("does not speak: update whichever of the two is older"), "{}", log());

    // Messages and kinds that it does not know are told and refused, and what comes with them is done.
    let settings = r#"{"version":1,"hash":"h","repo_url":"/srv/x","moon":{"phase":"full"}}"#;
    let command = format!(
        r#"{{"job_id":"{JOB}","kind":"teleport","options":{{}},"issued_at":"2026-11-25T00:00:00Z","expires_at":"2099-01-01T00:00:00Z","moon":1}}"#
    );
    let (risen, settings) = (message("moon.risen", "{}"), message("config.update", settings));
    station.server.send([risen, settings, message("command.run", &command)]);
    eventually("the command is refused", Duration::from_secs(20), || {
        (station.server.ends().get(JOB)? == "rejected").then_some(())
    });
    let said = station.server.said_of(JOB);
    assert!(said[0].1["error"].as_str().is_some_and(|error| error.contains("teleport")), "{said:?}");
    assert!(station.kept()[0].as_deref().is_some_and(|settings| settings.contains("/srv/x")));
    assert!(log().contains("a message of a later version is ignored") && log().contains("moon.risen"), "{}", log());
}
