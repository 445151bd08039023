//! The programs under measurement: started, watched in /proc, and ended with their values or with the whole benchmark.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;

pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_restic-manager");
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_restic-manager-agent");

/// Every process that runs for us, so that an interrupt leaves none.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// From an interrupt on nothing new is started.
static ENDING: AtomicBool = AtomicBool::new(false);

fn running() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends what runs, and lets nothing start any more.
pub(crate) fn kill_all() {
    ENDING.store(true, Ordering::SeqCst);
    for id in std::mem::take(&mut *running()) {
        signal(id, "KILL");
    }
}

pub(crate) fn signal(id: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &id.to_string()]).stderr(Stdio::null()).status();
}

/// A process that ends with its value.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Outcome<Self> {
        let file = fs::File::options().create(true).append(true).open(log);
        let file = file.map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        if ENDING.load(Ordering::SeqCst) {
            return Err("interrupted".to_owned());
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).spawn();
        let child = child.map_err(|error| format!("cannot start {program}: {error}"))?;
        running().insert(child.id());
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and up to 15 s for an orderly end.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        signal(self.child.id(), "TERM");
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            if self.child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("a program did not end within 15 s of SIGTERM".to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        running().remove(&self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program again, for a part of its own: commands on stdin, one JSON answer a line on stdout.
pub(crate) struct Worker {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    what: String,
}

impl Worker {
    /// Starts the part and waits for its first line.
    pub(crate) fn start(arguments: &[String], scratch: &Path) -> Outcome<Self> {
        let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let what = arguments.join(" ");
        let mut process = Process::start(Command::new(own).args(arguments), &scratch.join("workers.log"))?;
        let (stdin, stdout) = (process.child.stdin.take(), process.child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { return Err(format!("{what}: no pipes")) };
        let mut worker = Self { process, stdin, stdout: BufReader::new(stdout), what };
        worker.read()?;
        Ok(worker)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn ask(&mut self, command: &Value) -> Outcome<Value> {
        writeln!(self.stdin, "{command}").map_err(|error| format!("{}: {error}", self.what))?;
        self.read().map_err(|error| format!("{command}: {error}"))
    }

    /// The figure of this name in the answer.
    pub(crate) fn figure(&mut self, command: &Value, name: &str) -> Outcome<f64> {
        let answer = self.ask(command)?;
        answer[name].as_f64().ok_or_else(|| format!("{command}: no {name} in {answer}"))
    }

    fn read(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).map_err(|error| format!("{}: {error}", self.what))?;
        if read == 0 {
            return Err(format!("the part `{}` of the benchmark ended: workers.log tells more (--keep)", self.what));
        }
        let answer: Value = serde_json::from_str(&line).map_err(|error| format!("{}: {error}: {line}", self.what))?;
        match answer["error"].as_str() {
            Some(error) => Err(format!("{}: {error}", self.what)),
            None => Ok(answer),
        }
    }
}

/// Our server.
pub(crate) struct Server {
    process: Process,
    pub(crate) port: u16,
    /// From its start to its first good `/readyz` (with TLS: to its first accepted connection).
    pub(crate) ready: Duration,
    pub(crate) authority: Option<PathBuf>,
}

/// A free port.
pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no port on 127.0.0.1: {error}"))
}

impl Server {
    /// Starts it on a fleet's directory (`config`, `state`) and waits until it is ready, up to two minutes.
    pub(crate) fn start(fleet: &Path, authority: Option<PathBuf>) -> Outcome<Self> {
        let port = free_port()?;
        crate::fleet_files::settings(fleet, authority.is_some())?;
        let began = Instant::now();
        let mut command = Command::new(SERVER);
        command.arg("serve").arg("--config").arg(fleet.join("config")).arg("--state").arg(fleet.join("state"));
        command.args(["--listen", &format!("127.0.0.1:{port}")]).env("RUST_LOG", "warn");
        let process = Process::start(&mut command, &fleet.join("server.log"))?;
        let mut server = Self { process, port, ready: Duration::ZERO, authority };
        while began.elapsed() < Duration::from_secs(120) {
            if server.answers() {
                server.ready = began.elapsed();
                return Ok(server);
            }
            if server.process.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let log = fs::read_to_string(fleet.join("server.log")).unwrap_or_default();
        Err(format!("the server is not ready: {}", log.lines().last().unwrap_or_default()))
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        if self.authority.is_some() {
            return true;
        }
        let mut answer = String::new();
        let request = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn stop(self) -> Outcome<()> {
        self.process.stop()
    }
}

/// A number of /proc/PID/status, as that file has it (KiB for memory).
fn status(id: u32, key: &str) -> Outcome<u64> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let value = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("{path} has no {key}"))
}

/// Resident memory in KiB.
#[allow(clippy::cast_precision_loss, reason = "KiB of one process")]
pub(crate) fn rss_kib(id: u32) -> Outcome<f64> {
    status(id, "VmRSS").map(|kib| kib as f64)
}

/// Context switches of all threads so far.
#[allow(clippy::cast_precision_loss, reason = "a count")]
pub(crate) fn context_switches(id: u32) -> Outcome<f64> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).map_err(|error| format!("/proc/{id}: {error}"))?;
    let mut sum = 0;
    for task in tasks.flatten() {
        let thread = task.file_name().to_string_lossy().parse().unwrap_or(id);
        sum += status(thread, "voluntary_ctxt_switches")? + status(thread, "nonvoluntary_ctxt_switches")?;
    }
    Ok(sum as f64)
}

/// Seconds of CPU that a process and the children that it waited for have used, to 10 ms.
pub(crate) fn cpu_seconds(id: u32) -> Outcome<(f64, f64)> {
    let path = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The name in parentheses may hold anything; the fields after it are numbered from 3.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    Ok(((ticks(14) + ticks(15)) / 100.0, (ticks(16) + ticks(17)) / 100.0))
}

/// Waits until a process has used next to no CPU for a while; up to 20 s.
pub(crate) fn settle(id: u32) -> Outcome<()> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut before = cpu_seconds(id)?.0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(300));
        let now = cpu_seconds(id)?.0;
        if now - before < 0.015 {
            break;
        }
        before = now;
    }
    Ok(())
}
