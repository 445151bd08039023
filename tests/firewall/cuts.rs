//! Rows in which something cuts what is silent for long, or forgets it: a poll is silent for 30 s. The agent learns what the way bears;
//! then every command starts soon. These rows are long: by their names they begin first.

use std::time::Duration;

use serde_json::Value;

use crate::alone::row;
use crate::authority::CA_FILE;
use crate::count;
use crate::harness::eventually;
use crate::judge::delays;
use crate::proxies::{PLAIN, Rule, haproxy, nginx, squid};
use crate::scene::{Scene, through_the_proxy};

const PATIENCE: Duration = Duration::from_secs(60);
/// Two polls that are cut, each after 48 s at most, with pauses between them.
const LEARNING: Duration = Duration::from_secs(150);

/// The agent's first steps: enrolled by the way that is written, at work, with one backup.
fn begins(scene: &mut Scene<'_>, proxy: &str) {
    scene.write_settings(proxy, CA_FILE);
    scene.enroll();
    scene.start_agent();
    scene.agent_is_at_work(PATIENCE);
    scene.back_up();
}

/// Waits until a poll is parked that asks for signs of life.
fn learns(scene: &Scene<'_>) {
    eventually("the agent has learned to ask for signs of life", LEARNING, || {
        let learned: Value = serde_json::from_str(&scene.fleet.read("agent/poll_wait.json")).ok()?;
        (learned["keepalive"] == true).then_some(())
    });
    another_poll_is_parked(scene, parked(scene));
}

fn parked(scene: &Scene<'_>) -> usize {
    scene.fleet.read("server.log").matches("a poll is parked").count()
}

fn another_poll_is_parked(scene: &Scene<'_>, before: usize) {
    eventually("another poll is parked", PATIENCE, || (parked(scene) > before).then_some(()));
}

/// A whole row behind what cuts: the agent learns it, and then each command comes through soon.
fn learns_and_gets_through(scene: &mut Scene<'_>) {
    begins(scene, &through_the_proxy(""));
    learns(scene);
    scene.commands(&[12, 16]);
    scene.ends_well();
}

/// nginx's own timeouts: 60 s for a silent server.
fn proxy_pass(more: &str) -> String {
    format!("proxy_pass http://{PLAIN}; {more}")
}

#[test]
fn a_nat_that_forgets_after_8_silent_seconds() {
    row(a_nat_that_forgets_after_8_silent_seconds, &[], |space| {
        let mut scene = Scene::new(space);
        space.open_a_forgetful_nat(8);
        begins(&mut scene, "");
        // The control: what is posted to a poll that has been forgotten is late, or this row would show nothing.
        std::thread::sleep(Duration::from_secs(12));
        scene.quick_job();
        let late = delays(&scene.fleet.journal(), &scene.jobs[scene.jobs.len() - 1..]);
        assert!(late[0] > Duration::from_secs(2), "the NAT forgets: {late:?}");
        learns(&scene);
        scene.commands(&[12]);
        scene.ends_well();
    });
}

#[test]
fn a_proxy_that_cuts_after_8_silent_seconds() {
    row(a_proxy_that_cuts_after_8_silent_seconds, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Cut(8));
        learns_and_gets_through(&mut scene);
    });
}

#[test]
fn a_proxy_that_cuts_after_8_silent_seconds_before_haproxy_as_shipped() {
    row(a_proxy_that_cuts_after_8_silent_seconds_before_haproxy_as_shipped, &["squid", "haproxy"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _haproxy = haproxy(space, &scene.fleet, 50);
        let _squid = squid(space, &scene.fleet, Rule::Cut(8));
        learns_and_gets_through(&mut scene);
    });
}

#[test]
fn a_proxy_that_cuts_after_8_silent_seconds_before_nginx_as_shipped() {
    row(a_proxy_that_cuts_after_8_silent_seconds_before_nginx_as_shipped, &["squid", "nginx"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _nginx = nginx(space, &scene.fleet, &proxy_pass(""));
        let _squid = squid(space, &scene.fleet, Rule::Cut(8));
        learns_and_gets_through(&mut scene);
    });
}

#[test]
fn a_proxy_that_dies_again_and_again() {
    row(a_proxy_that_dies_again_and_again, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let mut proxy = Some(squid(space, &scene.fleet, Rule::Anyone));
        begins(&mut scene, &through_the_proxy(""));
        for round in 0..count(5, 60) {
            // Before the command is delivered, amid that, or while it is told how it went.
            let id = scene.post_quick_job();
            std::thread::sleep(Duration::from_millis(u64::try_from(round * 7 % 60).expect("small")));
            drop(proxy.take());
            proxy = Some(squid(space, &scene.fleet, Rule::Anyone));
            scene.ends_as(&id, "failed");
        }
        scene.ends_well();
    });
}

#[test]
fn a_proxy_that_is_out_of_reach_for_a_while() {
    row(a_proxy_that_is_out_of_reach_for_a_while, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        begins(&mut scene, &through_the_proxy(""));
        for seconds in [5, 20, 60].into_iter().take(count(2, 3)) {
            space.swallow();
            let id = scene.post_quick_job();
            std::thread::sleep(Duration::from_secs(seconds));
            let told = scene.fleet.journal();
            let is_started = |line: &Value| line["type"] == "job.started" && line["payload"]["job_id"] == *id;
            assert!(!told.iter().any(is_started), "nothing gets through");
            space.swallow_no_more();
            scene.ends_as(&id, "failed");
        }
        scene.ends_well();
    });
}

#[test]
fn haproxy_as_shipped() {
    row(haproxy_as_shipped, &["squid", "haproxy"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _haproxy = haproxy(space, &scene.fleet, 50);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        begins(&mut scene, &through_the_proxy(""));
        // Longer than one poll.
        scene.commands(&[9, 36]);
        scene.ends_well();
    });
}

#[test]
fn haproxy_that_waits_10_seconds() {
    row(haproxy_that_waits_10_seconds, &["squid", "haproxy"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _haproxy = haproxy(space, &scene.fleet, 10);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        begins(&mut scene, &through_the_proxy(""));
        learns(&scene);
        // What was learned outlives the agent: no poll is cut again.
        scene.forget_what_the_agent_said();
        let before = parked(&scene);
        scene.start_agent();
        another_poll_is_parked(&scene, before);
        // An agent's first job waits for restic to look for stale locks.
        scene.quick_job();
        scene.commands(&[12, 16]);
        let log = scene.fleet.read("agent.log");
        assert!(!log.contains("ERROR") && !log.contains("how polls wait has changed"), "{log}");
        scene.ends_well();
    });
}

#[test]
fn nginx_as_shipped() {
    row(nginx_as_shipped, &["squid", "nginx"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _nginx = nginx(space, &scene.fleet, &proxy_pass(""));
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        begins(&mut scene, &through_the_proxy(""));
        scene.commands(&[9, 36]);
        scene.ends_well();
    });
}

#[test]
fn nginx_that_waits_10_seconds() {
    row(nginx_that_waits_10_seconds, &["squid", "nginx"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _nginx = nginx(space, &scene.fleet, &proxy_pass("proxy_read_timeout 10s;"));
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        learns_and_gets_through(&mut scene);
    });
}
