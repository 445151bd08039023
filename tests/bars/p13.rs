//! P13: nothing runs on a host that its own policy does not allow. A hostile server speaks the protocol to the real agent and sends
//! it commands, settings and schedules that try everything; restic is a program that writes down what it was started with, and a
//! judge with rules of its own looks at every start. A smaller batch runs with the real restic under strace, which sees every
//! program. The controls: what the policy permits is seen to run, a host with a permissive policy is found guilty by the same
//! judge, and so is a record that was doctored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::count;
use crate::faults::has;
use crate::harness::{AGENT, PASSWORD, Process, eventually, text};
use crate::hostile_commands::{Expect, Random, Sent, command, hostile};
use crate::hostile_judge::{Started, executed, findings, records, starts_of, write_recorder};
use crate::hostile_server::{Station, message};
use crate::hostile_settings::{good_config, hostile_configs};
use crate::p5::kill_traced;

/// The judge's rules are about this one.
const POLICY: &str = r#"kinds = ["backup", "restore", "check"]
backup_roots = ["DIR/data"]
restore_roots = ["DIR/restore"]
repositories = ["DIR/repo", "rest:https://backup.example.org/web-1/*"]
hooks = "off""#;

const PERMISSIVE: &str = r#"kinds = ["backup", "restore", "check", "forget", "prune", "unlock", "init"]
backup_roots = ["/"]
restore_roots = ["/"]
repositories = ["*"]"#;

fn station(policy: &str, offline_grace: &str) -> Station {
    let station = Station::new(policy, "DIR/recorder", offline_grace);
    write_recorder(station.dir.path());
    station
}

/// What the judge finds in all that was started.
fn guilt(dir: &Path) -> Vec<String> {
    records(dir).iter().flat_map(|started| findings(dir, started)).collect()
}

fn await_ends(station: &Station, commands: &[Sent], deadline: Duration) -> BTreeMap<String, String> {
    let wanted: Vec<&Sent> = commands.iter().filter(|sent| sent.expect != Expect::Nothing).collect();
    eventually("every command has its end", deadline, || {
        std::thread::sleep(Duration::from_millis(100));
        let ends = station.server.ends();
        wanted.iter().all(|sent| ends.contains_key(&sent.id)).then_some(ends)
    })
}

/// What became of the commands, against what must.
fn check_ends(commands: &[Sent], ends: &BTreeMap<String, String>) {
    for Sent { id, expect, message } in commands {
        let end = ends.get(id).map(String::as_str);
        let shown: String = message.chars().take(600).collect();
        match expect {
            Expect::Refused => assert!(matches!(end, Some("rejected" | "failed")), "{end:?}: {shown}"),
            Expect::Runs => assert_eq!(end, Some("succeeded"), "{shown}"),
            Expect::Nothing => {}
        }
    }
}

fn check_unharmed(station: &mut Station) {
    assert!(!station.path("pwned").exists(), "a text of the server's was run");
    assert_eq!(fs::read_to_string(station.path("outside/secret")).expect("there"), "a secret\n");
    assert_eq!(fs::read_dir(station.path("outside")).expect("there").count(), 1, "nothing was made outside the roots");
    assert!(station.agent.as_mut().is_some_and(Process::is_running), "the agent is alive");
    station.server.await_polls(Duration::from_secs(30));
}

#[test]
fn p13_no_hostile_command_starts_a_process_outside_the_policy() {
    let mut station = station(POLICY, "1h");
    let dir = station.dir.path().to_owned();
    station.server.send([good_config(1, &dir)]);
    station.start_agent();
    let total = count(500, 10_000);
    let mut random = Random(20_261_125);
    let mut commands: Vec<Sent> = (0..total).map(|number| hostile(&mut random, number, &dir)).collect();
    // An id that was used comes again with other content.
    for again in (0..total / 20).map(|n| n * 20) {
        let other = command(&commands[again].id, &json!("backup"), &json!({"paths": [dir.join("data")]}));
        if commands[again].expect == Expect::Refused {
            commands.push(Sent { id: String::new(), expect: Expect::Nothing, message: other });
        }
    }
    for batch in commands.chunks(50) {
        station.server.send(batch.iter().map(|sent| sent.message.clone()));
    }
    let ends = await_ends(&station, &commands, Duration::from_secs(60 + total as u64 / 5));
    check_ends(&commands, &ends);
    let records = records(&dir);
    assert_eq!(guilt(&dir), Vec::<String>::new());
    for sent in &commands {
        let starts = starts_of(&records, &sent.id).len();
        let may_start = usize::from(sent.expect == Expect::Runs);
        assert!(starts <= may_start, "{} starts of {}", starts, sent.message);
    }
    let permitted = commands.iter().filter(|sent| sent.expect == Expect::Runs).count();
    let jobs = records.iter().filter(|started| !["version", "snapshots"].contains(&&*started.arguments[0])).count();
    assert!(permitted > 20 && jobs == permitted, "the control: what is permitted runs, {jobs} of {permitted}");
    check_unharmed(&mut station);
    let peak = station.peak_memory_kib();
    assert!(peak < 64 * 1024, "{peak} KiB");
    eprintln!(
        "{} commands, {permitted} of them permitted; {} starts, all within the policy; {peak} KiB",
        commands.len(),
        records.len()
    );
}

#[test]
fn p13_no_hostile_settings_start_a_process_outside_the_policy() {
    let mut station = station(POLICY, "1h");
    let dir = station.dir.path().to_owned();
    station.server.send([good_config(1, &dir)]);
    station.start_agent();
    let mut version = 1;
    for (number, fields) in hostile_configs(&dir).into_iter().enumerate() {
        version += 2;
        let mut payload = fields.clone();
        (payload["version"], payload["hash"]) = (json!(version), json!(format!("h{version}")));
        let id = |kind: &str| {
            uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, format!("{kind} {number}").as_bytes()).to_string()
        };
        let backup = json!({"paths": [dir.join("data")]});
        // A job that begins before the settings change, and ends, with its list of snapshots, after it.
        station.server.send([command(&id("before"), &json!("backup"), &backup)]);
        station
            .server
            .send([message("config.update", &payload.to_string()), command(&id("after"), &json!("backup"), &backup)]);
        let has_ended = |id: &str| station.server.ends().get(id).cloned();
        let end = eventually("the job ends", Duration::from_secs(30), || has_ended(&id("after")));
        assert!(matches!(end.as_str(), "rejected" | "failed"), "{fields}: {end}");
        eventually("the job before ends", Duration::from_secs(30), || has_ended(&id("before")));
        station.server.send([good_config(version + 1, &dir), command(&id("mended"), &json!("backup"), &backup)]);
        let end = eventually("the job ends", Duration::from_secs(30), || has_ended(&id("mended")));
        assert_eq!(end, "succeeded", "after {fields}: {:?}", station.server.said_of(&id("mended")));
        version += 1;
    }
    assert_eq!(guilt(&dir), Vec::<String>::new());
    check_unharmed(&mut station);
}

/// A schedule that is due every minute, with these fields.
fn every_minute(id: &str, fields: &Value) -> Value {
    let mut schedule =
        json!({"id": id, "kind": "backup", "cron_expr": "* * * * *", "timezone": "UTC", "enabled": true});
    for (name, value) in fields.as_object().expect("fields") {
        schedule[name] = value.clone();
    }
    schedule
}

#[test]
fn p13_no_hostile_schedule_starts_a_process_outside_the_policy() {
    // Without an answer to its fires the agent runs backups by itself.
    let mut station = station(POLICY, "1s");
    let dir = station.dir.path().to_owned();
    station.server.send([good_config(1, &dir)]);
    station.start_agent();
    let data = json!([dir.join("data")]);
    let touch = format!("touch {}/pwned", text(&dir));
    let set = |version: u64, schedules: &[Value]| {
        message(
            "schedule.set",
            &json!({"version": version, "hash": format!("s{version}"), "schedules": schedules}).to_string(),
        )
    };
    // Thousands, and what is no schedule at all.
    let thousands: Vec<Value> = (0..5_000)
        .map(|n| every_minute(&format!("s{n}"), &json!({"cron_expr": format!("{} 3 29 2 *", n % 60), "paths": data})))
        .collect();
    station.server.send([set(2, &thousands)]);
    let long = "* ".repeat(50_000);
    for cron in ["* * * * * *", "@reboot", "0 0 31 2 *", "99 * * * *", "", "*/0 * * * *", "\0", &long] {
        station.server.send([set(3, &[every_minute("odd", &json!({"cron_expr": cron, "paths": data}))])]);
    }
    station.server.send([set(
        4,
        &[
            every_minute("outside", &json!({"paths": ["/etc"]})),
            every_minute("linked", &json!({"paths": [dir.join("data/link/secret")]})),
            every_minute("flags", &json!({"paths": ["-o", "--password-command=id"]})),
            every_minute("maintenance", &json!({"kind": "forget", "retention_policy": {"keep_last": 1}})),
            every_minute("good", &json!({"paths": data, "excludes": ["-o"], "tags": ["$(id)"]})),
            every_minute("hooked", &json!({"paths": data, "pre_hook": touch, "post_hook": touch})),
        ],
    )]);
    // Lower versions, and sets without their list.
    for old in [
        set(1, &[]),
        message("schedule.set", r#"{"version":9,"hash":"x"}"#),
        message("schedule.set", r#"{"version":9,"hash":"x","schedules":null}"#),
    ] {
        station.server.send([old]);
    }
    let ran = |schedule: &str| {
        let tag = format!("--tag=schedule:{schedule}");
        records(&dir).iter().any(|started| started.arguments.contains(&tag))
    };
    eventually("the permitted schedule runs", Duration::from_secs(90), || ran("good").then_some(()));
    // The others were due in the same minute.
    station.server.await_polls(Duration::from_secs(30));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(guilt(&dir), Vec::<String>::new());
    for schedule in ["outside", "linked", "flags", "maintenance", "hooked"] {
        assert!(!ran(schedule), "{schedule}");
    }
    check_unharmed(&mut station);
    let kept: Value = serde_json::from_str(&station.kept()[1].clone().expect("schedules")).expect("JSON");
    assert_eq!(kept["version"], 4, "neither a lower one nor one without its list");
}

#[test]
fn p13_the_judge_finds_a_permissive_host_and_a_doctored_record_guilty() {
    let mut station = station(PERMISSIVE, "1h");
    let dir = station.dir.path().to_owned();
    station.server.send([good_config(1, &dir)]);
    station.start_agent();
    let id = |n: u8| uuid::Uuid::from_bytes([n; 16]).to_string();
    let sent = [
        command(&id(1), &json!("backup"), &json!({"paths": ["/etc"]})),
        command(&id(2), &json!("restore"), &json!({"snapshot": "latest", "target": dir.join("elsewhere")})),
        command(&id(3), &json!("unlock"), &json!({"remove_all": true})),
        command(&id(4), &json!("backup"), &json!({"paths": [dir.join("data/link/secret")]})),
    ];
    station.server.send(sent);
    eventually("they run", Duration::from_secs(30), || (station.server.ends().len() == 4).then_some(()));
    let other = json!({"version": 2, "hash": "x", "repo_url": "rest:https://other.example.org/"});
    station.server.send([message("config.update", &other.to_string()), command(&id(5), &json!("check"), &json!({}))]);
    eventually("it runs", Duration::from_secs(30), || (station.server.ends().len() == 5).then_some(()));
    let guilt = guilt(&dir);
    for what in
        ["a name that is not permitted", "a target outside", "a command that is not permitted", "another repository"]
    {
        assert!(guilt.iter().any(|finding| finding.starts_with(what)), "{what}: {guilt:?}");
    }

    let good = records(&dir).into_iter().find(|started| started.arguments[0] == "version").expect("a record");
    let good = Started {
        arguments: vec!["check".into(), "--json".into()],
        environment: [&good.environment[..], &[("RESTIC_REPOSITORY".into(), text(&dir.join("repo")).into())]].concat(),
    };
    assert_eq!(findings(&dir, &good), Vec::<String>::new());
    for argument in [
        "-o",
        "--option=sftp.command=x",
        "--password-command=id",
        "-r=/etc",
        "--repo",
        "/etc",
        "--",
        "--json=x",
        "--target=/etc",
    ] {
        let mut doctored = good.clone();
        doctored.arguments.extend([argument.to_owned(), "x".to_owned()]);
        assert!(!findings(&dir, &doctored).is_empty(), "{argument}");
    }
    for name in ["RESTIC_PASSWORD_COMMAND", "LD_PRELOAD", "RESTIC_REPOSITORY"] {
        let mut doctored = good.clone();
        doctored.environment.push((name.to_owned(), "x".to_owned()));
        assert!(!findings(&dir, &doctored).is_empty(), "{name}");
    }
}

/// The same small batch with the real restic, every program of the agent's whole tree as strace sees it.
#[test]
fn p13_strace_sees_no_other_program_than_a_restic_within_the_policy() {
    if !has("p13", &["strace", "restic"]) {
        return;
    }
    let mut station = Station::new(POLICY, "restic", "1h");
    let dir = station.dir.path().to_owned();
    let init = Command::new("restic")
        .args(["init", "-q", "-r", text(&dir.join("repo"))])
        .env("RESTIC_PASSWORD", PASSWORD)
        .status();
    assert!(init.expect("restic runs").success());
    let config = |version: u64| good_config(version, &dir).replace("\"pw\"", &format!("{PASSWORD:?}"));
    station.server.send([config(1)]);
    let arguments = [
        "-ff",
        "-v",
        "-s",
        "200000",
        "-e",
        "trace=execve",
        "-e",
        "signal=none",
        "-o",
        "DIR/trace",
        AGENT,
        "run",
        "--dir",
        "DIR/agent",
    ];
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace("DIR", text(&dir))).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    station.agent = Some(Process::start("strace", &arguments, &station.path("agent.log"), &[("RUST_LOG", "info")]));
    let mut random = Random(7);
    let commands: Vec<Sent> = (0..count(150, 1_000)).map(|number| hostile(&mut random, number, &dir)).collect();
    for batch in commands.chunks(20) {
        station.server.send(batch.iter().map(|sent| sent.message.clone()));
    }
    let ends = await_ends(&station, &commands, Duration::from_secs(60 + commands.len() as u64));
    for Sent { id, expect, message } in commands.iter().filter(|sent| sent.expect == Expect::Refused) {
        assert!(matches!(ends[id].as_str(), "rejected" | "failed"), "{expect:?}: {message}");
    }
    station.server.send(
        [json!({"repo_url": "rclone:remote:x"}), json!({"repo_url": "sftp:-oProxyCommand=id:/x"})].map(|mut update| {
            (update["version"], update["hash"]) =
                (json!(if update["repo_url"] == "rclone:remote:x" { 2 } else { 3 }), json!("x"));
            message("config.update", &update.to_string())
        }),
    );
    station.server.await_polls(Duration::from_secs(30));
    check_unharmed(&mut station);
    kill_traced(station.agent.as_mut().expect("strace"));
    let traces = fs::read_dir(&dir)
        .expect("there")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("trace."));
    let programs: Vec<(String, Started)> =
        traces.flat_map(|trace| executed(&fs::read_to_string(trace.path()).expect("a trace"))).collect();
    let mut restics = 0;
    for (program, mut started) in programs {
        if program == AGENT {
            continue;
        }
        assert!(program.ends_with("/restic"), "{program}: {started:?}");
        started.arguments.remove(0);
        restics += usize::from(started.arguments[0] == "backup");
        assert_eq!(findings(&dir, &started), Vec::<String>::new());
    }
    assert!(restics > 0, "the control: strace sees restic");
    eprintln!("{} commands under strace, {restics} backups", commands.len());
}
