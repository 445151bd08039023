//! The operator's commands against a real server and agent: what they print, how they end, what they survive, and that no file
//! name drives the terminal.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Fleet, SERVER, eventually, text};

/// A file name that would set colors and a title, ring, turn the writing and begin a control sequence of one character.
const HOSTILE: &str = "evil\u{1b}[31m\u{1b}]0;x\u{7}\u{202e}\u{9b}2J\r\u{2028}.txt";

/// The tool as an operator has it: client.toml in the home directory names the server and the token's file.
fn tool(fleet: &Fleet, arguments: &[&str]) -> Command {
    let settings = fleet.path("home/.config/restic-manager");
    std::fs::create_dir_all(&settings).expect("a directory");
    if !settings.join("client.toml").exists() {
        let url = fleet.url();
        let toml = format!("url = {url:?}\ntoken_file = {:?}\n", fleet.path("state/admin-token"));
        std::fs::write(settings.join("client.toml"), toml).expect("written");
    }
    let mut command = Command::new(SERVER);
    command.args(arguments).env("HOME", fleet.path("home")).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
    command
}

pub(crate) struct Said {
    code: i32,
    pub(crate) out: String,
    /// Standard error.
    pub(crate) beside: String,
}

fn said(output: Output) -> Said {
    let [out, beside] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    for text in [&out, &beside] {
        let hostile = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '\u{2028}'));
        assert!(!text.chars().any(hostile), "{text:?}");
        assert!(!text.contains("rmo_"), "a token: {text}");
    }
    Said { code: output.status.code().expect("no signal"), out, beside }
}

fn run(fleet: &Fleet, arguments: &[&str]) -> Said {
    said(tool(fleet, arguments).output().expect("the tool runs"))
}

/// It must end with this code.
pub(crate) fn ends(fleet: &Fleet, code: i32, arguments: &[&str]) -> Said {
    let said = run(fleet, arguments);
    assert_eq!(said.code, code, "{arguments:?}: {}\n{}", said.out, said.beside);
    said
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn an_operator_finds_runs_follows_and_restores_and_the_exit_code_is_the_outcome() {
    let fleet = Fleet::started();
    std::fs::write(fleet.path("data").join(HOSTILE), "x").expect("any name is a name");
    let hosts = ends(&fleet, 0, &["hosts"]).out;
    assert!(hosts.starts_with("HOST ") && hosts.contains("web-1  online"), "{hosts}");
    assert_eq!(json_lines(&ends(&fleet, 0, &["hosts", "--json"]).out)[0]["name"], "web-1");
    // The repository is not there yet.
    let failed = ends(&fleet, 1, &["run", "web-1", "data", "-f"]);
    assert!(failed.beside.contains("failed"), "{}", failed.beside);
    ends(&fleet, 0, &["run", "web-1", "init", "-f"]);
    let backup = ends(&fleet, 0, &["run", "web-1", "data", "--follow"]);
    assert!(backup.out.contains("restic backup") && backup.beside.contains("succeeded after"), "{}", backup.beside);
    let backup = json_lines(&ends(&fleet, 0, &["jobs", "web-1", "--json", "-n", "1"]).out).remove(0);
    let id = backup["id"].as_str().expect("an id");
    assert_eq!((&backup["kind"], &backup["status"]), (&"backup".into(), &"succeeded".into()));
    let jobs = ends(&fleet, 0, &["jobs", "web-1", "--utc", "--status", "succeeded"]).out;
    assert!(jobs.lines().count() == 3 && jobs.contains(id) && jobs.contains("Z "), "{jobs}");
    let log = ends(&fleet, 0, &["log", id]).out;
    assert_eq!(ends(&fleet, 0, &["log", &id[..8], "-f"]).out, log, "the same, and the job's outcome");
    assert!(log.contains(" snapshot ") && log.contains(" new, ") && !log.contains("message_type"), "words: {log}");
    assert!(json_lines(&ends(&fleet, 0, &["log", id, "--json"]).out).iter().all(|line| line["seq"].is_u64()));
    assert!(ends(&fleet, 0, &["host", "web-1"]).out.contains("\ndata      backup  succeeded"));

    eventually("the snapshot is reported", Duration::from_secs(20), || {
        (ends(&fleet, 0, &["snapshots", "web-1", "--json"]).out.lines().count() == 1).then_some(())
    });
    let data = fleet.path("data");
    let listed = ends(&fleet, 0, &["ls", "web-1", "latest", text(&data)]).out;
    assert!(listed.contains("evil\\u{1b}[31m\\u{1b}]0;x\\u{7}\\u{202e}"), "{listed}");
    let entries = json_lines(&ends(&fleet, 0, &["ls", "web-1", "latest", text(&data), "--json"]).out);
    assert!(entries.len() == 21 && entries.iter().any(|entry| entry["name"] == HOSTILE), "as it is: {entries:?}");
    assert!(ends(&fleet, 0, &["find", "web-1", "evil*"]).out.contains("\\u{202e}"));
    assert!(ends(&fleet, 0, &["stats", "web-1"]).out.contains("snapshots  1\n"));
    let kinds = |arguments: &[&str]| -> Vec<String> {
        let jobs = json_lines(&ends(&fleet, 0, &[&["jobs", "web-1", "--json"], arguments].concat()).out);
        jobs.iter().map(|job| job["kind"].as_str().expect("a kind").to_owned()).collect()
    };
    assert_eq!(kinds(&[]), ["backup", "init", "backup"], "questions are left out");
    assert_eq!((kinds(&["--all"]).len(), kinds(&["--kind", "ls"]).len()), (7, 2));
    assert!(ends(&fleet, 5, &["ls", "web-1", "deadbeef"]).beside.contains("(422 no-such-snapshot)"));
    assert!(ends(&fleet, 5, &["ls", "web-1", "latest", "/nowhere"]).beside.contains("(422 no-such-path)"));

    let target = fleet.path("restore/there");
    let file = data.join("file-3");
    let restore = ["restore", "web-1", "latest", text(&file), "--target", text(&target), "-f", "--json"];
    let restored = json_lines(&ends(&fleet, 0, &restore).out).remove(0);
    assert_eq!(restored["stats"]["target"], text(&target), "{restored}");
    let copy = target.join(file.strip_prefix("/").expect("a whole path"));
    assert_eq!(std::fs::read(copy).expect("restored"), std::fs::read(&file).expect("there"));
    ends(&fleet, 2, &["restore", "web-1", "latest", "--in-place"]);
    assert!(
        ends(&fleet, 2, &["restore", "web-1", "latest", "--in-place", "--confirm", "web-2"]).beside.contains("web-1")
    );
    assert!(
        ends(&fleet, 1, &["restore", "web-1", "latest", "--in-place", "--confirm", "web-1", "-f"])
            .beside
            .contains("restore_roots")
    );

    // A source that is not there: a snapshot with warnings.
    let both = format!(r#"{{"paths": [{data:?}, "{}/nowhere"]}}"#, text(&data));
    let incomplete = ends(&fleet, 3, &["run", "web-1", "backup", "--options", &both, "-f"]);
    assert!(
        incomplete.beside.contains("incomplete") && incomplete.beside.contains("warning: "),
        "{}",
        incomplete.beside
    );
    eventually("both snapshots are reported", Duration::from_secs(20), || {
        (ends(&fleet, 0, &["snapshots", "web-1", "--json"]).out.lines().count() == 2).then_some(())
    });
    let ids: Vec<Value> = json_lines(&ends(&fleet, 0, &["snapshots", "web-1", "--json"]).out);
    let ids: Vec<&str> = ids.iter().filter_map(|snapshot| snapshot["id"].as_str()).collect();
    assert!(ends(&fleet, 0, &["diff", "web-1", ids[1], ids[0]]).out.contains("added 0 files"));

    let events = json_lines(&ends(&fleet, 0, &["events", "--host", "web-1", "--json"]).out);
    assert_eq!(
        events.iter().filter(|event| event["type"] == "job.finished" && event["payload"]["job_id"] == id).count(),
        1
    );
    let alerts = json_lines(&ends(&fleet, 0, &["alerts", "--json"]).out);
    if let Some(alert) = alerts.first().and_then(|alert| alert["id"].as_str()) {
        assert!(ends(&fleet, 0, &["alerts", "ack", &alert[..8]]).out.contains("seen to by admin-token"));
    }

    for (code, arguments, words) in [
        (5, &["host", "nope"][..], "no host nope"),
        (5, &["run", "web-1", "nope"], "web-1 has data"),
        (5, &["log", "0190b5a2-7c1e-4c3a-9f00-0123456789ab", "-f"], "no job"),
        (2, &["run", "web-1", "check", "--options", "{"], "--options is not JSON"),
        (
            1,
            &["hosts", "--server", "https://127.0.0.1:9", "--token", "x"],
            "--server, RESTIC_MANAGER_URL or url in client.toml",
        ),
        (1, &["hosts", "--server", "https://127.0.0.1:9"], "is for another server"),
        (4, &["hosts", "--token", "rm\u{6f}_wrong"], "token_file in client.toml"),
    ] {
        let beside = ends(&fleet, code, arguments).beside;
        assert!(beside.contains(words) && beside.lines().count() == 1, "{arguments:?}: {beside}");
    }
}

/// Passes connections on to a server, but takes the answer of the first POST from its client.
fn relay(to: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let has_lost = Arc::new(AtomicBool::new(false));
    let lost = Arc::clone(&has_lost);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let lost = Arc::clone(&lost);
            std::thread::spawn(move || pass_on(client, to, &lost));
        }
    });
    (port, has_lost)
}

fn pass_on(mut client: TcpStream, to: u16, lost: &AtomicBool) -> Option<()> {
    let mut server = TcpStream::connect(("127.0.0.1", to)).ok()?;
    let (mut from_server, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    let is_robbed = Arc::new(AtomicBool::new(false));
    let robbed = Arc::clone(&is_robbed);
    let downwards = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_server.read(&mut buffer) {
            if robbed.load(Ordering::SeqCst) || to_client.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = (to_client.shutdown(Shutdown::Both), from_server.shutdown(Shutdown::Both));
    });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if buffer.starts_with(b"POST ") && !lost.swap(true, Ordering::SeqCst) {
            is_robbed.store(true, Ordering::SeqCst);
        }
        server.write_all(&buffer[..count]).ok()?;
    }
    let _ = server.shutdown(Shutdown::Write);
    downwards.join().ok()
}

/// What a command said whose standard error is in this file.
fn ended(fleet: &Fleet, child: std::process::Child, beside: &str) -> Said {
    let output = child.wait_with_output().expect("it ends");
    said(Output { stderr: fleet.read(beside).into_bytes(), ..output })
}

#[test]
fn a_lost_answer_makes_one_job_and_a_follower_outlives_the_server_and_its_own_end() {
    let mut fleet = Fleet::started_with_script(
        "case \"$1\" in check) while [ ! -e \"$(dirname \"$0\")/go\" ]; do sleep 0.05; done;; esac",
    );
    let (port, has_lost) = relay(fleet.port);
    let url = format!("http://127.0.0.1:{port}");
    let token = fleet.path("state/admin-token");
    let there = ["--server", &url, "--token-file", text(&token)];
    let made = ends(&fleet, 0, &[&["run", "web-1", "check", "--json"][..], &there].concat());
    assert!(has_lost.load(Ordering::SeqCst) && made.beside.contains("asking once more"), "{}", made.beside);
    let jobs = json_lines(&ends(&fleet, 0, &["jobs", "web-1", "--kind", "check", "--json"]).out);
    let job = json_lines(&made.out).remove(0);
    assert_eq!(jobs.len(), 1, "one job: {jobs:?}");
    assert_eq!(jobs[0]["id"], job["id"]);
    let id = job["id"].as_str().expect("an id").to_owned();

    let follow = |beside: &str| {
        let beside = std::fs::File::create(fleet.path(beside)).expect("a file");
        tool(&fleet, &["log", &id, "-f"]).stdout(Stdio::piped()).stderr(beside).spawn().expect("it runs")
    };
    let (interrupted, follower) = (follow("interrupted"), follow("follower"));
    eventually("the check runs", Duration::from_secs(20), || {
        (fleet.get(&format!("/v1/jobs/{id}"))["status"] == "running").then_some(())
    });
    eventually("both are with it", Duration::from_secs(20), || {
        ["interrupted", "follower"].iter().all(|beside| fleet.read(beside).contains("running")).then_some(())
    });
    // Time to begin with the log: both must be waiting.
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-s", "INT", &interrupted.id().to_string()]).status().expect("kill").success());
    let interrupted = ended(&fleet, interrupted, "interrupted");
    assert_eq!(interrupted.code, 130, "{}", interrupted.beside);
    assert!(interrupted.beside.contains(&format!("restic-manager cancel {id}")), "{}", interrupted.beside);
    fleet.server = None;
    std::thread::sleep(Duration::from_millis(500));
    fleet.start_server();
    assert_eq!(fleet.get(&format!("/v1/jobs/{id}"))["status"], "running", "nobody has ended it");
    fleet.write("go", "");
    let followed = ended(&fleet, follower, "follower");
    assert_eq!(followed.code, 0, "{}", followed.beside);
    assert!(followed.beside.contains("trying again until the server is back"), "{}", followed.beside);
    assert!(
        followed.beside.contains("the server is back") && followed.beside.contains("succeeded"),
        "{}",
        followed.beside
    );
    assert_eq!(followed.out, ends(&fleet, 0, &["log", &id]).out, "each line once");

    std::fs::remove_file(fleet.path("go")).expect("removed");
    let job = json_lines(&ends(&fleet, 0, &["run", "web-1", "check", "--json"]).out).remove(0);
    let id = job["id"].as_str().expect("an id");
    assert!(ends(&fleet, 0, &["cancel", id]).out.contains("cancel"));
    fleet.write("go", "");
    assert!(ends(&fleet, 1, &["log", id, "-f"]).beside.contains("cancelled"));
}

#[test]
fn settings_that_are_wrong_are_told_with_their_line_and_shells_learn_the_commands() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::new();
    let _ = tool(&fleet, &[]);
    let settings = fleet.path("home/.config/restic-manager/client.toml");
    fleet.write("home/.config/restic-manager/client.toml", "url = \"https://b\"\ntoken = \"hush-hush\"\n");
    std::fs::set_permissions(&settings, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let beside = ends(&fleet, 1, &["hosts"]).beside;
    assert!(beside.contains("client.toml:2:9: error: ") && beside.contains("chmod 600"), "{beside}");
    assert!(!beside.contains("hush"), "{beside}");
    assert!(ends(&fleet, 0, &["completions", "bash"]).out.contains("snapshots"));
    ends(&fleet, 0, &["man", text(&fleet.path("home"))]);
    assert!(fleet.read("home/restic-manager-restore.1").contains("confirm"));
}
