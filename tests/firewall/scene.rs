//! A server, an agent that has to get to it, and what happens between them: enrollment, commands one after another, and the judgement
//! at the end. What stands in the way is each row's own.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::authority::{Authority, CA_FILE};
use crate::checker::check_history;
use crate::count;
use crate::harness::{AGENT, Fleet, Process, SERVER, eventually, text};
use crate::judge::{complaints, delays, lines_of};
use crate::proxies::{PASSWORD, PLAIN, USERNAME};
use crate::space::{PROXY_NAME, PROXY_PORT, Place, SERVER_ADDRESS, SERVER_NAME, SERVER_PORT, Space};

/// So late may a command start that is posted while a poll is parked.
const SOON: Duration = Duration::from_secs(1);

pub(crate) struct Scene<'s> {
    // The agent ends before the server, and all before their files.
    pub(crate) agent: Option<Process>,
    pub(crate) space: &'s Space,
    pub(crate) fleet: Fleet,
    pub(crate) authority: Authority,
    /// Where operators reach the server, past whatever is in front of it.
    operators: String,
    environment: Vec<(&'static str, &'static str)>,
    pub(crate) jobs: Vec<String>,
}

impl<'s> Scene<'s> {
    /// With a server that does its own TLS.
    pub(crate) fn new(space: &'s Space) -> Self {
        let mut scene = Self::without_server(space, &format!("https://{SERVER_NAME}:{SERVER_PORT}"));
        let settings = "secret_roots = [\"../secrets\"]\n[tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n";
        scene.fleet.write("config/server.toml", settings);
        scene.start_server();
        scene
    }

    /// With a server that leaves TLS to something in front of it.
    pub(crate) fn behind_a_reverse_proxy(space: &'s Space) -> Self {
        let mut scene = Self::without_server(space, &format!("http://{PLAIN}"));
        scene.start_server();
        scene
    }

    fn without_server(space: &'s Space, operators: &str) -> Self {
        let fleet = Fleet::new();
        let authority = Authority::new(&fleet);
        authority.certify(&fleet, SERVER_NAME);
        let (agent, environment, jobs) = (None, Vec::new(), Vec::new());
        Self { agent, space, fleet, authority, operators: operators.to_owned(), environment, jobs }
    }

    pub(crate) fn start_server(&mut self) {
        self.fleet.server = None;
        let (config, state, log) = (self.fleet.path("config"), self.fleet.path("state"), self.fleet.path("server.log"));
        let outside = format!("{SERVER_ADDRESS}:{SERVER_PORT}");
        let listen = if self.operators.starts_with("https") { &*outside } else { PLAIN };
        let arguments = ["serve", "--config", text(&config), "--state", text(&state), "--listen", listen];
        self.fleet.server = Some(Process::start(SERVER, &arguments, &log, &[("RUST_LOG", "debug")]));
        eventually("the server is ready", Duration::from_secs(20), || {
            // Also with a certificate that is for another name.
            self.try_ask(&["-k"], "/readyz").filter(|(code, _)| *code == 200)
        });
    }

    pub(crate) fn stop_server(&mut self) {
        self.fleet.server = None;
    }

    /// curl, as an operator, to the server itself.
    fn try_ask(&self, arguments: &[&str], path: &str) -> Option<(u16, String)> {
        let authority = self.fleet.path(CA_FILE);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "120", "-w", "\n%{http_code}", "--cacert", text(&authority)]);
        curl.args(["-H", &self.fleet.bearer(), "-H", "Content-Type: application/json"]).args(arguments);
        let output = curl.arg(format!("{}{path}", self.operators)).stdin(Stdio::null()).output().expect("curl runs");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = answer.rsplit_once('\n')?;
        code.parse().ok().filter(|code| *code > 0).map(|code| (code, body.to_owned()))
    }

    pub(crate) fn ask(&self, arguments: &[&str], path: &str) -> Value {
        let (code, body) = self.try_ask(arguments, path).expect("an answer");
        assert!((200..300).contains(&code), "{path}: {code} {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// agent.toml with this `[proxy]`, or none, and this authority beside the system's.
    pub(crate) fn write_settings(&self, proxy: &str, authority: &str) {
        let (dir, authority) = (self.fleet.path("agent"), self.fleet.path(authority));
        if !dir.exists() {
            std::fs::create_dir(&dir).expect("a directory");
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).expect("its permissions");
        }
        let settings = format!(
            "server = \"https://{SERVER_NAME}:{SERVER_PORT}\"\nhost = \"web-1\"\nca_file = {authority:?}\noffline_grace = \"3s\"\n{proxy}\n\
             [policy]\nkinds = [\"backup\", \"init\", \"check\", \"unlock\"]\n"
        );
        self.fleet.write("agent/agent.toml", &settings);
    }

    /// The environment of everything that the agent's program does from now on.
    pub(crate) fn set_environment(&mut self, environment: &[(&'static str, &'static str)]) {
        self.environment = environment.to_vec();
    }

    /// Enrolls the agent, with the settings that are written, by the way that they name.
    pub(crate) fn enroll(&self) {
        self.enroll_in(Place::Agent);
    }

    /// The same from where nothing is in the way, for an agent that shall find its way barred later.
    pub(crate) fn enroll_beforehand(&self) {
        self.write_settings("", CA_FILE);
        self.enroll_in(Place::Server);
    }

    fn enroll_in(&self, place: Place) {
        let token = self.ask(&["-d", r#"{"host":"web-1"}"#], "/v1/enrollment-tokens");
        let token = token["token"].as_str().expect("a token").to_owned();
        let (server, dir) = (format!("https://{SERVER_NAME}:{SERVER_PORT}"), self.fleet.path("agent"));
        let arguments = ["enroll", "--server", &server, "--token", &token, "--host", "web-1", "--dir", text(&dir)];
        let mut enroll = self.space.command(place, AGENT);
        let output = enroll.args(arguments).envs(self.environment.iter().copied()).output().expect("enroll runs");
        assert!(output.status.success(), "enroll: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn start_agent(&mut self) {
        let (dir, log) = (self.fleet.path("agent"), self.fleet.path("agent.log"));
        let environment = [self.environment.as_slice(), &[("RUST_LOG", "debug")]].concat();
        self.agent = Some(self.space.start(Place::Agent, AGENT, &["run", "--dir", text(&dir)], &log, &environment));
    }

    /// Waits until the agent runs what the server wants.
    pub(crate) fn agent_is_at_work(&self, deadline: Duration) {
        eventually("the agent has its schedules", deadline, || {
            let host = self.ask(&[], "/v1/hosts/web-1");
            let has = |what: &str| host[what]["applied"].is_u64() && host[what]["applied"] == host[what]["wanted"];
            (has("schedule") && has("config")).then_some(())
        });
    }

    /// Ends the agent, and puts away what it said last.
    pub(crate) fn forget_what_the_agent_said(&mut self) {
        self.agent = None;
        std::fs::remove_file(self.fleet.path("agent/status.json")).expect("the status of before");
        std::fs::remove_file(self.fleet.path("agent.log")).expect("the log of before");
    }

    /// A command of the agent's program other than `run`: its exit code, and what it printed as JSON.
    pub(crate) fn agent_says(&self, command: &str) -> (Option<i32>, Value) {
        let (code, printed) = self.agent_prints(command, &["--json"]);
        (code, serde_json::from_str(&printed).unwrap_or(Value::String(printed)))
    }

    pub(crate) fn agent_prints(&self, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let dir = self.fleet.path("agent");
        let mut program = self.space.command(Place::Agent, AGENT);
        program.args([command, "--dir", text(&dir)]).args(arguments).envs(self.environment.iter().copied());
        let output = program.output().expect("the agent's program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn post(&mut self, body: &Value) -> String {
        let job = self.ask(&["-d", &body.to_string()], "/v1/hosts/web-1/jobs");
        let id = job["id"].as_str().expect("an id").to_owned();
        self.jobs.push(id.clone());
        id
    }

    /// Waits for a job's end, which is this.
    pub(crate) fn ends_as(&self, id: &str, status: &str) {
        let ended = eventually("the job ends", Duration::from_secs(180), || {
            let job = self.ask(&[], &format!("/v1/jobs/{id}"));
            matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(job)
        });
        assert_eq!(ended["status"], status, "{ended}");
    }

    /// A repository and a backup, with all that the agent does of itself after one.
    pub(crate) fn back_up(&mut self) {
        for job in [json!({"kind": "init"}), json!({"schedule_id": "data"})] {
            let id = self.post(&job);
            self.ends_as(&id, "succeeded");
        }
        eventually("its snapshot is reported", Duration::from_secs(60), || {
            let answer = self.ask(&[], "/v1/hosts/web-1/snapshots");
            answer["snapshots"].as_array().is_some_and(|list| list.len() == 1).then_some(())
        });
    }

    /// Posts a command that is over soon: restic has nothing to back up there, and says so before it opens the repository.
    pub(crate) fn post_quick_job(&mut self) -> String {
        let nowhere = self.fleet.path("nowhere");
        self.post(&json!({"kind": "backup", "options": {"paths": [nowhere]}}))
    }

    pub(crate) fn quick_job(&mut self) {
        let id = self.post_quick_job();
        self.ends_as(&id, "failed");
    }

    /// Commands, each posted once the one before has ended and after a pause: of these the pauses of a short run, spread over it.
    /// Every one starts soon.
    pub(crate) fn commands(&mut self, pauses: &[u64]) {
        let (before, commands) = (self.jobs.len(), count(20, 100));
        let is_full = commands == 100;
        for number in 0..commands {
            let each = commands / (pauses.len() + 1);
            let pause = match number {
                // All the lengths up to 20 s.
                _ if is_full && !pauses.is_empty() => u64::try_from(number * 8 % 21).expect("small"),
                0 => 0,
                _ if number % each == 0 => pauses.get(number / each - 1).copied().unwrap_or_default(),
                _ => 0,
            };
            std::thread::sleep(Duration::from_secs(pause));
            self.quick_job();
        }
        let (journal, ids) = (self.fleet.journal(), &self.jobs[before..]);
        let delays = delays(&journal, ids);
        let mut sorted = delays.clone();
        sorted.sort();
        let (middle, longest) = (sorted[commands / 2], sorted[commands - 1]);
        eprintln!("P16 {commands} commands, from POST to start: middle {middle:?}, longest {longest:?}");
        let late = ids.iter().zip(&delays).filter(|(_, delay)| **delay >= SOON).map(|(id, _)| lines_of(&journal, id));
        let late: Vec<_> = late.flatten().collect();
        assert!(late.is_empty(), "each starts soon: {late:#?}");
    }

    /// The end of a row in which commands came through: nothing lost, nothing twice.
    pub(crate) fn ends_well(&mut self) {
        self.agent = None;
        self.stop_server();
        let history = check_history(&self.fleet.path("state/hosts/web-1/journal"));
        assert_eq!(history.jobs, self.jobs.len());
        let journal = self.fleet.journal();
        assert_eq!(complaints(&journal, &self.jobs), [""; 0]);
        // Nothing else was told over and over either.
        let others = journal.iter().filter(|line| line["payload"]["job_id"].is_null()).count();
        assert!(others < 20, "{others} lines about no job: {:?}", &journal[journal.len() - 5..]);
    }
}

/// `[proxy]` with what is at the edge, and these lines more.
pub(crate) fn through_the_proxy(lines: &str) -> String {
    format!("[proxy]\nurl = \"http://{PROXY_NAME}:{PROXY_PORT}\"\n{lines}")
}

/// The same with the login that is wanted there.
pub(crate) fn with_login(scene: &Scene<'_>) -> String {
    scene.fleet.write("proxy-password", &format!("{PASSWORD}\n"));
    let file = scene.fleet.path("proxy-password");
    through_the_proxy(&format!("username = \"{USERNAME}\"\npassword_file = {file:?}\n"))
}
