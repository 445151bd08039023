//! Server and agent as a service manager sees them: ready, alive, reloading and stopping are told on its socket, and by nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::harness::{AGENT, Fleet, Process, eventually, text};

/// The socket of a service manager, which always reads, with what it heard and nobody has waited for.
struct Manager(mpsc::Receiver<String>);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        let (sender, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(size) = socket.recv(&mut bytes) {
                if sender.send(String::from_utf8_lossy(&bytes[..size]).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self(heard)
    }

    /// Waits for a message with this line; those before it are forgotten.
    fn hears(&mut self, line: &str) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        let mut before = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = self.0.recv_timeout(left);
            assert!(message.is_ok(), "not heard: {line}; but {before:?}");
            let message = message.expect("heard");
            if message.lines().any(|heard| heard.starts_with(line)) {
                return message;
            }
            before.push(message);
        }
    }
}

/// A script that tells its environment to a file, and then is something else.
fn write_script(path: &Path, environment: &Path, then: &str) {
    let script = format!("#!/bin/sh\nenv >> '{}'\n{then}\n", text(environment));
    fs::write(path, script).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn the_service_manager_hears_of_the_server_and_what_it_starts_cannot_speak_for_it() {
    let mut fleet = Fleet::new();
    let (socket, vault, environment) = (fleet.path("notify"), fleet.path("vault"), fleet.path("environment"));
    write_script(&vault, &environment, "echo secret");
    fleet.write("config/server.toml", &format!("[secret_commands]\nvault = [{vault:?}]\n"));
    let repository = format!("url = {:?}\npassword = {{ command = \"vault\" }}\n", fleet.path("repo"));
    fleet.write("config/repositories/main.toml", &repository);
    let mut manager = Manager::at(&socket);
    // A hundred times a watchdog's usual haste.
    let variables = [("NOTIFY_SOCKET", text(&socket)), ("WATCHDOG_USEC", "300000"), ("CREDENTIALS_DIRECTORY", "/x")];
    fleet.start_server_with(&variables);

    let ready = manager.hears("READY=1");
    assert!(
        ready.contains("STATUS=http://127.0.0.1:") && ready.contains(", 1 host; the configuration runs"),
        "{ready}"
    );
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let server = fleet.server.as_ref().expect("it runs");
    server.signal("HUP");
    assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.hears("READY=1");
    // A refused configuration is no failed reload: the last good one runs, and the line says so.
    fleet.write("config/hosts/web-1.toml", "nonsense = 1\n");
    server.signal("HUP");
    manager.hears("RELOADING=1");
    eventually("the line tells of the error", Duration::from_secs(10), || {
        manager.hears("STATUS=").contains("there is an error in the files").then_some(())
    });
    let mut server = fleet.server.take().expect("it runs");
    server.signal("TERM");
    manager.hears("STOPPING=1");
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));

    let environment = fleet.read("environment");
    assert!(environment.contains("CREDENTIALS_DIRECTORY=/x"), "secret commands have the server's environment");
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
}

#[test]
fn the_service_manager_hears_of_an_agent_whose_settings_lie_elsewhere() {
    let mut fleet = Fleet::new();
    let (socket, restic, environment) = (fleet.path("notify"), fleet.path("restic"), fleet.path("environment"));
    write_script(&restic, &environment, "exec restic \"$@\"");
    fleet.start_server();
    fs::create_dir_all(fleet.path("etc/hooks.d")).expect("made");
    let settings = fleet.path("etc/agent.toml");
    let elsewhere = ["--dir", text(&fleet.path("agent")), "--config", text(&settings)].map(str::to_owned);

    let token = fleet.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#)["token"].as_str().expect("one").to_owned();
    let url = fleet.url();
    let enroll = ["enroll", "--server", &url, "--token", &token, "--host", "web-1"];
    let enrolled = Command::new(AGENT).args(enroll).args(&elsewhere).output().expect("it runs");
    let told = String::from_utf8_lossy(&enrolled.stdout).into_owned();
    assert!(enrolled.status.success() && told.contains(&format!("--config {}", text(&settings))), "{told}");
    assert!(!fleet.path("agent/agent.toml").exists() && fleet.path("agent/identity.json").exists());
    fleet.permit_everything("etc", text(&restic));
    let hook = fleet.path("etc/hooks.d/tell");
    write_script(&hook, &fleet.path("hook-environment"), "");
    let host = fleet.read("config/hosts/web-1.toml");
    fleet.write("config/hosts/web-1.toml", &format!("{host}pre_hook = \"tell\"\n"));

    let mut manager = Manager::at(&socket);
    let arguments: Vec<&str> = std::iter::once("run").chain(elsewhere.iter().map(String::as_str)).collect();
    let variables = [("NOTIFY_SOCKET", text(&socket)), ("WATCHDOG_USEC", "300000")];
    fleet.agent = Some(Process::start(AGENT, &arguments, &fleet.path("agent.log"), &variables));
    let ready = manager.hears("READY=1");
    assert!(ready.contains(&format!("STATUS=web-1 of {url}: ")), "{ready}");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    eventually("it is in contact", Duration::from_secs(20), || {
        manager.hears("STATUS=").contains(": in contact; jobs: 0 running, 0 waiting").then_some(())
    });
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let status = Command::new(AGENT).arg("status").args(&elsewhere).output().expect("it runs");
    assert!(String::from_utf8_lossy(&status.stdout).contains("enrolled as       web-1"));

    // Who may write beside agent.toml may replace it.
    let directory = fleet.path("etc");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("chmod");
    let refused = Command::new(AGENT).args(&arguments).output().expect("it runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains(&format!("chmod go-w {}", text(&directory))), "{told}");

    let agent = fleet.agent.as_mut().expect("it runs");
    agent.signal("TERM");
    manager.hears("STOPPING=1");
    assert_eq!(agent.wait(Duration::from_secs(10)), Some(0));
    for file in ["environment", "hook-environment"] {
        let environment = fleet.read(file);
        assert!(environment.contains("PATH="), "{file} was written: {environment}");
        assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
    }
}
