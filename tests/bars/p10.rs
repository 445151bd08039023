//! P10: a full disk loses nothing acknowledged and heals by itself. The state directory is a tmpfs of 1 MiB, or one without inodes
//! left, which agents fill with their posts: 507 for what needs space, everything else answered, and on again when there is space.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::count;
use crate::faults::{Mount, in_a_mount_namespace, lied_to, run};
use crate::harness::{Fleet, eventually, text};
use crate::poster::{Poster, Reply, ask, while_posting};
use crate::station::Station;

const HOSTS: usize = 3;
/// So often one disk is filled and has space again.
const FILLINGS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(5);

/// A server whose state is on a small disk with some files of others on it, which can be removed.
struct SmallDisk {
    // Dropped in this order: nothing may use the mount when it goes.
    station: Station,
    _mount: Mount,
    others: Vec<PathBuf>,
}

impl SmallDisk {
    fn started(options: &str, environment: Vec<(&'static str, &'static str)>) -> Self {
        let mut station = Station::new(HOSTS, environment);
        let mount = Mount::new(&["-t", "tmpfs", "-o", options, "tmpfs"], &station.state());
        station.start();
        station.enroll(HOSTS);
        let others: Vec<PathBuf> =
            (0..FILLINGS).map(|number| station.state().join(format!("other-{number}"))).collect();
        for other in &others {
            fs::write(other, vec![b'x'; 200 << 10]).expect("a file in the way");
        }
        Self { station, _mount: mount, others }
    }

    /// Makes empty files until there is room for no more.
    fn take_all_inodes(&self) -> Vec<PathBuf> {
        let names = (0..1000).map(|number| self.station.state().join(format!("filler-{number}")));
        let made: Vec<PathBuf> = names.take_while(|name| fs::write(name, "").is_ok()).collect();
        assert!(made.len() < 1000, "the inodes have an end");
        made
    }

    fn free_blocks(&self) -> u64 {
        rustix::fs::statvfs(self.station.state()).expect("a file system").f_bavail
    }

    fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), text(&self.station.state())]);
    }

    /// What is answered without writing: the polls of every host, and what operators read.
    fn reads_go_on(&self, hosts: &[(String, String, String)]) {
        let (port, token) = (self.station.fleet.port, self.station.fleet.token());
        for (host, instance, credential) in hosts {
            let poll = format!("/v1/agents/{host}/commands?instance={instance}&wait=0");
            let answer = ask(port, "GET", &poll, credential, "").expect("an answer");
            assert_eq!(answer.status, 200, "P10: a poll: {}", answer.body);
        }
        for path in
            ["/v1/hosts", "/v1/hosts/web-1", "/v1/hosts/web-1/jobs", "/v1/events?limit=5", "/v1/config", "/readyz"]
        {
            let answer = ask(port, "GET", path, &token, "").expect("an answer");
            assert_eq!(answer.status, 200, "P10: {path}: {}", answer.body);
        }
    }
}

fn who(posters: &[Poster]) -> Vec<(String, String, String)> {
    posters.iter().map(|p| (p.host.clone(), p.instance.to_string(), p.credential.clone())).collect()
}

fn is_disk_full(answer: &Reply) -> bool {
    answer.status == 507 && answer.content_type == "application/problem+json" && answer.json()["code"] == "disk-full"
}

fn counts_of(posters: &[Poster]) -> Vec<Arc<AtomicU64>> {
    posters.iter().map(|poster| Arc::clone(&poster.acked)).collect()
}

fn all(counts: &[Arc<AtomicU64>]) -> Vec<u64> {
    counts.iter().map(|count| count.load(Ordering::SeqCst)).collect()
}

/// Waits until nobody has got anything taken for a while.
fn wait_until_full(counts: &[Arc<AtomicU64>]) {
    let (mut before, mut since) = (Vec::new(), Instant::now());
    eventually("the disk is full", Duration::from_secs(60), || {
        let now = all(counts);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(400)).then_some(())
    });
}

#[test]
fn p10_a_full_disk_loses_nothing_acknowledged_and_heals_by_itself() {
    let name = "p10::p10_a_full_disk_loses_nothing_acknowledged_and_heals_by_itself";
    in_a_mount_namespace(name, &["cc"], || {
        let mut told = (0, 0, Duration::ZERO);
        for _ in 0..count(1, 20) {
            for inodes_too in [false, true] {
                let (fillings, refusals, longest) = fill_and_free(inodes_too);
                told = (told.0 + fillings, told.1 + refusals, told.2.max(longest));
            }
        }
        // The control: a server that is told that everything was written loses what it acknowledges, and this check says so.
        let mut disk = SmallDisk::started("size=1m", lied_to("fullok"));
        let mut posters = std::mem::take(&mut disk.station.posters);
        while_posting(&mut posters, || {
            eventually("the disk is full", Duration::from_secs(60), || (disk.free_blocks() == 0).then_some(()));
            std::thread::sleep(Duration::from_millis(500));
        });
        disk.station.posters = posters;
        disk.station.kill();
        let acked = disk.station.acked();
        let lost = disk.station.missing(&acked).len();
        assert!(lost > 0, "the control lost nothing");
        eprintln!(
            "P10: a 1 MiB disk was full {} times, {} requests were refused, on again within {:.0?}, 0 lost, 0 twice; the control lost {lost}",
            told.0, told.1, told.2
        );
    });
}

/// Posts until the disk is full, again and again. Gives how often, how many requests were refused, and the longest time from
/// having space to the next acknowledgement of every host.
fn fill_and_free(inodes_too: bool) -> (usize, u64, Duration) {
    let mut disk = SmallDisk::started("size=1m,nr_inodes=400", Vec::new());
    let mut posters = std::mem::take(&mut disk.station.posters);
    let (counts, hosts, mut longest) = (counts_of(&posters), who(&posters), Duration::ZERO);
    let (port, credential) = (disk.station.fleet.port, hosts[0].2.clone());
    let parked = format!("/v1/agents/web-1/commands?instance={}&wait=5", hosts[0].1);
    while_posting(&mut posters, || {
        for other in &disk.others {
            wait_until_full(&counts);
            let fillers = if inodes_too { disk.take_all_inodes() } else { Vec::new() };
            let waiting = std::thread::spawn({
                let (parked, credential) = (parked.clone(), credential.clone());
                move || ask(port, "GET", &parked, &credential, "").map(|answer| answer.status)
            });
            // What an operator asks for is refused the same way.
            let job = json!({"kind": "backup", "options": {"paths": ["x".repeat(4096)]}}).to_string();
            let refused = ask(port, "POST", "/v1/hosts/web-1/jobs", &disk.station.fleet.token(), &job);
            let refused = refused.expect("an answer");
            assert!(is_disk_full(&refused), "P10: {} {}", refused.status, refused.body);
            for _ in 0..5 {
                disk.reads_go_on(&hosts);
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(waiting.join().expect("a poll").ok(), Some(200), "P10: a parked poll");
            let (before, freed) = (all(&counts), Instant::now());
            for file in fillers.iter().chain([other]) {
                fs::remove_file(file).expect("space");
            }
            eventually("every host gets on", PATIENCE, || {
                all(&counts).iter().zip(&before).all(|(now, before)| now > before).then_some(())
            });
            longest = longest.max(freed.elapsed());
        }
    });
    for poster in &posters {
        assert!(poster.last_refusal.as_ref().is_some_and(is_disk_full), "P10: {:?}", poster.refused);
    }
    let refusals = posters.iter().flat_map(|poster| poster.refused.values()).sum();
    disk.station.posters = posters;
    disk.remount("size=4m,nr_inodes=400");
    disk.station.checked_end("P10");
    (FILLINGS, refusals, longest)
}

#[test]
fn p10_without_inodes_new_files_are_refused_and_the_rest_goes_on() {
    let name = "p10::p10_without_inodes_new_files_are_refused_and_the_rest_goes_on";
    in_a_mount_namespace(name, &[], || {
        let mut longest = Duration::ZERO;
        for _ in 0..count(1, 20) {
            longest = longest.max(without_inodes());
        }
        eprintln!("P10 inodes: job logs were refused and events taken, on again within {longest:.0?}, 0 lost, 0 twice");
    });
}

fn without_inodes() -> Duration {
    let mut disk = SmallDisk::started("size=64m,nr_inodes=400", Vec::new());
    let mut posters = std::mem::take(&mut disk.station.posters);
    let jobs: Vec<_> = (0..FILLINGS as u64).map(|number| posters[0].job_id(number).to_string()).collect();
    let (counts, hosts, port, mut longest) =
        (counts_of(&posters), who(&posters), disk.station.fleet.port, Duration::ZERO);
    let log = |job: &str| {
        let line = json!({"job_id": job, "seq": 1, "ts": "2026-11-23T00:00:00Z", "stream": "stdout", "payload": "one"});
        let line =
            json!({"seq": 1, "ts": "2026-11-23T00:00:00Z", "type": "log.stream", "payload": line}).to_string() + "\n";
        ask(port, "POST", &format!("/v1/agents/web-1/jobs/{job}/log"), &hosts[0].2, &line).expect("an answer")
    };
    while_posting(&mut posters, || {
        let enough = || all(&counts).iter().all(|count| *count > 4 * FILLINGS as u64).then_some(());
        eventually("some jobs", Duration::from_secs(20), enough);
        for job in &jobs {
            let fillers = disk.take_all_inodes();
            for _ in 0..3 {
                let refused = log(job);
                assert!(is_disk_full(&refused), "P10: {} {}", refused.status, refused.body);
                disk.reads_go_on(&hosts);
            }
            // Events need no new file.
            let before = all(&counts);
            let gets_on = || all(&counts).iter().zip(&before).all(|(now, before)| now > before).then_some(());
            eventually("events are taken", PATIENCE, gets_on);
            for filler in &fillers {
                fs::remove_file(filler).expect("inodes");
            }
            let freed = Instant::now();
            eventually("the log is taken", PATIENCE, || (log(job).status == 200).then_some(()));
            longest = longest.max(freed.elapsed());
        }
    });
    disk.station.posters = posters;
    disk.station.checked_end("P10 inodes");
    for job in &jobs {
        let log = disk.station.fleet.read(&format!("state/hosts/web-1/logs/{job}.jsonl"));
        assert_eq!(log.lines().count(), 1, "P10: each log line once: {log}");
    }
    longest
}

#[test]
fn p10_an_agent_keeps_its_spool_while_the_servers_disk_is_full() {
    let name = "p10::p10_an_agent_keeps_its_spool_while_the_servers_disk_is_full";
    in_a_mount_namespace(name, &["restic"], || {
        let mut fleet = Fleet::new();
        let mount = Mount::new(&["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"], &fleet.path("state"));
        fleet.start_server();
        fleet.enroll("agent");
        fleet.permit_everything("agent", "restic");
        fleet.start_agent();
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        // A backup that takes some seconds: what does not compress, at 512 KiB/s.
        let noise: Vec<u8> =
            (0..2_u64 << 18).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 13).to_le_bytes()).collect();
        fs::write(fleet.path("data/noise"), &noise[..2 << 20]).expect("write");
        let repository = fleet.read("config/repositories/main.toml");
        fleet.write("config/repositories/main.toml", &format!("{repository}limit_upload_kib = 512\n"));
        assert_eq!(fleet.try_post("/v1/config/reload", "{}").0, 200);
        let job =
            fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#)["id"].as_str().expect("an id").to_owned();
        let status = || fleet.get(&format!("/v1/jobs/{job}"))["status"].clone();
        eventually("it runs", Duration::from_secs(40), || (status() == "running").then_some(()));
        let filler = fleet.path("state/filler");
        let _ = fs::write(&filler, vec![b'x'; 2 << 20]);
        let spool = || {
            let names = fs::read_dir(fleet.path("agent/spool")).expect("a spool").flatten().map(|entry| entry.path());
            names.filter_map(|name| fs::read_to_string(name).ok()).collect::<String>()
        };
        // The journal's last page has some room: until not even a job that is asked for fits, which is less than a job's end.
        let mut jobs = 2;
        while fleet.try_post("/v1/hosts/web-1/jobs", r#"{"kind":"unlock"}"#).0 == 201 {
            jobs += 1;
        }
        let finished = || spool().contains("job.finished").then_some(());
        eventually("its end is in the spool", Duration::from_secs(60), finished);
        std::thread::sleep(Duration::from_secs(1));
        // The server does not know yet, and everything else goes on.
        for _ in 0..4 {
            assert_eq!(status(), "running");
            assert_eq!(fleet.get("/v1/hosts/web-1")["online"], true);
            assert!(spool().contains("job.finished"), "the agent keeps it");
            std::thread::sleep(Duration::from_millis(500));
        }
        fs::remove_file(&filler).expect("space");
        // The agent asks again after a pause that doubles.
        eventually("the end has arrived", Duration::from_secs(60), || (status() == "succeeded").then_some(()));
        let ended = |job: &serde_json::Value| matches!(job["status"].as_str(), Some("succeeded" | "failed"));
        eventually("all jobs end", Duration::from_secs(60), || {
            fleet.get("/v1/hosts/web-1/jobs")["jobs"]
                .as_array()
                .is_some_and(|jobs| jobs.iter().all(ended))
                .then_some(())
        });
        eventually("the spool is empty", Duration::from_secs(10), || (!spool().contains("job.finished")).then_some(()));
        let history = crate::checker::check_history(&fleet.path("state/hosts/web-1/journal"));
        assert_eq!(history.jobs, jobs);
        eprintln!(
            "P10 agent: a job ended while the disk was full, and its {} events arrived once each",
            history.events
        );
        (fleet.agent, fleet.server) = (None, None);
        drop(mount);
    });
}
