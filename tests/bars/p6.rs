//! P6: an edit that fails validation never reaches an agent, across restarts too; a good one changes exactly the versions of the hosts
//! whose part changed, once, within two seconds of the last write; and 20,000 events during a pause lose no edit. The oracle of
//! what is refused is the library's own loading.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use restic_manager::server::fleet::load::{Texts, has_errors, load_again};
use restic_manager::server::fleet::read_tree::{ReadBefore, read_tree};
use restic_manager::server::fleet::remembered::Remembered;
use serde_json::{Value, json};

use crate::count;
use crate::damage::{Rng, mutate};
use crate::harness::{Fleet, eventually, text};
use crate::poster::{Connection, Poster, ask};

/// A host that is let in and only asks what it should have.
pub(crate) struct Asker {
    pub(crate) host: String,
    credential: String,
    path: String,
    connection: Option<Connection>,
    port: u16,
}

impl Asker {
    pub(crate) fn enroll(port: u16, admin: &str, host: &str) -> Self {
        let Poster { credential, instance, .. } = Poster::enroll(port, admin, host);
        let hello = json!({
            "protocol_version": 1, "agent_version": "0", "hostname": host, "os": "linux", "arch": "amd64",
            "instance_id": instance, "stream": uuid::Uuid::new_v4(), "running_jobs": [],
        });
        let greeted = ask(port, "POST", &format!("/v1/agents/{host}/hello"), &credential, &hello.to_string());
        assert_eq!(greeted.expect("an answer").status, 200);
        let path = format!("/v1/agents/{host}/commands?instance={instance}&wait=0");
        Self { host: host.to_owned(), credential, path, connection: None, port }
    }

    /// The schedule set that it is given; `Null` where there is none.
    pub(crate) fn served(&mut self) -> Value {
        // Once more where the server has closed the connection, or has been restarted.
        let reply = (0..2).find_map(|_| {
            let mut connection = self.connection.take().or_else(|| Connection::new(self.port).ok())?;
            let reply = connection.ask("GET", &self.path, &self.credential, "").ok()?;
            self.connection = Some(connection);
            Some(reply)
        });
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, 200, "{}: {}", self.host, reply.body);
        let messages = reply.json()["messages"].clone();
        let set = messages.as_array().into_iter().flatten().find(|message| message["type"] == "schedule.set");
        set.map_or(Value::Null, |set| set["payload"].clone())
    }
}

/// The server of the sample configuration, and its three hosts.
struct Sample {
    fleet: Fleet,
    files: BTreeMap<String, String>,
    askers: Vec<Asker>,
    /// What each host is served by the files as they are in the repository.
    good: Vec<Value>,
    admin: String,
    memory: Remembered,
}

impl Sample {
    fn started() -> Self {
        let mut fleet = Fleet::new();
        fs::remove_dir_all(fleet.path("config")).expect("removed");
        let (texts, problems) =
            read_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config"), &mut ReadBefore::default());
        assert!(problems.is_empty(), "{problems:?}");
        // An agent's own file is none of the server's business.
        let files = texts.into_iter().filter(|(name, _)| name != "agent.toml");
        let files: BTreeMap<String, String> = files.map(|(name, text)| (name, text.to_string())).collect();
        for (name, text) in &files {
            let path = fleet.path("config").join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        fleet.start_server_with(&[("RUST_LOG", "error")]);
        let admin = fleet.token();
        let hosts = files.keys().filter_map(|name| name.strip_prefix("hosts/")?.strip_suffix(".toml"));
        let mut askers: Vec<_> = hosts.map(|host| Asker::enroll(fleet.port, &admin, host)).collect();
        let good = askers.iter_mut().map(Asker::served).collect();
        Self { fleet, files, askers, good, admin, memory: Remembered::default() }
    }

    fn write(&self, name: &str, text: &str) {
        self.fleet.write(&format!("config/{name}"), text);
    }

    fn reload(&self) -> Value {
        let reply = ask(self.fleet.port, "POST", "/v1/config/reload", &self.admin, "").expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// Whether the sample with this text of a file has an error.
    fn is_bad(&mut self, name: &str, damaged: &str) -> bool {
        let text = |(file, text): (&String, &String)| {
            (file.clone(), Arc::from(if file == name { damaged } else { text.as_str() }))
        };
        let texts: Texts = self.files.iter().map(text).collect();
        has_errors(&load_again(&texts, &mut self.memory).1)
    }

    /// Hosts that are served something else than the good files say.
    fn astray(&mut self) -> Vec<String> {
        let pairs = self.askers.iter_mut().zip(&self.good);
        pairs.filter_map(|(asker, good)| (asker.served() != *good).then(|| asker.host.clone())).collect()
    }

    /// Deploys a damaged file, if it is refused at all, and sees that nobody is served it. Gives whether it was.
    fn try_damaged(&mut self, name: &str, damaged: &str) -> bool {
        if !self.is_bad(name, damaged) {
            return false;
        }
        self.write(name, damaged);
        let view = self.reload();
        assert_eq!(
            (&view["files_run"], &view["refused"].is_null()),
            (&false.into(), &false),
            "{name}: {view}\n{damaged}"
        );
        assert!(view["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{view}");
        assert_eq!(self.astray(), [""; 0], "{name}:\n{damaged}");
        true
    }

    fn restart(&mut self) {
        self.fleet.server = None;
        self.fleet.start_server_with(&[("RUST_LOG", "error")]);
    }
}

#[test]
fn p6_what_is_refused_reaches_no_agent_across_restarts_too() {
    let mut sample = Sample::started();
    let begun = Instant::now();
    let mut refused = 0;
    let mut tried = 0;
    let restart_every = count(60, 500);
    let mut rng = Rng::new(0x0BAD_5EED);
    let cuts: Vec<(String, usize)> = sample
        .files
        .iter()
        .flat_map(|(name, text)| {
            (0..text.len()).filter(|end| text.is_char_boundary(*end)).map(|end| (name.clone(), end))
        })
        .collect();
    // Few of them, spread over all files; or all.
    let few = cuts.len().div_ceil(count(120, usize::MAX)).max(1);
    let names: Vec<String> = sample.files.keys().cloned().collect();
    let cuts = cuts.into_iter().step_by(few).map(|(name, end)| (name, Some(end)));
    let mutations = (0..count(200, 10_000)).map(|number| (names[number % names.len()].clone(), None));
    for (name, cut) in cuts.chain(mutations) {
        let original = sample.files[&name].clone();
        let damaged = cut.map_or_else(|| mutate(&original, &mut rng), |end| original[..end].to_owned());
        tried += 1;
        if sample.try_damaged(&name, &damaged) {
            refused += 1;
            if refused % restart_every == 0 {
                sample.restart();
                assert_eq!(sample.astray(), [""; 0], "after a restart with {name}:\n{damaged}");
            }
        }
        sample.write(&name, &original);
    }
    let view = sample.reload();
    assert_eq!((&view["files_run"], &view["refused"]), (&true.into(), &Value::Null), "the refusal ends: {view}");
    assert_eq!(sample.astray(), [""; 0]);
    assert!(refused > tried / 4, "{refused} of {tried} are refused");
    // The control: what is not refused is served, so the comparison can fail.
    let host = sample.files["hosts/web-1.toml"].clone();
    let valid = format!("{host}\n[[schedule]]\nid = \"another\"\nkind = \"check\"\ncron = \"1 2 3 * *\"\n");
    assert!(!sample.is_bad("hosts/web-1.toml", &valid) && !sample.try_damaged("hosts/web-1.toml", &valid));
    sample.write("hosts/web-1.toml", &valid);
    sample.reload();
    assert_eq!(sample.astray(), ["web-1"]);
    eprintln!("P6: {refused} of {tried} damaged fleets refused, none served, {:?}", begun.elapsed());
}

/// A fleet of ten hosts in a work tree behind a link.
struct Edited {
    fleet: Fleet,
    askers: Vec<Asker>,
    number: usize,
}

pub(crate) fn sh(fleet: &Fleet, script: &str) {
    let done = Command::new("sh")
        .args(["-ec", script])
        .current_dir(fleet.dir.path())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("sh runs");
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A repository, with one password for all, wherever the directory is.
pub(crate) fn write_repository(fleet: &Fleet, directory: &Path) {
    let secrets = fleet.path("secrets");
    fs::create_dir_all(directory.join("repositories")).expect("made");
    fs::write(directory.join("server.toml"), format!("secret_roots = [{secrets:?}]\n")).expect("written");
    let repository = format!("url = \"/srv/backup\"\npassword = {{ file = {:?} }}\n", secrets.join("web-1"));
    fs::write(directory.join("repositories/main.toml"), repository).expect("written");
}

fn host_text(number: usize) -> String {
    let cron = format!("{} {} * * *", number % 60, number / 60 % 24);
    format!(
        "repository = \"main\"\n[[schedule]]\nid = \"data\"\nkind = \"backup\"\ncron = {cron:?}\npaths = [\"/etc\"]\n"
    )
}

impl Edited {
    fn started() -> Self {
        let mut fleet = Fleet::new();
        write_repository(&fleet, &fleet.path("config"));
        for host in 1..=10 {
            fleet.write(&format!("config/hosts/web-{host}.toml"), &host_text(0));
        }
        sh(
            &fleet,
            "git init -q -b main config; git -C config config user.name t; git -C config config user.email t
            git -C config add -A; git -C config commit -qm 1; mv config tree; ln -s tree config",
        );
        fleet.start_server_with(&[("RUST_LOG", "info")]);
        let admin = fleet.token();
        let askers = (1..=10).map(|host| Asker::enroll(fleet.port, &admin, &format!("web-{host}"))).collect();
        Self { fleet, askers, number: 0 }
    }

    /// What each host is told; 0 in the moment between two versions, when it is told neither.
    fn versions(&mut self) -> Vec<u64> {
        self.askers.iter_mut().map(|asker| asker.served()["version"].as_u64().unwrap_or(0)).collect()
    }

    /// Makes an edit that gives these hosts (from 0) another text, and says what is wrong with what follows.
    fn edit(&mut self, hosts: &[usize], edit: impl FnOnce(&Fleet, &[(String, String)])) -> Result<Duration, String> {
        self.number += 1;
        let changed: Vec<_> =
            hosts.iter().map(|host| (format!("hosts/web-{}.toml", host + 1), host_text(self.number))).collect();
        let mut expected = self.versions();
        hosts.iter().for_each(|host| expected[*host] += 1);
        edit(&self.fleet, &changed);
        let edited = Instant::now();
        while self.versions() != expected {
            if edited.elapsed() > Duration::from_secs(2) {
                return Err(format!("after 2 s the versions are {:?} and not {expected:?}", self.versions()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = edited.elapsed();
        // Once: nothing follows.
        std::thread::sleep(Duration::from_millis(700));
        let after = self.versions();
        if after == expected { Ok(took) } else { Err(format!("later the versions are {after:?} and not {expected:?}")) }
    }
}

fn in_place(fleet: &Fleet, changed: &[(String, String)]) {
    changed.iter().for_each(|(name, text)| fleet.write(&format!("config/{name}"), text));
}

fn renamed_over(fleet: &Fleet, changed: &[(String, String)]) {
    for (name, text) in changed {
        fleet.write("config/hosts/.new", text);
        fs::rename(fleet.path("config/hosts/.new"), fleet.path("config").join(name)).expect("renamed");
    }
}

fn rsynced(fleet: &Fleet, changed: &[(String, String)]) {
    sh(fleet, "rm -rf source; mkdir source; cp -r config/hosts config/repositories config/server.toml source");
    changed.iter().for_each(|(name, text)| fleet.write(&format!("source/{name}"), text));
    sh(fleet, "rsync -ac --delete --exclude=/.git source/ config/");
}

fn checked_out(fleet: &Fleet, changed: &[(String, String)]) {
    sh(
        fleet,
        "git -C tree add -A; git -C tree commit -q --allow-empty -m before; rm -rf clone; git clone -q tree clone",
    );
    changed.iter().for_each(|(name, text)| fleet.write(&format!("clone/{name}"), text));
    sh(fleet, "git -C clone -c user.name=t -c user.email=t commit -qam next; git -C tree fetch -q ../clone");
    sh(fleet, "git -C tree checkout -q --detach FETCH_HEAD");
}

fn swapped(fleet: &Fleet, changed: &[(String, String)]) {
    let target = fs::read_link(fleet.path("config")).expect("a link");
    let other = if target == Path::new("tree") { "other" } else { "tree" };
    sh(fleet, &format!("rm -rf new; cp -r {} new; rm -rf {other}; mv new {other}", target.display()));
    changed.iter().for_each(|(name, text)| fleet.write(&format!("{other}/{name}"), text));
    symlink(other, fleet.path("config.new")).expect("linked");
    fs::rename(fleet.path("config.new"), fleet.path("config")).expect("renamed");
}

#[test]
fn p6_a_good_edit_changes_exactly_its_hosts_once_within_two_seconds() {
    type Way = fn(&Fleet, &[(String, String)]);
    let mut edited = Edited::started();
    let ways: [(&str, Way); 5] = [
        ("git checkout", checked_out),
        ("rsync", rsynced),
        ("rename over", renamed_over),
        ("symlink swap", swapped),
        ("in place", in_place),
    ];
    for round in 0..count(1, 20) {
        for (what, way) in ways {
            // git is in the one tree.
            if what == "git checkout"
                && fs::read_link(edited.fleet.path("config")).expect("a link") != Path::new("tree")
            {
                sh(&edited.fleet, "cp other/hosts/* tree/hosts/; ln -sfn tree config");
                std::thread::sleep(Duration::from_secs(1));
            }
            let hosts: &[usize] = [&[0][..], &[3, 4, 9], &[7, 2]][round % 3];
            let took = edited.edit(hosts, way).unwrap_or_else(|problem| panic!("{what}: {problem}"));
            eprintln!("P6: {what}: {took:?}");
        }
    }
    // Controls: an edit in two steps is two versions, one that is never made is none, and another host's is another's.
    let in_two = edited.edit(&[1], |fleet, changed| {
        in_place(fleet, &[(changed[0].0.clone(), host_text(1000))]);
        std::thread::sleep(Duration::from_millis(900));
        in_place(fleet, changed);
    });
    let never = edited.edit(&[1], |_, _| {});
    let another =
        edited.edit(&[1], |fleet, changed| in_place(fleet, &[("hosts/web-3.toml".to_owned(), changed[0].1.clone())]));
    assert!(in_two.is_err() && never.is_err() && another.is_err(), "{in_two:?} {never:?} {another:?}");
}

#[test]
fn p6_twenty_thousand_events_during_a_pause_lose_no_edit() {
    let mut edited = Edited::started();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a limit");
    for round in 0..count(1, 5) {
        let server = edited.fleet.server.as_ref().expect("a server");
        server.signal("STOP");
        for number in 0..20_000 {
            edited.fleet.write(&format!("config/hosts/web-{}.toml", 2 + number % 9), &host_text(number + round + 1));
        }
        edited.fleet.write("config/hosts/web-1.toml", &host_text(500 + round));
        // The control: nothing is seen before it goes on.
        let journal =
            edited.fleet.read(&format!("state/hosts/web-1/journal/{}.jsonl", chrono::Utc::now().format("%Y-%m")));
        assert!(!journal.contains(&format!("\"version\":{}", 2 + round)), "{journal}");
        let server = edited.fleet.server.as_ref().expect("a server");
        server.signal("CONT");
        let begun = Instant::now();
        let cron = |number: usize| format!("{} {} * * *", number % 60, number / 60 % 24);
        eventually("everything is as the files say", Duration::from_secs(5), || {
            let newest =
                |host: usize| (0..20_000).rev().find(|number| 2 + number % 9 == host).map(|number| number + round + 1);
            edited
                .askers
                .iter_mut()
                .enumerate()
                .all(|(at, asker)| {
                    let expected = cron(newest(at + 1).unwrap_or(500 + round));
                    asker.served()["schedules"][0]["cron_expr"] == expected.as_str()
                })
                .then_some(())
        });
        eprintln!("P6: 20,000 writes during a pause (a queue of {}): {:?}", queue.trim(), begun.elapsed());
    }
    assert!(text(&edited.fleet.path("config")).ends_with("config"));
}
