//! Two servers behind the real haproxy, with the configuration that README.md shows: every agent stays with one server, and when
//! that one is killed its agents go on with the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::checker::check_history;
use crate::count;
use crate::faults::has;
use crate::harness::{Fleet, Process, SERVER, eventually, free_port, text};
use crate::poster::ask;
use crate::small_agent::SmallAgent;

/// README.md's configuration with these ports in place of its addresses.
fn configuration(front: u16, servers: [u16; 2]) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let (_, block) = readme.split_once("```haproxy\n").expect("a configuration for haproxy");
    let (block, _) = block.split_once("\n```").expect("its end");
    let mut block = format!("{block}\n");
    for (address, port) in [(":8443", front), ("10.0.0.1:8080", servers[0]), ("10.0.0.2:8080", servers[1])] {
        assert!(block.contains(address), "{address} is in it");
        block = block.replace(address, &format!("127.0.0.1:{port}"));
    }
    // The test has no certificate: TLS is haproxy's own matter.
    block.replace(" ssl crt /etc/haproxy/restic-manager.pem", "")
}

fn start(fleet: &Fleet, port: u16, log: &str) -> Process {
    let (config, state) = (fleet.path("config"), fleet.path("state"));
    let listen = format!("127.0.0.1:{port}");
    let arguments = ["serve", "--config", text(&config), "--state", text(&state), "--listen", &listen];
    let server = Process::start(SERVER, &arguments, &fleet.path(log), &[("RUST_LOG", "debug")]);
    ready(port);
    server
}

fn ready(port: u16) {
    eventually("it is ready", Duration::from_secs(30), || {
        ask(port, "GET", "/readyz", "", "").ok().filter(|reply| reply.status == 200)
    });
}

/// One job for each host, posted until it is answered, and all of them ended.
fn a_job_each(port: u16, token: &str, hosts: &[String], round: &str) -> Vec<String> {
    let ids: Vec<String> = hosts
        .iter()
        .map(|host| {
            let path = format!("/v1/hosts/{host}/jobs");
            eventually("the job is taken", Duration::from_secs(30), || {
                let reply = crate::poster::ask_with(
                    port,
                    "POST",
                    &path,
                    token,
                    &[("Idempotency-Key", round)],
                    r#"{"kind":"check"}"#,
                );
                reply.ok().filter(|reply| matches!(reply.status, 200 | 201))?.json()["id"].as_str().map(str::to_owned)
            })
        })
        .collect();
    for id in &ids {
        eventually("the job ends", Duration::from_secs(60), || {
            let reply = ask(port, "GET", &format!("/v1/jobs/{id}"), token, "").ok()?;
            (reply.json()["status"] == "succeeded").then_some(())
        });
    }
    ids
}

#[test]
fn agents_behind_haproxy_stay_with_one_server_and_go_on_with_the_other_when_it_is_killed() {
    if !has("behind_haproxy", &["haproxy"]) {
        return;
    }
    let hosts: Vec<String> = (0..count(60, 200)).map(|number| format!("web-{}", number + 1)).collect();
    let fleet = Fleet::new();
    let file = fleet.read("config/hosts/web-1.toml");
    for host in &hosts {
        fleet.write(&format!("config/hosts/{host}.toml"), &file);
        fleet.write(&format!("secrets/{host}"), crate::harness::PASSWORD);
    }
    let (front, ports) = (free_port(), [free_port(), free_port()]);
    let mut servers = [Some(start(&fleet, ports[0], "one.log")), Some(start(&fleet, ports[1], "two.log"))];
    fleet.write("haproxy.cfg", &configuration(front, ports));
    let _haproxy =
        Process::start("haproxy", &["-db", "-f", text(&fleet.path("haproxy.cfg"))], &fleet.path("haproxy.log"), &[]);
    ready(front);
    let token = fleet.token();
    let stop = Arc::new(AtomicBool::new(false));
    let agents: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (agent, stop) = (SmallAgent::enroll(front, &token, host), Arc::clone(&stop));
            std::thread::spawn(move || agent.run(&stop))
        })
        .collect();
    let mut ids = a_job_each(front, &token, &hosts, "before");
    // What each server answered of agents' polls: a host's are all in one of the logs.
    let seen: Vec<BTreeMap<String, usize>> = ["one.log", "two.log"].map(|log| polls_by_host(&fleet.read(log))).into();
    let both = hosts.iter().filter(|host| seen.iter().all(|log| log.contains_key(*host))).count();
    let each: Vec<usize> = seen.iter().map(BTreeMap::len).collect();
    assert_eq!(both, 0, "a host's polls stay with one server: {each:?}");
    assert!(each.iter().all(|count| *count >= hosts.len() / 5), "both servers have their part: {each:?}");
    // Amid the next round one server dies, and comes back.
    let killer = std::thread::spawn({
        let mut victim = servers[1].take();
        move || {
            std::thread::sleep(Duration::from_millis(150));
            victim.iter_mut().for_each(Process::kill);
        }
    });
    ids.extend(a_job_each(front, &token, &hosts, "amid"));
    killer.join().expect("killed");
    servers[1] = Some(start(&fleet, ports[1], "two.log"));
    ids.extend(a_job_each(front, &token, &hosts, "after"));
    stop.store(true, Ordering::SeqCst);
    let taken: usize = agents.into_iter().map(|agent| agent.join().expect("an agent").len()).sum();
    assert_eq!(taken, ids.len(), "each command was taken by its agent");
    servers = [None, None];
    drop(servers);
    let jobs: usize =
        hosts.iter().map(|host| check_history(&fleet.path(&format!("state/hosts/{host}/journal"))).jobs).sum();
    assert_eq!(jobs, ids.len(), "and made once");
}

fn polls_by_host(log: &str) -> BTreeMap<String, usize> {
    let mut polls = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("/commands")) {
        let host = line.split("/v1/agents/").nth(1).and_then(|rest| rest.split('/').next());
        *polls.entry(host.unwrap_or_default().to_owned()).or_default() += 1;
    }
    polls
}
