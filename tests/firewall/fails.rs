//! Rows in which the agent cannot get through: `diagnose` names the hop that fails and what to change, the running agent says the same,
//! and once the obstacle is gone it works by itself. curl says beforehand that the obstacle is what it is meant to be.

use std::time::Duration;

use serde_json::Value;

use crate::alone::row;
use crate::authority::CA_FILE;
use crate::harness::{eventually, text};
use crate::proxies::{CERTIFICATES, PASSWORD, PLAIN, Rule, USERNAME, haproxy, nginx, squid, tinyproxy};
use crate::scene::{Scene, through_the_proxy, with_login};
use crate::space::{PROXY_NAME, PROXY_PORT, Place, SERVER_NAME, SERVER_PORT};

/// The first retry comes within 15 s, the next ones soon; nobody waits longer than this while the tests are at it.
const RECOVERY: Duration = Duration::from_secs(90);

/// What curl meets in the agent's place.
struct Seen {
    code: i32,
    told: String,
}

/// curl from where the agent is: with the proxy, or without.
fn curl(scene: &Scene<'_>, proxy: Option<&str>) -> Seen {
    let authority = scene.fleet.path(CA_FILE);
    let url = format!("https://{SERVER_NAME}:{SERVER_PORT}/readyz");
    let mut arguments = vec!["-sS", "-i", "-m", "4", "--cacert", text(&authority)];
    let proxy = proxy.map(|name| format!("http://{name}:{PROXY_PORT}"));
    arguments.extend(proxy.iter().flat_map(|proxy| ["-x", proxy]));
    arguments.push(&url);
    let output = scene.space.output(Place::Agent, "curl", &arguments);
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Seen { code: output.status.code().unwrap_or(-1), told: told.join("\n") }
}

fn curl_meets(scene: &Scene<'_>, proxy: Option<&str>, code: i32, word: &str) {
    let seen = curl(scene, proxy);
    assert!(seen.code == code && seen.told.contains(word), "curl: {}: {}", seen.code, seen.told);
}

/// `diagnose` fails at `hop`, says `detail` of it and `change` of what to change; and the agent, started now, says so too.
fn fails_at(scene: &mut Scene<'_>, hop: &str, detail: &[&str], change: &[&str]) {
    let (code, told) = scene.agent_says("diagnose");
    assert_eq!(code, Some(1), "{told}");
    let hops = told["hops"].as_array().expect("hops");
    let failed: Vec<&Value> = hops.iter().filter(|hop| hop["ok"] != true).collect();
    assert!(failed.len() == 1 && failed[0]["hop"] == hop, "it is {hop} that fails: {told}");
    let word = |name: &str| failed[0][name].as_str().unwrap_or_default().to_owned();
    for (name, words) in [("detail", detail), ("change", change)] {
        let missing: Vec<_> = words.iter().filter(|part| !word(name).contains(**part)).collect();
        assert!(missing.is_empty() && !word(name).is_empty(), "{name} lacks {missing:?}: {told}");
    }
    eprintln!("P16 {hop}: {}; change: {}", word("detail"), word("change"));
    let (code, printed) = scene.agent_prints("diagnose", &[]);
    let line = printed.lines().find(|line| line.contains("FAILED")).unwrap_or_default();
    assert!(line.starts_with(hop) && line.contains(&word("detail")), "{printed}");
    assert!(code == Some(1) && printed.contains(&format!("change: {}", word("change"))), "{printed}");
    scene.start_agent();
    let error = eventually("the agent says what is wrong", Duration::from_secs(60), || {
        let (_, status) = scene.agent_says("status");
        status["last_error"]["text"].as_str().map(str::to_owned)
    });
    let change = word("change");
    let lacks: Vec<_> = detail.iter().copied().chain([&*change]).filter(|part| !error.contains(part)).collect();
    assert!(lacks.is_empty(), "the agent's own words lack {lacks:?}: {error}");
    assert!(scene.fleet.read("agent.log").contains(&word("change")), "{}", scene.fleet.read("agent.log"));
}

/// The obstacle is gone: the agent, which runs since before, works.
fn recovers(scene: &mut Scene<'_>) {
    scene.agent_is_at_work(RECOVERY);
    scene.quick_job();
    scene.ends_well();
}

const PROXY: Option<&str> = Some(PROXY_NAME);

#[test]
fn a_proxy_that_wants_a_login() {
    row(a_proxy_that_wants_a_login, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let in_the_way = squid(space, &scene.fleet, Rule::Login);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        curl_meets(&scene, PROXY, 56, "407");
        fails_at(&mut scene, "connect", &["wants a login", "407"], &["username and password"]);
        drop(in_the_way);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_that_wants_another_login() {
    row(a_proxy_that_wants_another_login, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let in_the_way = squid(space, &scene.fleet, Rule::Login);
        scene.fleet.write("proxy-password", "close-sesame\n");
        let file = scene.fleet.path("proxy-password");
        let login = format!("username = \"{USERNAME}\"\npassword_file = {file:?}\n");
        scene.write_settings(&through_the_proxy(&login), CA_FILE);
        let right = format!("{USERNAME}:{PASSWORD}@{PROXY_NAME}");
        curl_meets(&scene, Some(&right), 0, "200 OK");
        curl_meets(&scene, Some(&format!("{USERNAME}:close-sesame@{PROXY_NAME}")), 56, "407");
        fails_at(&mut scene, "connect", &["does not accept the login", "407"], &["password"]);
        drop(in_the_way);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        recovers(&mut scene);
        assert!(!scene.fleet.read("agent.log").contains("close-sesame"), "a wrong login is a secret too");
    });
}

#[test]
fn a_tinyproxy_that_wants_another_login() {
    row(a_tinyproxy_that_wants_another_login, &["tinyproxy", "squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let in_the_way = tinyproxy(space, &scene.fleet);
        scene.fleet.write("proxy-password", "close-sesame\n");
        let file = scene.fleet.path("proxy-password");
        let login = format!("username = \"{USERNAME}\"\npassword_file = {file:?}\n");
        scene.write_settings(&through_the_proxy(&login), CA_FILE);
        // Not 407, which it says only to who brings no login.
        curl_meets(&scene, Some(&format!("{USERNAME}:close-sesame@{PROXY_NAME}")), 56, "401");
        fails_at(&mut scene, "connect", &["does not accept the login", "401"], &["password"]);
        drop(in_the_way);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_whose_rules_deny_the_server() {
    row(a_proxy_whose_rules_deny_the_server, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let in_the_way = squid(space, &scene.fleet, Rule::OtherPorts);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        curl_meets(&scene, PROXY, 56, "403");
        fails_at(&mut scene, "connect", &["403"], &["allow", "no_proxy"]);
        drop(in_the_way);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_that_does_not_get_to_the_server() {
    row(a_proxy_that_does_not_get_to_the_server, &["squid", "tinyproxy"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let first = tinyproxy(space, &scene.fleet);
        scene.write_settings(&with_login(&scene), CA_FILE);
        scene.stop_server();
        curl_meets(&scene, Some(&format!("{USERNAME}:{PASSWORD}@{PROXY_NAME}")), 56, "500");
        fails_at(&mut scene, "connect", &["500", SERVER_NAME], &["server runs"]);
        scene.forget_what_the_agent_said();
        drop(first);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        curl_meets(&scene, PROXY, 56, "503");
        fails_at(&mut scene, "connect", &["503", SERVER_NAME], &["server runs"]);
        scene.start_server();
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_that_swallows_everything() {
    row(a_proxy_that_swallows_everything, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        space.swallow();
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        curl_meets(&scene, PROXY, 28, "");
        fails_at(&mut scene, "proxy", &[PROXY_NAME], &["firewall"]);
        space.swallow_no_more();
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_whose_name_nobody_knows() {
    row(a_proxy_whose_name_nobody_knows, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        let name = "new-proxy.example";
        scene.write_settings(&through_the_proxy("").replace(PROXY_NAME, name), CA_FILE);
        curl_meets(&scene, Some(name), 5, name);
        fails_at(&mut scene, "name", &[name], &["[proxy] of agent.toml", "DNS"]);
        space.name(crate::space::PROXY_ADDRESS, name);
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_that_looks_into_tls_and_whose_authority_is_unknown() {
    row(a_proxy_that_looks_into_tls_and_whose_authority_is_unknown, &["squid", CERTIFICATES], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let in_the_way = squid(space, &scene.fleet, Rule::LookInside);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        curl_meets(&scene, PROXY, 60, "");
        fails_at(&mut scene, "tls", &["not trusted"], &["ca_file"]);
        drop(in_the_way);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        recovers(&mut scene);
    });
}

#[test]
fn a_proxy_with_a_page_to_agree_to() {
    row(a_proxy_with_a_page_to_agree_to, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let in_the_way = squid(space, &scene.fleet, Rule::Portal);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        curl_meets(&scene, PROXY, 56, "302");
        fails_at(&mut scene, "connect", &["302"], &["captive portal"]);
        drop(in_the_way);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        recovers(&mut scene);
    });
}

/// Something else answers in the server's place, with this line of nginx's.
fn a_portal_in_the_servers_place(space: &crate::space::Space, line: &str, seen: &str) {
    let mut scene = Scene::new(space);
    scene.enroll_beforehand();
    let _squid = squid(space, &scene.fleet, Rule::Anyone);
    scene.write_settings(&through_the_proxy(""), CA_FILE);
    scene.stop_server();
    let in_the_way = nginx(space, &scene.fleet, line);
    curl_meets(&scene, PROXY, 0, seen);
    fails_at(&mut scene, "server", &["not from restic-manager"], &["captive portal"]);
    drop(in_the_way);
    scene.start_server();
    recovers(&mut scene);
}

#[test]
fn a_login_page_in_the_servers_place() {
    row(a_login_page_in_the_servers_place, &["squid", "nginx"], |space| {
        let page =
            "default_type text/html; return 200 '<html><body><form action=\"/login\">Welcome</form></body></html>';";
        a_portal_in_the_servers_place(space, page, "Welcome");
    });
}

#[test]
fn a_redirect_to_a_login_page_in_the_servers_place() {
    row(a_redirect_to_a_login_page_in_the_servers_place, &["squid", "nginx"], |space| {
        a_portal_in_the_servers_place(space, "return 302 https://portal.example/login;", "302 Moved Temporarily");
    });
}

#[test]
fn a_reverse_proxy_without_its_server() {
    row(a_reverse_proxy_without_its_server, &["squid", "nginx", "haproxy"], |space| {
        let mut scene = Scene::behind_a_reverse_proxy(space);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        let in_front = nginx(space, &scene.fleet, &format!("proxy_pass http://{PLAIN};"));
        scene.enroll_beforehand();
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        scene.stop_server();
        curl_meets(&scene, PROXY, 0, "502 Bad Gateway");
        fails_at(&mut scene, "server", &["502"], &["server behind that proxy runs"]);
        drop(in_front);
        scene.forget_what_the_agent_said();
        let _haproxy = haproxy(space, &scene.fleet, 50);
        curl_meets(&scene, PROXY, 0, "503 Service Unavailable");
        fails_at(&mut scene, "server", &["503"], &["server behind that proxy runs"]);
        scene.start_server();
        recovers(&mut scene);
    });
}

#[test]
fn a_server_whose_certificate_is_for_another_name() {
    row(a_server_whose_certificate_is_for_another_name, &["squid"], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        scene.authority.certify(&scene.fleet, "mail.example");
        scene.start_server();
        curl_meets(&scene, PROXY, 60, "subject name");
        fails_at(&mut scene, "tls", &["another name"], &["certificate"]);
        scene.authority.certify(&scene.fleet, SERVER_NAME);
        scene.start_server();
        recovers(&mut scene);
    });
}

#[test]
fn a_server_that_is_down() {
    row(a_server_that_is_down, &[], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        space.open_the_direct_way();
        scene.write_settings("", CA_FILE);
        curl_meets(&scene, None, 0, "200 OK");
        scene.stop_server();
        curl_meets(&scene, None, 7, "");
        fails_at(&mut scene, "tcp", &["refused"], &["server runs"]);
        scene.start_server();
        recovers(&mut scene);
    });
}

#[test]
fn a_firewall_where_nobody_has_named_the_proxy() {
    row(a_firewall_where_nobody_has_named_the_proxy, &[], |space| {
        let mut scene = Scene::new(space);
        scene.enroll_beforehand();
        scene.write_settings("", CA_FILE);
        curl_meets(&scene, None, 7, SERVER_NAME);
        fails_at(&mut scene, "tcp", &[SERVER_NAME], &["[proxy] of agent.toml", "HTTPS_PROXY"]);
        space.open_the_direct_way();
        recovers(&mut scene);
    });
}
