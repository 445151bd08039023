//! What can go wrong with a repository and its data, each made with the real restic: the job's outcome, exit code and words, the alert,
//! and that it ends once the trouble is mended.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Fleet, PASSWORD, eventually, free_port, restics, text};
use crate::locks::{let_go, locks, restic_by_hand};

/// One trouble, from how it is made to what becomes of it.
struct Trouble {
    name: &'static str,
    /// Which schedule's job meets it.
    schedule: &'static str,
    /// Makes it. `None`: that cannot be had here.
    make: fn(&mut Fleet, &str) -> Option<Mend>,
    status: &'static str,
    /// Of a restic from 0.17 on, and of one before that. `None`: there is none.
    exit_codes: [Option<i64>; 2],
    /// In the error, or in the warnings of a job that has succeeded.
    words: &'static [&'static str],
    alert: &'static str,
    /// restics differ in it.
    by_version: bool,
}

/// Ends the trouble.
type Mend = Box<dyn FnOnce(&mut Fleet)>;

const TROUBLES: [Trouble; 8] = [
    Trouble {
        name: "wrong password",
        schedule: "data",
        make: wrong_password,
        status: "failed",
        exit_codes: [Some(12), Some(1)],
        words: &["the password is wrong"],
        alert: "backup_failed",
        by_version: true,
    },
    Trouble {
        name: "a locked repository",
        schedule: "check",
        make: locked,
        status: "failed",
        exit_codes: [Some(11), Some(1)],
        words: &["already locked by PID ", "lock was created at ", "run an unlock job"],
        alert: "check_failed",
        by_version: true,
    },
    Trouble {
        name: "a damaged pack",
        schedule: "check",
        make: damaged_pack,
        status: "failed",
        exit_codes: [Some(1), Some(1)],
        words: &["repository contains errors"],
        alert: "check_failed",
        by_version: false,
    },
    Trouble {
        name: "a full disk",
        schedule: "data",
        make: full_disk,
        status: "failed",
        exit_codes: [Some(1), Some(1)],
        words: &["no space left"],
        alert: "backup_failed",
        by_version: false,
    },
    Trouble {
        name: "a killed restic",
        schedule: "data",
        make: slow_to_be_killed,
        status: "failed",
        exit_codes: [None, None],
        words: &["restic died of signal 9 (SIGKILL"],
        alert: "backup_failed",
        by_version: false,
    },
    Trouble {
        name: "an unreadable file",
        schedule: "data",
        make: unreadable_file,
        status: "succeeded",
        exit_codes: [Some(3), Some(3)],
        words: &["/proc/self/mem"],
        alert: "backup_incomplete",
        by_version: false,
    },
    Trouble {
        name: "a repository that is out of reach",
        schedule: "data",
        make: closed_port,
        status: "failed",
        exit_codes: [None, Some(1)],
        words: &["connection refused", "(the last of 2 attempts)"],
        alert: "backup_failed",
        by_version: true,
    },
    Trouble {
        name: "a repository that never answers",
        schedule: "data",
        make: silent_server,
        status: "failed",
        exit_codes: [None, None],
        words: &["made no progress for 2s: is the repository's server or the network stuck?"],
        alert: "backup_failed",
        by_version: false,
    },
];

#[test]
fn troubles_of_passwords_locks_packs_and_disks_end_as_documented_and_their_alerts_when_mended() {
    meet_all(&TROUBLES[..4]);
}

#[test]
fn troubles_of_processes_files_and_networks_end_as_documented_and_their_alerts_when_mended() {
    meet_all(&TROUBLES[4..]);
}

fn meet_all(troubles: &[Trouble]) {
    for restic in oldest_and_newest() {
        let mut fleet = started(&restic);
        let is_first = restic == "restic";
        for trouble in troubles.iter().filter(|trouble| is_first || trouble.by_version || all()) {
            meet(&mut fleet, &restic, trouble);
        }
    }
}

/// Those between end as the newest does.
pub(crate) fn oldest_and_newest() -> Vec<String> {
    let mut list = restics();
    if list.len() > 2 && !all() {
        list.drain(1..list.len() - 1);
    }
    list
}

/// All troubles with all restics: it takes its time.
fn all() -> bool {
    std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full")
}

fn meet(fleet: &mut Fleet, restic: &str, trouble: &Trouble) {
    let what = format!("{} with {restic}", trouble.name);
    let began = std::time::Instant::now();
    let Some(mend) = (trouble.make)(fleet, restic) else {
        assert!(std::env::var_os("CI").is_none(), "{what}: CI can make it");
        return;
    };
    let id = start(fleet, trouble.schedule);
    if trouble.name == "a killed restic" {
        kill_restic(fleet);
    }
    let job = fleet.wait_for_job(&id, Duration::from_secs(60));
    assert_eq!(job["status"], trouble.status, "{what}: {job}");
    let told = if trouble.status == "failed" { &job["error"] } else { &job["warnings"] }.to_string();
    for word in trouble.words {
        assert!(told.contains(word), "{what}: no {word:?} in {told}");
    }
    assert!(!job.to_string().contains(PASSWORD), "{what}: {job}");
    assert!(!told.contains("\\n"), "{what}: one line, {told}");
    let version = fleet.get("/v1/hosts/web-1")["restic_version"].as_str().expect("a version").to_owned();
    let minor: u32 = version.split('.').nth(1).expect("a minor version").parse().expect("a number");
    if let Some(code) = trouble.exit_codes[usize::from(minor < 17)] {
        assert_eq!(job["exit_code"], code, "{what}: {job}");
    }
    assert_eq!(job["incomplete"], trouble.alert == "backup_incomplete", "{what}: {job}");
    let alerts = fleet.get("/v1/alerts");
    let alert = &alerts["alerts"][0];
    assert_eq!((&alert["kind"], &alert["job_id"]), (&json!(trouble.alert), &json!(id)), "{what}: {alerts}");
    assert!(alert["text"].as_str().is_some_and(|text| text.contains(trouble.words[0])), "{what}: {alert}");
    if trouble.name == "a killed restic" {
        assert_eq!(locks(fleet), 0, "{what}: the agent has removed the dead one's lock");
    }
    if trouble.name == "a damaged pack" {
        let pack = largest_pack(fleet);
        let id = text(Path::new(pack.file_name().expect("a name")));
        assert!(job["warnings"].to_string().contains(id), "{what}: {job}");
    }
    mend(fleet);
    let job = fleet.run_job(&json!({"schedule_id": trouble.schedule}).to_string());
    assert_eq!((&job["status"], &job["incomplete"]), (&json!("succeeded"), &json!(false)), "{what}: mended: {job}");
    assert_eq!(fleet.get("/v1/alerts")["alerts"], json!([]), "{what}: mended");
    eprintln!("{what}: {:.1} s", began.elapsed().as_secs_f64());
}

/// A fleet whose host backs up and checks, with a repository that has a snapshot of data that does not compress.
fn started(restic: &str) -> Fleet {
    let fleet = Fleet::new();
    let schedules = fleet.read("config/hosts/web-1.toml");
    let check =
        "[[schedule]]\nid = \"check\"\nkind = \"check\"\ncron = \"0 4 * * *\"\noptions = { read_data = true }\n";
    fleet.write("config/hosts/web-1.toml", &(schedules + check));
    fs::write(fleet.path("data/noise"), noise(300_000)).expect("write");
    let fleet = fleet.start(restic);
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{restic}: {body}");
    }
    fleet
}

pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = u64::try_from(bytes).expect("small") | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

fn start(fleet: &Fleet, schedule: &str) -> String {
    let job = fleet.post("/v1/hosts/web-1/jobs", &json!({"schedule_id": schedule}).to_string());
    job["id"].as_str().expect("an id").to_owned()
}

/// Has the server read its files, and waits until the agent has what changed.
fn reload(fleet: &Fleet) {
    fleet.post("/v1/config/reload", "");
    eventually("the agent has the new settings", Duration::from_secs(20), || {
        let host = fleet.get("/v1/hosts/web-1");
        let same = |what: &str| host[what]["applied"] == host[what]["wanted"];
        (same("config") && same("schedule")).then_some(())
    });
}

/// Writes a file of the configuration anew; the mend writes what was there.
fn changed(fleet: &Fleet, file: &'static str, change: impl FnOnce(String) -> String) -> Mend {
    let before = fleet.read(file);
    fleet.write(file, &change(before.clone()));
    reload(fleet);
    Box::new(move |fleet| {
        fleet.write(file, &before);
        reload(fleet);
    })
}

fn wrong_password(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    Some(changed(fleet, "secrets/web-1", |_| "another-horse".to_owned()))
}

/// Another restic, by hand, in the middle of a backup: a check needs the repository for itself.
fn locked(fleet: &mut Fleet, restic: &str) -> Option<Mend> {
    let mut holder =
        restic_by_hand(fleet, restic, &["backup", "--stdin", "--stdin-filename", "hold", "--host", "other"]);
    eventually("it has its lock", Duration::from_secs(20), || (locks(fleet) == 1).then_some(()));
    Some(Box::new(move |fleet| {
        let_go(&mut holder);
        assert_eq!(locks(fleet), 0);
    }))
}

fn damaged_pack(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    let (pack, whole) = damage_largest_pack(fleet);
    Some(Box::new(move |_| replace(&pack, &whole)))
}

/// In the middle, where contents are. Returns which, and what it was.
pub(crate) fn damage_largest_pack(fleet: &Fleet) -> (PathBuf, Vec<u8>) {
    let pack = largest_pack(fleet);
    let whole = fs::read(&pack).expect("read");
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 16].iter_mut().for_each(|byte| *byte = !*byte);
    replace(&pack, &damaged);
    (pack, whole)
}

fn largest_pack(fleet: &Fleet) -> PathBuf {
    let packs = files(&fleet.path("repo/data"));
    packs.into_iter().max_by_key(|path| fs::metadata(path).expect("stat").len()).expect("a pack")
}

/// restic makes its packs read-only.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("write");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The repository on a small file system of its own.
fn full_disk(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    let dir = fleet.path("small");
    fs::create_dir_all(&dir).expect("a directory");
    if !mount(&["-t", "tmpfs", "-o", "size=2m", "none", text(&dir)]) {
        eprintln!("a full disk: skipped, as only root may mount a small one");
        return None;
    }
    let mounted = Mounted(dir.clone());
    let back = changed(fleet, "config/repositories/main.toml", |toml| toml.replace("/repo\"", "/small/repo\""));
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    fs::write(fleet.path("data/more"), noise(3_000_000)).expect("write");
    Some(Box::new(move |fleet| {
        assert!(mount(&["-o", "remount,size=32m", text(&dir)]));
        let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
        assert_eq!(job["status"], "succeeded", "with more space: {job}");
        eventually("its snapshots are listed, so that it may go", Duration::from_secs(20), || {
            let list = fleet.get("/v1/hosts/web-1/snapshots").to_string();
            list.contains(job["id"].as_str().expect("an id")).then_some(())
        });
        fs::remove_file(fleet.path("data/more")).expect("removed");
        back(fleet);
        drop(mounted);
    }))
}

fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", text(&self.0)]).status();
    }
}

/// Everything is uploaded at 20 KiB per second.
fn slow_to_be_killed(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    fs::write(fleet.path("data/noise"), noise(600_001)).expect("write");
    Some(changed(fleet, "config/repositories/main.toml", |toml| toml + "limit_upload_kib = 20\n"))
}

/// With its lock, and a while after it took it.
pub(crate) fn kill_restic(fleet: &Fleet) {
    eventually("restic has its lock", Duration::from_secs(20), || (locks(fleet) == 1).then_some(()));
    let agent = fleet.agent.as_ref().expect("an agent").id().to_string();
    let restic = eventually("restic runs", Duration::from_secs(10), || {
        let found = Command::new("ps").args(["-o", "pid=", "--ppid", &agent]).output().expect("ps runs");
        String::from_utf8_lossy(&found.stdout).trim().parse::<u32>().ok()
    });
    assert!(Command::new("kill").args(["-9", &restic.to_string()]).status().expect("kill runs").success());
}

/// Reading one's own memory from its start is an error for everybody, root as well.
fn unreadable_file(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    let change = |toml: String| toml.replacen("paths = [", "paths = [\"/proc/self/mem\", ", 1);
    Some(changed(fleet, "config/hosts/web-1.toml", change))
}

/// Nobody listens there.
fn closed_port(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    Some(out_of_reach(fleet, free_port(), 1))
}

/// Somebody listens, and that is all.
fn silent_server(fleet: &mut Fleet, _: &str) -> Option<Mend> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mend = out_of_reach(fleet, listener.local_addr().expect("an address").port(), 0);
    Some(Box::new(move |fleet| {
        // Connections wait for it in the kernel's queue.
        drop(listener);
        mend(fleet);
    }))
}

fn out_of_reach(fleet: &mut Fleet, port: u16, retries: u32) -> Mend {
    let settings = fleet.read("agent/agent.toml");
    if !settings.contains("no_progress") {
        fleet.write("agent/agent.toml", &format!("no_progress = \"2s\"\nretry_wait = \"1s\"\n{settings}"));
        fleet.agent = None;
        fleet.start_agent();
    }
    let path = text(&fleet.path("repo")).to_owned();
    let change = |toml: String| toml.replace(&path, &format!("rest:http://127.0.0.1:{port}/x/"));
    let url = changed(fleet, "config/repositories/main.toml", change);
    let change = |toml: String| toml.replacen("paths = [", &format!("retries = {retries}\npaths = ["), 1);
    let schedule = changed(fleet, "config/hosts/web-1.toml", change);
    Box::new(move |fleet| {
        schedule(fleet);
        url(fleet);
    })
}
