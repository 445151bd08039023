//! A scratch fleet with a server and an agent, each a real process that its value owns and ends. Waits are for conditions, with a
//! deadline. Requests are made with the real curl.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::alternate::Alternator;

/// The password of every scratch repository.
pub(crate) const PASSWORD: &str = "correct-horse-battery";

/// Waits until `probe` gives a value; fails the test after `deadline`. Short deadlines are promises. Those of ten seconds and more only end
/// what hangs, and are three times as long: a machine with two processors and much else to do is slow.
pub(crate) fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = if deadline < Duration::from_secs(10) { deadline } else { deadline * 3 };
    let until = Instant::now() + deadline;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < until, "not within {} s: {what}", deadline.as_secs());
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Another restic than the one on the PATH, fetched by tests/tools/get-restic: `RESTIC_MANAGER_TEST_RESTICS` holds
/// `:`-separated paths. The PATH's own is always first.
pub(crate) fn restics() -> Vec<String> {
    let more = std::env::var("RESTIC_MANAGER_TEST_RESTICS").unwrap_or_default();
    std::iter::once("restic".to_owned()).chain(more.split(':').filter(|p| !p.is_empty()).map(str::to_owned)).collect()
}

/// Whether the servers of this run are two.
pub(crate) fn are_two_servers() -> bool {
    std::env::var("RESTIC_MANAGER_TEST_SERVERS").is_ok_and(|count| count == "2")
}

/// A port that nobody listens on. Not one of those that the system gives to outgoing connections: between here and the
/// server's start another test's could take it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() * 131 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + u16::try_from(number % 20_000).expect("small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A scratch directory with a fleet of the one host `web-1`, a server, and an agent.
pub(crate) struct Fleet {
    /// Removed when the value drops.
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) server: Option<Process>,
    pub(crate) agent: Option<Process>,
}

/// What a request got.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) content_type: String,
    /// The methods that a 405 names.
    pub(crate) allow: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A process that dies with its value.
pub(crate) struct Process {
    child: Child,
    /// With `RESTIC_MANAGER_TEST_SERVERS=2`: the second server, which lives and dies with the first, and what alternates.
    company: Option<(Box<Process>, Alternator)>,
    /// Its own, where something else listens on the fleet's.
    own_port: Option<u16>,
}

impl Process {
    pub(crate) fn start(program: &str, arguments: &[&str], log: &Path, environment: &[(&str, &str)]) -> Self {
        let log = fs::File::options().create(true).append(true).open(log).expect("a log file");
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        Self { child, company: None, own_port: None }
    }

    /// A server that listens on this port: with `RESTIC_MANAGER_TEST_SERVERS=2` two of them, with requests alternating.
    pub(crate) fn serve(config: &Path, state: &Path, port: u16, log: &Path, environment: &[(&str, &str)]) -> Self {
        let start = |port: u16| {
            let listen = format!("127.0.0.1:{port}");
            let arguments = ["serve", "--config", text(config), "--state", text(state), "--listen", &listen];
            Self::start(SERVER, &arguments, log, environment)
        };
        if !are_two_servers() {
            return start(port);
        }
        let ports = [free_port(), free_port()];
        let [mut first, mut second] = ports.map(start);
        (first.own_port, second.own_port) = (Some(ports[0]), Some(ports[1]));
        first.company = Some((Box::new(second), Alternator::start(port, ports.to_vec())));
        first
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.company = None;
    }

    /// A signal by its name, as kill(1) takes it.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        if let Some((other, _)) = &self.company {
            other.signal(name);
        }
    }

    /// Waits for the end by itself and gives the exit code.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<i32> {
        let code = eventually("the process ends", deadline, || self.child.try_wait().expect("wait")).code();
        if let Some((other, _)) = &mut self.company {
            assert_eq!(other.wait(deadline), code, "both servers end alike");
        }
        code
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_restic-manager");
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_restic-manager-agent");

impl Fleet {
    /// The files only: a configuration with host `web-1`, a local repository, a few files to back up.
    pub(crate) fn new() -> Self {
        let mut dir = tempfile::tempdir().expect("a temporary directory");
        // To look at what a test has left.
        dir.disable_cleanup(std::env::var_os("RESTIC_MANAGER_TEST_KEEP").is_some());
        let port = free_port();
        let fleet = Self { dir, port, server: None, agent: None };
        for sub in ["config/hosts", "config/repositories", "secrets", "data"] {
            fs::create_dir_all(fleet.path(sub)).expect("a directory");
        }
        fleet.write("secrets/web-1", PASSWORD);
        fleet.write("config/server.toml", "secret_roots = [\"../secrets\"]\n");
        let repository = format!("url = {:?}\npassword = {{ file = \"../secrets/{{host}}\" }}\n", fleet.path("repo"));
        fleet.write("config/repositories/main.toml", &repository);
        fleet.set_cron("0 3 * * *");
        for number in 0..20 {
            fleet.write(&format!("data/file-{number}"), &format!("{number}\n").repeat(2000));
        }
        fleet
    }

    /// The fleet with its server, and its agent enrolled and online.
    pub(crate) fn started() -> Self {
        Self::new().start("restic")
    }

    /// With its server, and its agent online, which runs this restic.
    pub(crate) fn start(mut self, restic: &str) -> Self {
        self.start_server();
        self.enroll("agent");
        self.permit_everything("agent", restic);
        self.start_agent();
        self
    }

    /// The same with a shell script in front of restic, and with its repository.
    pub(crate) fn started_with_script(script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let fleet = Self::new();
        let restic = fleet.path("slow-restic");
        fleet.write("slow-restic", &format!("#!/bin/sh\n{script}\nexec restic \"$@\"\n"));
        fs::set_permissions(&restic, fs::Permissions::from_mode(0o755)).expect("chmod");
        let fleet = fleet.start(text(&restic));
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        fleet
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        fs::write(self.path(relative), text).expect("write");
    }

    pub(crate) fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap_or_default()
    }

    /// The host's file with one backup schedule `data` at this time.
    pub(crate) fn set_cron(&self, cron: &str) {
        let data = self.path("data");
        self.write(
            "config/hosts/web-1.toml",
            &format!(
                "repository = \"main\"\ntimezone = \"UTC\"\n[[schedule]]\nid = \"data\"\nkind = \"backup\"\ncron = {cron:?}\npaths = [{data:?}]\nretention = {{ keep_last = 3 }}\n"
            ),
        );
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn start_server(&mut self) {
        self.start_server_with(&[]);
    }

    /// The same with more in its environment.
    pub(crate) fn start_server_with(&mut self, environment: &[(&str, &str)]) {
        // The one before gives its port back first.
        self.server = None;
        let (config, state, log) = (self.path("config"), self.path("state"), self.path("server.log"));
        let environment = [&[("RUST_LOG", "debug")], environment].concat();
        self.server = Some(Process::serve(&config, &state, self.port, &log, &environment));
        self.await_server();
    }

    /// The port of one server itself, for what is about its connections.
    pub(crate) fn direct_port(&self) -> u16 {
        self.server.as_ref().and_then(|server| server.own_port).unwrap_or(self.port)
    }

    /// Waits until every server answers.
    pub(crate) fn await_server(&self) {
        // Each by itself: of two behind one port the same one may answer twice.
        let second = self.server.as_ref().and_then(|server| server.company.as_ref()?.0.own_port);
        for port in [Some(self.direct_port()), second, Some(self.port)].into_iter().flatten() {
            let url = format!("http://127.0.0.1:{port}/readyz");
            eventually("the server is ready", Duration::from_secs(20), || {
                let asked = Command::new("curl").args(["-sSf", "-m", "120", &url]).output().expect("curl runs");
                asked.status.success().then_some(())
            });
        }
    }

    /// Enrolls web-1's agent into a directory.
    pub(crate) fn enroll(&self, dir: &str) {
        let answer = self.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#);
        let token = answer["token"].as_str().expect("a token").to_owned();
        let (url, dir) = (self.url(), self.path(dir));
        let arguments = ["enroll", "--server", &url, "--token", &token, "--host", "web-1", "--dir", text(&dir)];
        let enrolled = Command::new(AGENT).args(arguments).output().expect("enroll runs");
        assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    }

    /// agent.toml with all kinds, this restic, and a restore root in the scratch directory.
    pub(crate) fn permit_everything(&self, dir: &str, restic: &str) {
        let restore = self.path("restore");
        self.write(
            &format!("{dir}/agent.toml"),
            &format!(
                "server = {:?}\nhost = \"web-1\"\nrestic = {restic:?}\noffline_grace = \"3s\"\n[policy]\nkinds = [\"backup\", \"init\", \"forget\", \"prune\", \"check\", \"unlock\", \"restore\", \"verify\", \"copy\", \"ls\", \"find\", \"diff\", \"stats\", \"snapshots\"]\nrestore_roots = [{restore:?}]\n",
                self.url()
            ),
        );
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.agent_process("agent"));
        eventually("the agent has its schedules", Duration::from_secs(30), || {
            let host = self.get("/v1/hosts/web-1");
            (host["online"] == true
                && host["schedule"]["applied"] == host["schedule"]["wanted"]
                && host["config"]["applied"] == host["config"]["wanted"])
                .then_some(())
        });
    }

    pub(crate) fn agent_process(&self, dir: &str) -> Process {
        self.agent_process_with_log(dir, "agent.log")
    }

    pub(crate) fn agent_process_with_log(&self, dir: &str, log: &str) -> Process {
        Process::start(AGENT, &["run", "--dir", text(&self.path(dir))], &self.path(log), &[("RUST_LOG", "debug")])
    }

    pub(crate) fn token(&self) -> String {
        self.read("state/admin-token").trim().to_owned()
    }

    /// Runs curl on a path of the server, with the admin token: the status code and the body; `None`: no answer.
    pub(crate) fn curl(&self, arguments: &[&str]) -> Option<(u16, String)> {
        self.curl_as(&self.bearer(), arguments)
    }

    /// The admin token's header.
    pub(crate) fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token())
    }

    /// The same with a header of one's own instead of the token's.
    pub(crate) fn curl_as(&self, header: &str, arguments: &[&str]) -> Option<(u16, String)> {
        self.ask(header, arguments).map(|answer| (answer.code, answer.body))
    }

    /// The same, with what matters of the answer's headers.
    pub(crate) fn ask(&self, header: &str, arguments: &[&str]) -> Option<Answer> {
        let (path, options) = arguments.split_last().expect("a path");
        let output = Command::new("curl")
            .args(["-sS", "-m", "120", "-w", "\n%header{allow}\n%{content_type}\n%{http_code}", "-H", header])
            .args(options)
            .arg(format!("{}{path}", self.url()))
            .output()
            .expect("curl runs");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut parts = answer.rsplitn(4, '\n').map(str::to_owned);
        let code = parts.next()?.parse().ok().filter(|code| *code > 0)?;
        Some(Answer { code, content_type: parts.next()?, allow: parts.next()?, body: parts.next()? })
    }

    /// GET, which must succeed, as JSON.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (code, body) = self.curl(&[path]).expect("an answer");
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// POST of JSON, which must succeed, as JSON.
    pub(crate) fn post(&self, path: &str, body: &str) -> Value {
        let (code, answer) = self.try_post(path, body);
        assert!((200..300).contains(&code), "{path}: {code} {answer}");
        answer
    }

    /// POST of JSON: the code and the answer.
    pub(crate) fn try_post(&self, path: &str, body: &str) -> (u16, Value) {
        let (code, answer) =
            self.curl(&["-X", "POST", "-H", "Content-Type: application/json", "-d", body, path]).expect("an answer");
        (code, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// Runs a job to its end and gives it.
    pub(crate) fn run_job(&self, body: &str) -> Value {
        self.post("/v1/hosts/web-1/jobs?wait=120", body)
    }

    /// Waits for a job's end and gives it.
    pub(crate) fn wait_for_job(&self, id: &str, deadline: Duration) -> Value {
        eventually("the job ends", deadline, || {
            let job = self.get(&format!("/v1/jobs/{id}"));
            matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(job)
        })
    }

    /// web-1's journal, line by line, all segments.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let mut names: Vec<PathBuf> = fs::read_dir(self.path("state/hosts/web-1/journal"))
            .expect("a journal")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        // A month's first segment comes before its second: 2026-11, 2026-11-002.
        names.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
        let texts = names.iter().map(|name| fs::read_to_string(name).expect("a segment"));
        texts
            .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<_>>())
            .collect()
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
