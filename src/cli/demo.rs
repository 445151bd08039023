//! Edge. `restic-manager demo`: server, agent, repository, two backups, a check and a restore, all real, in a scratch directory on
//! loopback, with progress shown. Starts the programs themselves, so that what it shows is what an administrator gets.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::atomic_file;
use crate::file_error::chain;
use crate::http_client::HttpClient;
use crate::process::{self, Exit, Program, Running};
use crate::protocol::command::Secret;
use crate::proxy::ProxyRules;
use crate::tls;

const HOST: &str = "demo-1";
const FILES: usize = 400;
const FILE_BYTES: usize = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Where to work; default: a new directory among the temporary files
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave the directory there, to look around in
    #[arg(long)]
    keep: bool,
}

/// Runs the demo to its end. The error says which step failed and why.
pub async fn run(arguments: &DemoArguments) -> Result<(), String> {
    let version = restic_version().await?;
    let dir = match &arguments.dir {
        Some(dir) => std::path::absolute(dir).map_err(|error| format!("--dir: {error}"))?,
        None => std::env::temp_dir().join(format!("restic-manager-demo-{}", std::process::id())),
    };
    if dir.exists() {
        return Err(format!("{} exists: remove it, or name another with --dir", dir.display()));
    }
    let result = demo(&dir, &version, arguments.keep).await;
    if !arguments.keep {
        atomic_file::remove_dir(&dir).map_err(|error| chain(&error))?;
    }
    if result.is_err() && arguments.keep {
        eprintln!("its files are in {}", dir.display());
    }
    result
}

async fn restic_version() -> Result<String, String> {
    let hint = "the demo needs restic on the PATH: apt-get install restic (Debian, Ubuntu), dnf install restic (Fedora), or see https://restic.net";
    let program = Program {
        program: "restic".into(),
        arguments: vec!["version".into()],
        environment: inherited(),
        directory: None,
    };
    match process::run_to_end(&program, Duration::from_secs(20)).await {
        Ok(captured) if captured.exit == Exit::Code(0) => {
            Ok(captured.stdout.lines().next().unwrap_or_default().to_owned())
        }
        Ok(captured) => Err(format!("{hint} (it ended with {})", captured.exit)),
        Err(error) => Err(format!("{hint} ({})", chain(&error))),
    }
}

fn inherited() -> Vec<(String, String)> {
    let names = ["PATH", "HOME", "LANG", "SystemRoot", "TMPDIR"];
    names.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
}

/// The two processes; dropping them ends both.
struct Programs {
    _server: Running,
    _agent: Running,
}

async fn demo(dir: &Path, version: &str, keep: bool) -> Result<(), String> {
    step(&format!("{version}; working in {}", dir.display()));
    let data = dir.join("data");
    make_files(&data, 0..FILES)?;
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| format!("no free port: {e}"))?.port();
    write_config(dir)?;
    let (client, programs) = start(dir, port).await?;
    step(&format!("server on http://127.0.0.1:{port}, agent enrolled as {HOST}"));

    job(&client, "init the repository", &json!({"kind": "init"})).await?;
    let first = job(&client, "first backup", &json!({"schedule_id": "files"})).await?;
    told(&first, "files_new", "new files");
    job(&client, "check, reading all data", &json!({"kind": "check", "options": {"read_data": true}})).await?;
    make_files(&data, FILES..FILES + 10)?;
    let second = job(&client, "second backup, incremental", &json!({"schedule_id": "files"})).await?;
    told(&second, "files_new", "new files");
    told(&second, "files_unmodified", "unchanged files that were not read again");
    let target = dir.join("restore").join("latest");
    let restore = json!({"kind": "restore", "options": {"snapshot": "latest", "target": target}});
    job(&client, "restore into a new directory", &restore).await?;
    let relative = data.strip_prefix("/").unwrap_or(&data);
    let compared = compare(&data, &target.join(relative))?;
    step(&format!("compared {compared} restored files byte for byte: all the same"));
    drop(programs);
    farewell(dir, port, keep);
    Ok(())
}

fn step(text: &str) {
    println!("==> {text}");
}

fn told(job: &Value, field: &str, what: &str) {
    if let Some(count) = job["stats"][field].as_u64() {
        println!("    {count} {what}");
    }
}

/// Files with content that does not compress or repeat.
fn make_files(data: &Path, numbers: std::ops::Range<usize>) -> Result<(), String> {
    atomic_file::create_private_dir(data).map_err(|error| chain(&error))?;
    let bar = bar(numbers.len() as u64, "making files");
    for number in numbers {
        let mut bytes = vec![0; FILE_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
        atomic_file::replace(&data.join(format!("file-{number:04}")), &bytes).map_err(|error| chain(&error))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("    {msg} {wide_bar} {percent}%")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what)
}

fn write_config(dir: &Path) -> Result<(), String> {
    let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned()).to_string();
    let files = [
        ("secrets/demo-1", "only-a-demo\n".to_owned()),
        ("config/server.toml", "secret_roots = [\"../secrets\"]\nstate = \"../state\"\n".to_owned()),
        (
            "config/repositories/local.toml",
            format!("url = {}\npassword = {{ file = \"../secrets/{{host}}\" }}\n", quoted(&dir.join("repository"))),
        ),
        (
            "config/hosts/demo-1.toml",
            format!(
                "repository = \"local\"\ntimezone = \"UTC\"\n\n[[schedule]]\nid = \"files\"\nkind = \"backup\"\ncron = \"15 2 * * *\"\npaths = [{}]\nretention = {{ keep_daily = 7 }}\n",
                quoted(&dir.join("data"))
            ),
        ),
    ];
    for (name, text) in &files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            atomic_file::create_private_dir(parent).map_err(|error| chain(&error))?;
        }
        atomic_file::replace(&path, text.as_bytes()).map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// The agent's program, beside this one.
fn agent_program() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let name = if cfg!(windows) { "restic-manager-agent.exe" } else { "restic-manager-agent" };
    let agent = own.with_file_name(name);
    if agent.exists() {
        Ok(agent)
    } else {
        Err(format!("{} is missing: build both programs (cargo build --bins)", agent.display()))
    }
}

async fn start(dir: &Path, port: u16) -> Result<(HttpClient, Programs), String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let agent = agent_program()?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let listen = format!("127.0.0.1:{port}");
    let serve =
        ["serve", "--config", &path("config"), "--state", &path("state"), "--listen", &listen].map(str::to_owned);
    let server = background(dir, own, serve.to_vec(), "server.log")?;
    let url = format!("http://{listen}");
    let plain = || tls::client_config(None, false).map_err(|error| chain(&error));
    let anonymous = HttpClient::new(&url, None, plain()?, ProxyRules::none()).map_err(|error| chain(&error))?;
    until("the server answers", || async { anonymous.get_json::<Value>("/readyz", Duration::from_secs(2)).await.ok() })
        .await?;
    let token =
        std::fs::read_to_string(dir.join("state/admin-token")).map_err(|error| format!("no admin token: {error}"))?;
    let token = Secret::new(token.trim().to_owned());
    let client = HttpClient::new(&url, Some(&token), plain()?, ProxyRules::none()).map_err(|error| chain(&error))?;

    let answer: Value = post(&client, "/v1/enrollment-tokens", &json!({"host": HOST})).await?;
    let enrollment = answer["token"].as_str().unwrap_or_default();
    let toml = format!(
        "server = \"{url}\"\nhost = \"{HOST}\"\n\n[policy]\nbackup_roots = [\"/\"]\nrestore_roots = [{}]\n",
        toml::Value::String(path("restore"))
    );
    atomic_file::create_private_dir(&dir.join("agent")).map_err(|error| chain(&error))?;
    atomic_file::replace(&dir.join("agent/agent.toml"), toml.as_bytes()).map_err(|error| chain(&error))?;
    let enroll = ["enroll", "--server", &url, "--host", HOST, "--dir", &path("agent")].map(str::to_owned).to_vec();
    let mut environment = inherited();
    environment.push(("RESTIC_MANAGER_ENROLLMENT_TOKEN".to_owned(), enrollment.to_owned()));
    let program = Program { program: agent.clone(), arguments: enroll, environment, directory: None };
    let enrolled = process::run_to_end(&program, DEADLINE).await.map_err(|error| chain(&error))?;
    if enrolled.exit != Exit::Code(0) {
        return Err(format!("the agent could not be enrolled: {}", enrolled.stderr.trim()));
    }
    let run = vec!["run".to_owned(), "--dir".to_owned(), path("agent")];
    let agent = background(dir, agent, run, "agent.log")?;
    until("the agent has its schedules", || async {
        let host: Value = client.get_json(&format!("/v1/hosts/{HOST}"), Duration::from_secs(5)).await.ok()?;
        let applied = |what: &str| host[what]["applied"].is_u64() && host[what]["applied"] == host[what]["wanted"];
        (applied("schedule") && applied("config")).then_some(())
    })
    .await?;
    Ok((client, Programs { _server: server, _agent: agent }))
}

/// Starts a program whose output goes into a file of the scratch directory.
fn background(dir: &Path, program: PathBuf, arguments: Vec<String>, log: &str) -> Result<Running, String> {
    let program = Program { program, arguments, environment: inherited(), directory: None };
    let (running, mut output) = process::start(&program).map_err(|error| chain(&error))?;
    let mut file = crate::append_file::AppendFile::open(&dir.join(log)).map_err(|error| chain(&error))?;
    tokio::spawn(async move {
        while let Some(line) = output.recv().await {
            if let process::Output::Stdout(line) | process::Output::Stderr(line) = line {
                // A log that cannot be written stops nothing.
                let _ = file.append(format!("{line}\n").as_bytes());
            }
        }
    });
    Ok(running)
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> Result<T, String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(format!(
                "not within {} s: {what}; server.log and agent.log tell more (--keep keeps them)",
                DEADLINE.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn post(client: &HttpClient, path: &str, body: &Value) -> Result<Value, String> {
    client.post_json(path, body, Duration::from_secs(30)).await.map_err(|error| chain(&error))
}

/// Runs a job to its end, with its progress shown.
async fn job(client: &HttpClient, what: &'static str, body: &Value) -> Result<Value, String> {
    step(what);
    let job: Value = post(client, &format!("/v1/hosts/{HOST}/jobs"), body).await?;
    let id = job["id"].as_str().unwrap_or_default().to_owned();
    let bar = bar(100, what);
    let job = until("the job ends", || async {
        let job: Value = client.get_json(&format!("/v1/jobs/{id}"), Duration::from_secs(10)).await.ok()?;
        if let Some(done) = job["progress"]["percent_done"].as_f64() {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
            bar.set_position((done * 100.0) as u64);
        }
        matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(job)
    })
    .await?;
    bar.finish_and_clear();
    if job["status"] != "succeeded" {
        return Err(format!(
            "{what}: {}: {}",
            job["status"].as_str().unwrap_or_default(),
            job["error"].as_str().unwrap_or("no reason given")
        ));
    }
    println!("    job {id}: succeeded");
    Ok(job)
}

/// Compares two directories of files; the number of files that are the same.
fn compare(one: &Path, other: &Path) -> Result<usize, String> {
    let names = |dir: &Path| -> Result<Vec<std::ffi::OsString>, String> {
        let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut names: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
        names.sort();
        Ok(names)
    };
    let (left, right) = (names(one)?, names(other)?);
    if left != right {
        return Err(format!("{} and {} do not hold the same files", one.display(), other.display()));
    }
    for name in &left {
        let read = |dir: &Path| {
            std::fs::read(dir.join(name)).map_err(|error| format!("{}: {error}", dir.join(name).display()))
        };
        if read(one)? != read(other)? {
            return Err(format!("{} was not restored as it was", one.join(name).display()));
        }
    }
    Ok(left.len())
}

fn farewell(dir: &Path, port: u16, keep: bool) {
    let dir_text = dir.display();
    if keep {
        println!("\nIts files are in {dir_text}. To go on from here:");
        println!(
            "  restic-manager serve --config {dir_text}/config --state {dir_text}/state --listen 127.0.0.1:{port} &"
        );
        println!("  restic-manager-agent run --dir {dir_text}/agent &");
    } else {
        println!(
            "\nNothing is left behind. With --keep the files stay, and lines like these (printed with its own port) work on them:"
        );
    }
    let curl =
        format!("curl -s -H \"Authorization: Bearer $(cat {dir_text}/state/admin-token)\" http://127.0.0.1:{port}");
    println!("  http://127.0.0.1:{port}/hosts/{HOST}      the page, for a browser; the password is the token");
    println!("  {curl}/v1/hosts/{HOST} | jq");
    println!("  {curl}/v1/hosts/{HOST}/jobs | jq '.jobs[] | [.kind, .status, .finished_at]'");
    println!("  {curl}/v1/hosts/{HOST}/snapshots | jq");
    println!("  jq -c '[.seq, .type]' {dir_text}/state/hosts/{HOST}/journal/*.jsonl");
}
