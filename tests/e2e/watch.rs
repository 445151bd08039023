//! The ways in which a directory changes, each done to one server's: all of them become what it should be, as one version.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Fleet, eventually, text};

/// A fleet whose `config` is a link to a link to a directory, with hosts web-1 and web-2.
struct Ways {
    fleet: Fleet,
    /// Grows with each way, so that each has a text of its own.
    number: usize,
}

/// Runs a shell script in the fleet's directory; git has a user and no settings of the machine's.
pub(crate) fn sh(fleet: &Fleet, script: &str) {
    let identity =
        ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"].map(|name| (name, "t@t"));
    let done = Command::new("sh")
        .args(["-ec", script])
        .current_dir(fleet.dir.path())
        .envs(identity)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("sh runs");
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Secrets are found wherever the directory is.
pub(crate) fn by_whole_paths(fleet: &Fleet) {
    for file in ["config/server.toml", "config/repositories/main.toml"] {
        fleet.write(file, &fleet.read(file).replace("../secrets", text(&fleet.path("secrets"))));
    }
}

/// Puts a link in the place of another, as `ln -s` and `mv -T` do.
pub(crate) fn point(fleet: &Fleet, link: &str, target: &str) {
    let new = fleet.path("new-link");
    symlink(target, &new).expect("linked");
    fs::rename(&new, fleet.path(link)).expect("renamed");
}

impl Ways {
    fn started() -> Self {
        let mut fleet = Fleet::new();
        fleet.write("config/hosts/web-2.toml", "groups = []\n");
        by_whole_paths(&fleet);
        fs::create_dir(fleet.path("trees")).expect("made");
        fs::rename(fleet.path("config"), fleet.path("trees/plain")).expect("moved");
        point(&fleet, "current", "trees/plain");
        point(&fleet, "config", "./current");
        fleet.start_server();
        Self { fleet, number: 0 }
    }

    fn versions(&self) -> [Option<u64>; 2] {
        ["web-1", "web-2"].map(|host| self.fleet.get(&format!("/v1/hosts/{host}"))["schedule"]["wanted"].as_u64())
    }

    /// Changes web-1 by an edit that gets the new text of its file, in which the cron expression is another: soon after its end
    /// there is one more version, with that expression, and none of web-2. (Within two seconds: P6 among the bars.)
    fn way(&mut self, what: &str, edit: impl FnOnce(&Fleet, &str)) {
        self.number += 1;
        let cron = format!("{} {} * * *", self.number % 60, self.number / 60);
        let data = self.fleet.path("data");
        let host = format!(
            "repository = \"main\"\n[[schedule]]\nid = \"data\"\nkind = \"backup\"\npaths = [{data:?}]\ncron = {cron:?}\n"
        );
        let [before, other] = self.versions();
        edit(&self.fleet, &host);
        let edited = Instant::now();
        eventually(what, Duration::from_secs(5), || {
            let set = self.fleet.get("/v1/hosts/web-1/schedules");
            set["schedules"].to_string().contains(&cron).then_some(())
        });
        eprintln!("{what}: {:?}", edited.elapsed());
        assert_eq!(self.versions(), [before.map(|version| version + 1), other], "{what}");
    }
}

const HOST: &str = "config/hosts/web-1.toml";

/// As a program does that has only a file to write: `>`, with a moment between the truncation, the first half and the second.
fn write_slowly(path: &Path, text: &str) {
    let mut file = fs::File::create(path).expect("truncated");
    for half in [&text[..text.len() / 2], &text[text.len() / 2..]] {
        std::thread::sleep(Duration::from_millis(100));
        std::io::Write::write_all(&mut file, half.as_bytes()).expect("written");
    }
}

/// A copy of the present tree with another text of web-1's file.
fn copy(fleet: &Fleet, to: &str, host: &str) -> PathBuf {
    sh(
        fleet,
        &format!(
            "rm -rf {to}; mkdir -p {to}; rmdir {to}; cp -rL config copying; rm -rf copying/.git copying/..?*; mv copying {to}"
        ),
    );
    fleet.write(&format!("{to}/hosts/web-1.toml"), host);
    fleet.path(to)
}

#[test]
fn every_way_in_which_a_directory_changes_converges_as_one_version() {
    let mut ways = Ways::started();
    files_one_by_one(&mut ways);
    whole_trees(&mut ways);
    links_and_directories(&mut ways);
    work_trees(&mut ways);
}

fn files_one_by_one(ways: &mut Ways) {
    ways.way("written in place", |fleet, host| fleet.write(HOST, host));
    ways.way("truncated, then written by halves", |fleet, host| write_slowly(&fleet.path(HOST), host));
    ways.way("appended to", |fleet, host| {
        let schedule = host.split_once('\n').expect("lines").1.replace("\"data\"", "\"more\"");
        std::io::Write::write_all(
            &mut fs::File::options().append(true).open(fleet.path(HOST)).expect("opened"),
            schedule.as_bytes(),
        )
        .expect("appended");
    });
    ways.way("cp over", |fleet, host| {
        fleet.write("new.toml", host);
        sh(fleet, &format!("cp new.toml {HOST}"));
    });
    ways.way("install", |fleet, host| {
        fleet.write("new.toml", host);
        sh(fleet, &format!("install -m 644 new.toml {HOST}"));
    });
    ways.way("moved over from the same directory", |fleet, host| {
        fleet.write("config/hosts/.web-1.toml.tmp", host);
        fs::rename(fleet.path("config/hosts/.web-1.toml.tmp"), fleet.path(HOST)).expect("renamed");
    });
    ways.way("moved over from outside", |fleet, host| {
        fleet.write("new.toml", host);
        fs::rename(fleet.path("new.toml"), fleet.path(HOST)).expect("renamed");
    });
    ways.way("sed -i", |fleet, host| {
        let cron = host.lines().last().expect("a line");
        sh(fleet, &format!("sed -i 's|^cron = .*|{cron}|' {HOST}"));
    });
    ways.way("an editor that renames away", |fleet, host| {
        fleet.write("config/hosts/4913", "");
        fs::remove_file(fleet.path("config/hosts/4913")).expect("removed");
        fs::rename(fleet.path(HOST), fleet.path("config/hosts/web-1.toml~")).expect("renamed");
        fleet.write(HOST, host);
        fs::remove_file(fleet.path("config/hosts/web-1.toml~")).expect("removed");
    });
    ways.way("an editor that copies away", |fleet, host| {
        fs::copy(fleet.path(HOST), fleet.path("config/hosts/.web-1.toml.swp")).expect("copied");
        write_slowly(&fleet.path(HOST), host);
        fs::remove_file(fleet.path("config/hosts/.web-1.toml.swp")).expect("removed");
    });
    ways.way("removed and made again", |fleet, host| {
        fs::remove_file(fleet.path(HOST)).expect("removed");
        fleet.write(HOST, host);
    });
    ways.way("a new directory with a file", |fleet, host| {
        fs::create_dir(fleet.path("config/groups")).expect("made");
        let (first, schedule) = host.split_once('\n').expect("lines");
        fleet.write("config/groups/all.toml", schedule);
        fleet.write(HOST, &format!("groups = [\"all\"]\n{first}\n"));
    });
    ways.way("a file of the new directory", |fleet, host| {
        fleet.write("config/groups/all.toml", host.split_once('\n').expect("lines").1);
    });
    let before = ways.versions();
    sh(&ways.fleet, &format!("touch {HOST}; chmod 600 {HOST}; echo more >> config/README.md"));
    ways.fleet.post("/v1/config/reload", "");
    assert_eq!(ways.versions(), before, "nothing of the fleet has changed");
    // A host by another name: the one is none, the other is there.
    sh(&ways.fleet, "mv config/hosts/web-2.toml config/hosts/web-3.toml");
    eventually("the other name", Duration::from_secs(2), || {
        (ways.fleet.curl(&["/v1/hosts/web-3"]).expect("an answer").0 == 200).then_some(())
    });
    assert_eq!(ways.fleet.get("/v1/hosts/web-2")["configured"], false);
    sh(&ways.fleet, "mv config/hosts/web-3.toml config/hosts/web-2.toml");
    eventually("its own name", Duration::from_secs(2), || {
        (ways.fleet.get("/v1/hosts/web-2")["configured"] == true).then_some(())
    });
}

fn whole_trees(ways: &mut Ways) {
    ways.way("rsync --delete", |fleet, host| {
        copy(fleet, "source", host);
        sh(fleet, "rm -r source/groups; rsync -ac --delete source/ config/");
    });
    ways.way("rsync --inplace", |fleet, host| {
        copy(fleet, "source", host);
        sh(fleet, "rsync -ac --inplace --delete source/ config/");
    });
    ways.way("a directory within replaced", |fleet, host| {
        sh(fleet, "cp -r config/hosts trees/hosts");
        fleet.write("trees/hosts/web-1.toml", host);
        fs::rename(fleet.path("config/hosts"), fleet.path("trees/old-hosts")).expect("renamed");
        fs::rename(fleet.path("trees/hosts"), fleet.path("config/hosts")).expect("renamed");
    });
    ways.way("a file of that one", |fleet, host| fleet.write(HOST, host));
    ways.way("the directory replaced", |fleet, host| {
        let new = copy(fleet, "trees/new", host);
        fs::rename(fleet.path("trees/plain"), fleet.path("trees/old")).expect("renamed");
        fs::rename(new, fleet.path("trees/plain")).expect("renamed");
    });
    ways.way("a file of the new one", |fleet, host| fleet.write(HOST, host));
    ways.way("removed and made again, all of it", |fleet, host| {
        copy(fleet, "source", host);
        fs::remove_dir_all(fleet.path("trees/plain")).expect("removed");
        sh(fleet, "cp -r source trees/plain");
    });
    // For longer, and empty: refused, and nobody is disabled.
    copy(&ways.fleet, "source", &ways.fleet.read(HOST));
    let before = ways.versions();
    sh(&ways.fleet, "rm -rf trees/plain");
    for (state, then) in [("gone", "mkdir trees/plain"), ("empty", "cp -r source/. trees/plain")] {
        let view = ways.fleet.post("/v1/config/reload", "");
        assert!(view["files_run"] == false && view["refused"].is_object(), "{state}: {view}");
        assert_eq!(ways.versions(), before, "{state}");
        sh(&ways.fleet, then);
    }
    eventually("the files are back", Duration::from_secs(2), || {
        (ways.fleet.get("/v1/config")["files_run"] == true).then_some(())
    });
    assert_eq!((ways.versions(), &ways.fleet.get("/v1/config")["refused"]), (before, &Value::Null));
}

fn links_and_directories(ways: &mut Ways) {
    ways.way("a swapped link behind a link", |fleet, host| {
        copy(fleet, "trees/one", host);
        point(fleet, "current", "trees/one");
    });
    ways.way("a file behind it", |fleet, host| fleet.write(HOST, host));
    ways.way("the link in front of it", |fleet, host| {
        copy(fleet, "trees/two", host);
        point(fleet, "config", "trees/two");
    });
    ways.way("a ConfigMap", |fleet, host| {
        copy(fleet, "trees/map/..1", host);
        point(fleet, "trees/map/..data", "..1");
        for name in ["hosts", "repositories", "server.toml"] {
            point(fleet, &format!("trees/map/{name}"), &format!("..data/{name}"));
        }
        point(fleet, "config", "trees/map");
    });
    ways.way("a ConfigMap's change", |fleet, host| {
        copy(fleet, "trees/map/..2", host);
        point(fleet, "trees/map/..data", "..2");
        fs::remove_dir_all(fleet.path("trees/map/..1")).expect("removed");
    });
    let is_root = Command::new("id").arg("-u").output().expect("id runs").stdout == b"0\n";
    let mounted = is_root && {
        let way = "mkdir trees/mount; cp -rL config/. trees/bound; mount --bind trees/bound trees/mount";
        Command::new("sh").args(["-ec", way]).current_dir(ways.fleet.dir.path()).status().expect("sh runs").success()
    };
    if !mounted {
        eprintln!("skipped: a bind mount needs root");
        point(&ways.fleet, "config", "trees/two");
        return;
    }
    let _unmounted = Unmounted(ways.fleet.path("trees/mount"));
    point(&ways.fleet, "config", "trees/mount");
    ways.way("a bind mount, changed by its other path", |fleet, host| {
        fleet.write("trees/bound/hosts/web-1.toml", host);
    });
    // No event tells of a mount: somebody says so.
    ways.way("a mount that comes, and SIGHUP", |fleet, host| {
        copy(fleet, "trees/above", host);
        sh(fleet, "mount --bind trees/above trees/mount");
        fleet.server.as_ref().expect("a server").signal("HUP");
    });
    ways.way("a file of what is mounted now", |fleet, host| fleet.write(HOST, host));
    copy(&ways.fleet, "trees/two", &ways.fleet.read(HOST));
    point(&ways.fleet, "config", "trees/two");
}

/// Takes every mount away from its place, however the test ends.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        for _ in 0..2 {
            let _ = Command::new("umount").args(["-l", text(&self.0)]).status();
        }
    }
}

fn work_trees(ways: &mut Ways) {
    copy(&ways.fleet, "trees/clone", &ways.fleet.read(HOST));
    sh(
        &ways.fleet,
        "git init -q -b main trees/clone; git -C trees/clone add -A; git -C trees/clone commit -qm 1
        git init -q --bare -b main bare.git; git -C trees/clone push -q ../../bare.git main
        git clone -q bare.git trees/pull; mkdir trees/pushed; GIT_WORK_TREE=trees/pushed git --git-dir=bare.git checkout -q -f main",
    );
    let commit = |fleet: &Fleet, host: &str| {
        fleet.write("trees/clone/hosts/web-1.toml", host);
        sh(fleet, "git -C trees/clone commit -qam 2; git -C trees/clone push -q ../../bare.git main");
    };
    point(&ways.fleet, "config", "trees/pull");
    ways.way("git pull", |fleet, host| {
        commit(fleet, host);
        sh(fleet, "git -C trees/pull pull -q");
    });
    ways.way("git checkout", |fleet, host| {
        sh(fleet, "git -C trees/pull worktree add -q ../other 2> /dev/null");
        fleet.write("trees/other/hosts/web-1.toml", host);
        sh(fleet, "git -C trees/other commit -qam 3; git -C trees/pull checkout -q --detach other");
    });
    ways.way("git reset --hard", |fleet, host| {
        commit(fleet, host);
        sh(fleet, "git -C trees/pull fetch -q; git -C trees/pull reset -q --hard origin/main");
    });
    ways.way("git merge", |fleet, host| {
        commit(fleet, host);
        sh(fleet, "git -C trees/pull fetch -q; git -C trees/pull merge -q origin/main 2> /dev/null");
    });
    // The same files, without a git that would be beside them.
    sh(&ways.fleet, "GIT_WORK_TREE=trees/pushed git --git-dir=bare.git checkout -q -f main");
    point(&ways.fleet, "config", "trees/pushed");
    ways.way("a push whose hook checks out", |fleet, host| {
        commit(fleet, host);
        sh(fleet, "GIT_WORK_TREE=trees/pushed git --git-dir=bare.git checkout -q -f main");
    });
    sh(
        &ways.fleet,
        "cp -r trees/other trees/second; rm -rf trees/other; git -C trees/pull worktree prune; git -C trees/pull worktree add -q ../other main",
    );
    ways.fleet.post("/v1/config/reload", "");
    point(&ways.fleet, "config", "trees/other");
    ways.way("a second work tree, whose .git is a file", |fleet, host| {
        fleet.write("trees/other/hosts/web-1.toml", host);
        sh(fleet, "git -C trees/other commit -qam 4");
    });
    sh(&ways.fleet, "git -C trees/other rev-parse HEAD > head");
    let head = ways.fleet.read("head");
    eventually("its commit", Duration::from_secs(2), || {
        (ways.fleet.get("/v1/hosts/web-1")["schedule"]["commit"] == head.trim()).then_some(())
    });
}
