//! Rows in which the agent gets through: it enrolls, polls and does what it is told, each command once.

use std::time::Duration;

use crate::alone::row;
use crate::authority::{CA_FILE, PROXY_CA_FILE};
use crate::proxies::{CERTIFICATES, PASSWORD, Rule, USERNAME, squid, tinyproxy};
use crate::scene::{Scene, through_the_proxy, with_login};
use crate::space::{PROXY_NAME, PROXY_PORT, SERVER_NAME};

const PATIENCE: Duration = Duration::from_secs(60);

/// With the settings that are written: enrolls, works, and loses nothing. `way` is in what the agent says of itself.
fn gets_through(scene: &mut Scene<'_>, way: &str) {
    scene.enroll();
    let (code, told) = scene.agent_says("diagnose");
    assert_eq!(code, Some(0), "{told}");
    let hops = told["hops"].as_array().expect("hops");
    assert!(hops.len() >= 5 && hops.iter().all(|hop| hop["ok"] == true), "{told}");
    scene.start_agent();
    scene.agent_is_at_work(PATIENCE);
    let (_, status) = scene.agent_says("status");
    let through = status["connected_through"].as_str().unwrap_or_default();
    assert!(through.contains(way), "{status}");
    scene.back_up();
    scene.commands(&[]);
    scene.ends_well();
}

/// The proxy, as the agent names it.
fn the_proxy() -> String {
    format!("{PROXY_NAME}:{PROXY_PORT}")
}

#[test]
fn a_tunnel_through_squid() {
    row(a_tunnel_through_squid, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        gets_through(&mut scene, &the_proxy());
    });
}

#[test]
fn a_tunnel_through_squid_with_a_login() {
    row(a_tunnel_through_squid_with_a_login, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Login);
        scene.write_settings(&with_login(&scene), CA_FILE);
        gets_through(&mut scene, &the_proxy());
        // Who it was, in squid's own words.
        let log = scene.fleet.read("squid/access.log");
        assert!(log.contains(&format!("CONNECT {SERVER_NAME}:")) && log.contains(USERNAME), "{log}");
        let said = scene.fleet.read("agent.log") + &scene.fleet.read("agent/status.json");
        assert!(!said.contains(PASSWORD), "the login stays a secret");
    });
}

#[test]
fn a_tunnel_through_tinyproxy_with_a_login() {
    row(a_tunnel_through_tinyproxy_with_a_login, &["tinyproxy"], |space| {
        let mut scene = Scene::new(space);
        let _tinyproxy = tinyproxy(space, &scene.fleet);
        scene.write_settings(&with_login(&scene), CA_FILE);
        gets_through(&mut scene, &the_proxy());
    });
}

#[test]
fn a_proxy_that_looks_into_tls_and_whose_authority_is_known() {
    row(a_proxy_that_looks_into_tls_and_whose_authority_is_known, &["squid", CERTIFICATES], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::LookInside);
        scene.write_settings(&through_the_proxy(""), PROXY_CA_FILE);
        gets_through(&mut scene, &the_proxy());
        let log = scene.fleet.read("squid/access.log");
        assert!(log.contains("/v1/agents/web-1/commands"), "it did look: {log}");
    });
}

#[test]
fn a_proxy_that_the_environment_names() {
    row(a_proxy_that_the_environment_names, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        scene.write_settings("", CA_FILE);
        scene.set_environment(&[("HTTPS_PROXY", "http://proxy.example:3128"), ("NO_PROXY", "localhost,.corp.example")]);
        gets_through(&mut scene, &the_proxy());
    });
}

#[test]
fn a_server_that_no_proxy_names_is_reached_past_the_proxy() {
    row(a_server_that_no_proxy_names_is_reached_past_the_proxy, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let squid = squid(space, &scene.fleet, Rule::Anyone);
        space.open_the_direct_way();
        scene.write_settings(&through_the_proxy("no_proxy = [\"10.0.0.0/8\", \"*.example\"]"), CA_FILE);
        gets_through(&mut scene, "direct");
        drop(squid);
        let log = scene.fleet.read("squid/access.log");
        assert!(!log.contains(SERVER_NAME), "squid never heard of it: {log}");
    });
}
