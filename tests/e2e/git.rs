//! The fleet in git, as README.md has it: its hooks and its pipeline with the real git, the sample fleet, a server and two agents.
//! What is wrong is refused by commit and push, what is good arrives everywhere with its commit, and a revert is a newer version.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{AGENT, Fleet, Process, SERVER, eventually, text as path_text};

const HOSTS: [&str; 2] = ["web-1", "db-1"];

/// README.md's blocks by what stands behind their opening: "sh pre-commit", "yaml ci", "toml config/hosts/web-2.toml".
fn blocks() -> BTreeMap<String, String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut blocks = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(name)) => open = Some((name.to_owned(), String::new())),
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some((_, block)), _) => *block += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Somebody with a clone, and a machine with a bare repository, a server and where it is deployed to.
struct Story {
    fleet: Fleet,
    blocks: BTreeMap<String, String>,
    agents: Vec<Process>,
}

impl Story {
    /// A program in the clone, with nothing of this user's git: whether it succeeded, and all that it said.
    fn run(&self, program: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let programs = Path::new(SERVER).parent().expect("a directory");
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.fleet.path("fleet")).env("PATH", path);
        command.env("HOME", self.fleet.path("home")).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("FLEET", self.fleet.path("deployed"));
        for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
            command.env(name, "ops@example.org");
        }
        let output = command.output().expect("it is installed");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), said)
    }

    /// git, which must succeed.
    fn git(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run("git", arguments);
        assert_eq!(code, Some(0), "git {arguments:?}: {said}");
        said
    }

    fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    fn hook(&self, repository: &str, name: &str) {
        let path = self.fleet.path(repository).join("hooks").join(name);
        fs::write(&path, &self.blocks[&format!("sh {name}")]).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Changes a file of the clone.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.fleet.path("fleet").join(file);
        let before = fs::read_to_string(&path).expect("a file");
        assert!(before.contains(from), "{file} has {from}");
        fs::write(path, before.replace(from, to)).expect("written");
    }

    /// The sample as a repository with its hooks, pushed for the first time.
    fn begin() -> Self {
        let fleet = Fleet::new();
        for dir in ["home", "fleet/config", "demo"] {
            fs::create_dir_all(fleet.path(dir)).expect("a directory");
        }
        for host in ["db-1", "nas-1", "web-2"] {
            fleet.write(&format!("secrets/{host}"), "a password");
        }
        // All that is not as in the sample is where things are.
        let (secrets, demo) = (fleet.path("secrets"), fleet.path("demo"));
        copy(&root().join("config"), &fleet.path("fleet/config"), &|text| {
            let text = text.replace("/etc/restic-manager/secrets", path_text(&secrets));
            text.replace("url = \"/var/lib/restic-manager-demo", &format!("url = \"{}", path_text(&demo)))
        });
        let story = Self { fleet, blocks: blocks(), agents: Vec::new() };
        story.git(&["init", "--quiet", "--initial-branch=main", "."]);
        story.hook("fleet/.git", "pre-commit");
        story.git(&["add", "--all"]);
        let said = story.git(&["commit", "--message", "the sample"]);
        assert!(said.contains("checked 3 hosts, 2 groups, 1 repository: no problems"), "{said}");
        assert!(said.contains("from nothing, as there is no commit yet"), "{said}");
        let bare = story.fleet.path("fleet.git");
        story.git(&["init", "--quiet", "--bare", "--initial-branch=main", path_text(&bare)]);
        story.hook("fleet.git", "pre-receive");
        story.hook("fleet.git", "post-receive");
        story.git(&["remote", "add", "origin", path_text(&bare)]);
        let said = story.git(&["push", "--set-upstream", "origin", "main"]);
        assert!(said.contains("remote: deployed ") && said.contains("3 added"), "{said}");
        story
    }

    /// A server on what is deployed, and the agents of two of its hosts.
    fn serve(&mut self) {
        let fleet = &mut self.fleet;
        let (config, state, log) = (fleet.path("deployed/config"), fleet.path("state"), fleet.path("server.log"));
        fleet.server = Some(Process::serve(&config, &state, fleet.port, &log, &[("RUST_LOG", "debug")]));
        fleet.await_server();
        for host in HOSTS {
            let body = format!("{{\"host\":{host:?}}}");
            let token = fleet.post("/v1/enrollment-tokens", &body)["token"].as_str().expect("a token").to_owned();
            let (url, dir) = (fleet.url(), fleet.path(host));
            let arguments = ["enroll", "--server", &url, "--token", &token, "--host", host, "--dir", path_text(&dir)];
            let enrolled = Command::new(AGENT).args(arguments).output().expect("enroll runs");
            assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
            self.agents.push(fleet.agent_process_with_log(host, &format!("{host}.log")));
        }
    }

    /// Waits until an agent runs what this commit says, in this version or a later one; answers the version.
    fn await_commit(&self, host: &str, commit: &str, least: u64) -> u64 {
        eventually(&format!("{host} runs {commit}"), Duration::from_secs(30), || {
            let schedule = &self.fleet.get(&format!("/v1/hosts/{host}"))["schedule"];
            let version = schedule["wanted"].as_u64().filter(|version| *version >= least)?;
            (schedule["commit"] == commit && schedule["applied"] == version).then_some(version)
        })
    }

    /// A schedule as an agent has it on its disk.
    fn applied(&self, host: &str, id: &str) -> Value {
        let received = self.fleet.read(&format!("{host}/schedules.json"));
        let received: Value = serde_json::from_str(&received).expect("JSON");
        let found = received["schedules"].as_array().expect("a list").iter().find(|schedule| schedule["id"] == id);
        found.expect("the schedule").clone()
    }
}

fn copy(from: &Path, to: &Path, change: &dyn Fn(String) -> String) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let target: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, change);
        } else {
            let text = fs::read_to_string(entry.path()).expect("text");
            fs::write(target, change(text)).expect("written");
        }
    }
}

#[test]
fn a_fleet_in_git_is_checked_planned_deployed_and_reverted_with_the_readmes_hooks() {
    let mut story = Story::begin();
    story.serve();
    let first = story.head();
    let before = HOSTS.map(|host| story.await_commit(host, &first, 1));
    let bystander = story.fleet.get("/v1/hosts/nas-1")["schedule"]["wanted"].clone();
    let original = HOSTS.map(|host| story.applied(host, "system"));

    // A new host, and a slip: the commit is refused with check's words, and nothing is committed.
    let added = &story.blocks["toml config/hosts/web-2.toml"];
    fs::write(story.fleet.path("fleet/config/hosts/web-2.toml"), added).expect("written");
    story.edit("config/groups/linux.toml", "splay = \"30m\"", "spaly = \"20m\"");
    story.git(&["add", "--all"]);
    let (code, said) = story.run("git", &["commit", "--message", "slip"]);
    assert!(
        code != Some(0)
            && said.contains("groups/linux.toml:9:1: error: unknown key schedule.spaly; did you mean splay?"),
        "{said}"
    );
    assert_eq!(story.head(), first);

    // Where the hook is passed by, the push is refused.
    story.git(&["commit", "--quiet", "--no-verify", "--message", "slip"]);
    let (code, said) = story.run("git", &["push"]);
    assert!(code != Some(0) && said.contains("remote: groups/linux.toml:9:1: error: unknown key"), "{said}");
    story.git(&["reset", "--quiet", "--soft", &first]);

    // Mended: the commit shows what changes, and to whom.
    story.edit("config/groups/linux.toml", "spaly", "splay");
    let said = story.git(&["commit", "--all", "--message", "web-2, and less splay"]);
    let expected = "2 hosts: db-1, web-1\n  ~ schedule system: splay \"30m\" -> \"20m\"\n+ host web-2\n";
    assert!(said.contains(expected) && said.contains("hosts: 1 added, 2 changed, 0 removed, 1 as before"), "{said}");
    let second = story.head();

    // The server does not have it yet; a pipeline sees the same against what was pushed.
    let token = story.fleet.path("state/admin-token");
    let url = story.fleet.url();
    let against_server = ["plan", "--from", &url, "--token-file", path_text(&token), "config"];
    let (code, said) = story.run("restic-manager", &against_server);
    assert!(code == Some(3) && said.contains(expected), "{code:?} {said}");
    assert!(said.contains(&format!("from {url} (version 1, {})", &first[..8])), "{said}");
    let steps: Vec<String> = story.blocks["yaml ci"]
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- run: "))
        .map(str::to_owned)
        .collect();
    assert_eq!(steps.len(), 2);
    for step in &steps {
        let (code, said) = story.run("bash", &["-e", "-c", step]);
        assert!(code == Some(0) && !said.contains("::error"), "{step}: {said}");
        assert!(!step.contains("plan") || said.contains(expected), "{step}: {said}");
    }

    let (code, said) = story.run("restic-manager", &["plan", "--from", &url, "--token", "wrong", "config"]);
    assert!(code == Some(4) && said.starts_with("restic-manager: "), "{code:?} {said}");

    // The README's other lines, as typed.
    let lines = format!("{}{}", story.blocks["sh fleet"], story.blocks["sh editor"]);
    for line in lines.lines() {
        let line = line.replace("https://backup.example.org", &url);
        let line = format!("export RESTIC_MANAGER_TOKEN_FILE={}; {line}", path_text(&token));
        let (code, said) = story.run("bash", &["-c", &line]);
        assert!(code == Some(0) || code == Some(3) && line.contains(" plan "), "{line}: {code:?} {said}");
    }
    let printed = fs::read_to_string(story.fleet.path("fleet/.schemas/host.json")).expect("a schema");
    assert!(printed.contains("\"title\": \"config/hosts/NAME.toml\""), "{printed}");

    // Pushed: both agents run it, as the next version, with its commit; the new host is there.
    let said = story.git(&["push"]);
    assert!(said.contains("remote:   ~ schedule system: splay \"30m\" -> \"20m\""), "{said}");
    for (host, before) in HOSTS.iter().zip(before) {
        assert_eq!(story.await_commit(host, &second, before + 1), before + 1, "{host}");
        assert_eq!(story.applied(host, "system")["splay"], "20m");
    }
    assert_eq!(story.fleet.get("/v1/hosts/nas-1")["schedule"]["wanted"], bystander, "nothing of it changed");
    assert_eq!(story.fleet.get("/v1/hosts/web-2")["schedule"]["commit"], second);
    let (code, said) = story.run("restic-manager", &against_server);
    assert!(code == Some(0) && said.starts_with("nothing changes from "), "{code:?} {said}");

    // Reverted: the old content, as a newer version.
    let said = story.git(&["revert", "--no-edit", "HEAD"]) + &story.git(&["push"]);
    assert!(said.contains("- host web-2: disabled; history and snapshots stay"), "{said}");
    let third = story.head();
    for ((host, before), original) in HOSTS.iter().zip(before).zip(&original) {
        assert_eq!(story.await_commit(host, &third, before + 2), before + 2, "{host}");
        assert_eq!(story.applied(host, "system"), *original);
    }
}

#[test]
fn a_plan_reads_revisions_without_touching_the_work_tree() {
    let story = Story::begin();
    story.edit("config/hosts/web-1.toml", "tags = [\"web\"]", "tags = [\"web\", \"front\"]");
    story.git(&["commit", "--quiet", "--all", "--message", "front"]);
    story.git(&["tag", "front"]);
    story.edit("config/hosts/web-1.toml", "\"front\"", "\"back\"");
    let plan = |from: &str| story.run("restic-manager", &["plan", "--from", from, "config"]);
    let (code, said) = plan("front");
    assert!(code == Some(3) && said.contains("~ schedule system: tags +\"back\" -\"front\""), "{said}");
    let (code, said) = plan("HEAD~1");
    assert!(code == Some(3) && said.contains("~ schedule system: tags +\"back\"\n"), "{said}");
    let status = story.git(&["status", "--porcelain"]);
    assert_eq!(status, " M config/hosts/web-1.toml\n");
    for (from, expected) in [
        (
            "gone",
            "--from gone is no directory, URL or revision: git rev-parse in config: fatal: Needed a single revision",
        ),
        ("--output=x", "is no revision"),
    ] {
        let from = format!("--from={from}");
        let (code, said) = story.run("restic-manager", &["plan", &from, "config"]);
        assert!(code == Some(1) && said.contains(expected), "{code:?} {said}");
    }
    // What cannot be read in a revision is told, and is no plan.
    fs::write(story.fleet.path("fleet/config/hosts/large.toml"), "#".repeat(1024 * 1024 + 1)).expect("written");
    fs::write(story.fleet.path("fleet/config/hosts/latin.toml"), b"# \xe9").expect("written");
    std::os::unix::fs::symlink("web-1.toml", story.fleet.path("fleet/config/hosts/link.toml")).expect("linked");
    story.git(&["add", "--all"]);
    story.git(&["commit", "--quiet", "--no-verify", "--message", "odd"]);
    story.git(&["rm", "--quiet", "config/hosts/large.toml", "config/hosts/latin.toml", "config/hosts/link.toml"]);
    let (code, said) = story.run("restic-manager", &["plan"]);
    let complaints =
        ["large.toml: error: is larger than 1 MiB", "latin.toml: error: is not text", "link.toml: error: is a link"];
    assert!(code == Some(1) && complaints.iter().all(|complaint| said.contains(complaint)), "{said}");
    story.git(&["commit", "--quiet", "--no-verify", "--message", "even"]);
    // What was committed past the hook can be mended with it.
    story.edit("config/hosts/web-1.toml", "tags", "tgas");
    story.git(&["commit", "--quiet", "--no-verify", "--all", "--message", "slip"]);
    story.edit("config/hosts/web-1.toml", "tgas", "tags");
    let said = story.git(&["commit", "--all", "--message", "mended"]);
    assert!(said.contains("hosts/web-1.toml:3:1: error: unknown key tgas") && said.contains("has 1 error"), "{said}");
    // Not in a repository at all.
    let (code, said) = story.run("restic-manager", &["plan", "/etc"]);
    assert!(code == Some(1) && said.contains("not a git repository"), "{said}");
}
