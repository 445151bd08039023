//! Secrets that are no files of the server's: what a command prints reaches the hosts that it is for and is asked for seldom; a
//! secret of the agent's own reaches restic, for its repositories only, and never the server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Fleet, are_two_servers, eventually, text};
use crate::secrets::{files_below, found_in, observed_restic, reload, start_talkative_server};

const OF_THE_COMMAND: &str = "canary-11 of+the\"command/ö";
const OF_THE_AGENT: &str = "canary-12:of the agent's/own%41";

fn write_script(path: &Path, lines: &str) {
    fs::write(path, format!("#!/bin/sh\n{lines}\n")).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

fn write_repository(fleet: &Fleet, directory: &str, password: &str) {
    let text = format!("url = {:?}\npassword = {{ {password} }}\n", fleet.path(directory));
    fleet.write("config/repositories/main.toml", &text);
}

/// agent.toml, with its secret bound to these repositories.
fn bind(fleet: &Fleet, restic: &str, pattern: &Path) {
    fleet.permit_everything("agent", restic);
    let secret = fleet.path("agent-secret");
    let toml = fleet.read("agent/agent.toml");
    fleet.write("agent/agent.toml", &format!("{toml}[secrets.own]\nfile = {secret:?}\nrepositories = [{pattern:?}]\n"));
}

#[test]
fn secrets_of_commands_and_of_agents_go_where_they_should_and_nowhere_else() {
    let mut fleet = Fleet::new();
    let mut answers: Vec<(String, String)> = Vec::new();
    fleet.write("vault-content", OF_THE_COMMAND);
    fleet.write("agent-secret", &format!("{OF_THE_AGENT}\n"));
    fs::set_permissions(fleet.path("agent-secret"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let (vault, content, asked) = (fleet.path("vault"), fleet.path("vault-content"), fleet.path("asked"));
    let prints = format!("echo \"$1\" >> '{}'\ncat '{}'", text(&asked), text(&content));
    write_script(&vault, &prints);
    fleet.write("config/server.toml", &format!("[secret_commands]\nvault = [{vault:?}, \"{{host}}\"]\n"));
    write_repository(&fleet, "repo", "command = \"vault\"");
    start_talkative_server(&mut fleet);
    fleet.enroll("agent");
    let restic = observed_restic(&fleet);
    bind(&fleet, text(&restic), &fleet.path("repo-of-agent*"));
    fleet.start_agent();
    let mut job = |status: &str, body: &str| {
        let job = fleet.run_job(body);
        assert_eq!(job["status"], status, "{body}: {job}");
        answers.push((body.to_owned(), job.to_string()));
        job
    };

    // The command's: asked once, and again when somebody wants it.
    job("succeeded", r#"{"kind":"init"}"#);
    job("succeeded", r#"{"schedule_id":"data"}"#);
    // Each server asks for itself.
    let once = "web-1\n".repeat(if are_two_servers() { 2 } else { 1 });
    assert_eq!(fleet.read("asked"), once);
    fleet.set_cron("1 3 * * *");
    eventually("the edit is with the agent", Duration::from_secs(20), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["schedule"]["applied"] == 2).then_some(())
    });
    assert_eq!(fleet.read("asked"), once, "an edit asks nobody");
    // A failure is told with its place, and the host keeps what it has.
    write_script(&vault, &format!("cat '{0}'\ncat '{0}' >&2\necho no-lease >&2\nexit 7", text(&content)));
    let (_, answer) = fleet.try_post("/v1/config/reload", "{}");
    let problem = answer["problems"].to_string();
    for part in ["repositories/main.toml", "\"line\":2", "vault", "exit code 7"] {
        assert!(problem.contains(part), "{part} is missing: {answer}");
    }
    assert!(!problem.contains("no-lease"), "what it said may be a token: {answer}");
    job("succeeded", r#"{"kind":"check"}"#);
    write_script(&vault, &prints);
    reload(&fleet);
    assert_eq!(fleet.read("asked"), format!("{once}web-1\n"), "the server that was told to");
    let config = fleet.get("/v1/config");
    // Another server has its own memory of the failure, for two minutes.
    if !are_two_servers() {
        assert_eq!(
            config["problems"].as_array().map(Vec::len),
            Some(1),
            "retention without maintenance alone: {config}"
        );
    }

    // The agent's: with its repositories only.
    write_repository(&fleet, "other", "agent = \"own\"");
    reload(&fleet);
    let refused = job("failed", r#"{"kind":"init"}"#);
    let error = refused["error"].as_str().unwrap_or_default();
    assert!(error.contains("[secrets.own] of agent.toml") && error.contains("repositories"), "{error}");
    write_repository(&fleet, "repo-of-agent", "agent = \"unknown\"");
    reload(&fleet);
    let refused = job("failed", r#"{"kind":"init"}"#);
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("[secrets.unknown]")), "{refused}");
    write_repository(&fleet, "repo-of-agent", "agent = \"own\"");
    reload(&fleet);
    job("succeeded", r#"{"kind":"init"}"#);
    job("succeeded", r#"{"schedule_id":"data"}"#);
    fs::set_permissions(fleet.path("agent-secret"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let open = job("failed", r#"{"kind":"check"}"#);
    assert!(open["error"].as_str().is_some_and(|error| error.contains("chmod 600")), "{open}");

    for path in
        ["/v1/config", "/v1/hosts/web-1", "/v1/hosts/web-1/jobs?limit=100", "/v1/hosts/web-1/schedules", "/v1/events"]
    {
        answers.push((path.to_owned(), fleet.curl(&[path]).expect("an answer").1));
    }
    answers.push(("the reload".to_owned(), answer.to_string()));
    (fleet.agent, fleet.server) = (None, None);
    let canaries = [("the command's", OF_THE_COMMAND.to_owned()), ("the agent's", OF_THE_AGENT.to_owned())];
    let mut leaks = Vec::new();
    for path in files_below(fleet.dir.path()) {
        let name = text(path.strip_prefix(fleet.dir.path()).expect("below")).to_owned();
        if !["vault-content", "agent-secret", "observed-environment"].contains(&name.as_str()) {
            let found = found_in(&fs::read(&path).expect("read"), &canaries);
            leaks.extend(found.into_iter().map(|hit| format!("{name}: {hit}")));
        }
    }
    for (what, answer) in &answers {
        leaks.extend(found_in(answer.as_bytes(), &canaries).into_iter().map(|hit| format!("answer to {what}: {hit}")));
    }
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    let environment = fs::read(fleet.path("observed-environment")).expect("read");
    assert!(
        canaries.iter().all(|canary| !found_in(&environment, std::slice::from_ref(canary)).is_empty()),
        "restic got both"
    );
    let settings: Value = serde_json::from_str(&fleet.read("agent/settings.json")).expect("JSON");
    assert_eq!(
        (&settings["repo_password"], &settings["repo_password_secret"]),
        (&"".into(), &"own".into()),
        "the name alone"
    );
}
