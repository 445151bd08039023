//! The real agent with nothing to do but its polls: memory, the program's size, and how often it runs at all.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{Target, request};
use crate::processes::{AGENT, Process, Server, context_switches, rss_kib};
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome, fleet_files};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let dir = bench.new_dir("idle")?;
    fleet_files::make_fleet(&dir, 1)?;
    let server = Server::start(&dir, None)?;
    let agent = start_agent(&dir, &server, "")?;
    // Two polls of 30 s and their jitter.
    let window = Duration::from_secs(bench.size(3, 66));
    std::thread::sleep(Duration::from_secs(bench.size(2, 10)));
    let bar = bench.bar(1, "watching the agent");
    let before = context_switches(agent.id())?;
    let began = Instant::now();
    std::thread::sleep(window);
    let switches = (context_switches(agent.id())? - before) / began.elapsed().as_secs_f64();
    let resident = rss_kib(agent.id())? / 1024.0;
    bar.finish_and_clear();
    drop(agent);
    server.stop()?;
    #[allow(clippy::cast_precision_loss, reason = "bytes of a program")]
    let size = std::fs::metadata(AGENT).map_err(|error| error.to_string())?.len() as f64 / 1024.0 / 1024.0;
    let line = |what: &str, unit, ours: f64, goal| Line {
        row: "idle",
        work: format!("idle agent, {what}"),
        unit,
        ours: vec![ours],
        reference: Reference::Nothing,
        goal,
    };
    Ok(vec![
        line("resident memory", "MiB", resident, Goal::AtMost(6.0)),
        line("its program", "MiB", size, Goal::AtMost(4.0)),
        line("context switches in all threads", "/s", switches, Goal::AtMost(0.2)),
    ])
}

/// One request to our server as admin, which must succeed.
pub(super) fn ask(fleet: &Path, server: &Server, method: &str, path: &str, body: &str) -> Outcome<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let (target, token) = (Target::new(server.port, None)?, fleet_files::admin_token(fleet)?);
    runtime.block_on(async {
        let mut connection = target.connect().await.map_err(|error| error.to_string())?;
        connection.ask_json(&request(method, path, &token, body)).await.map_err(|error| format!("{path}: {error}"))
    })
}

/// Enrolls the real agent for the first host, with more lines of agent.toml, and waits until it has its schedules.
pub(super) fn start_agent(fleet: &Path, server: &Server, settings: &str) -> Outcome<Process> {
    let (dir, url) = (fleet.join("agent"), format!("http://127.0.0.1:{}", server.port));
    let made = ask(fleet, server, "POST", "/v1/enrollment-tokens", r#"{"host":"h00000"}"#)?;
    let mut enroll = Command::new(AGENT);
    enroll.args(["enroll", "--server", &url, "--host", "h00000", "--dir"]).arg(&dir);
    enroll.env("RESTIC_MANAGER_ENROLLMENT_TOKEN", made["token"].as_str().unwrap_or_default());
    let enrolled = enroll.output().map_err(|error| format!("{AGENT}: {error}"))?;
    if !enrolled.status.success() {
        return Err(format!("the agent could not be enrolled: {}", String::from_utf8_lossy(&enrolled.stderr)));
    }
    if !settings.is_empty() {
        let text = format!("server = \"{url}\"\nhost = \"h00000\"\n{settings}");
        fleet_files::write(&dir.join("agent.toml"), &text)?;
    }
    let mut run = Command::new(AGENT);
    run.arg("run").arg("--dir").arg(&dir).env("RUST_LOG", "warn");
    let agent = Process::start(&mut run, &fleet.join("agent.log"))?;
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let host = ask(fleet, server, "GET", "/v1/hosts/h00000", "")?;
        let applied = |what: &str| host[what]["applied"].is_u64() && host[what]["applied"] == host[what]["wanted"];
        if host["online"] == true && applied("schedule") && applied("config") {
            return Ok(agent);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("the agent has no schedules after 30 s: agent.log tells more (--keep)".to_owned())
}
