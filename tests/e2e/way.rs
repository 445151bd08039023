//! The way to the server as the agent sees it: `diagnose` and `status` name it, a certificate of the agent's own is shown, and the
//! credential replaces itself without locking anybody out. Proxies are in `tests/firewall`.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sha2::Digest;

use crate::harness::{AGENT, Fleet, eventually, text};

/// What `diagnose` says: each hop's name and whether it is passed; the whole; and the exit code.
fn diagnose(fleet: &Fleet) -> (Vec<(String, bool)>, Value, Option<i32>) {
    let output = Command::new(AGENT)
        .args(["diagnose", "--json", "--dir", text(&fleet.path("agent"))])
        .output()
        .expect("diagnose runs");
    let whole: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let hops = whole["hops"].as_array().expect("hops").iter();
    let hops = hops.map(|hop| (hop["hop"].as_str().expect("a name").to_owned(), hop["ok"] == true)).collect();
    (hops, whole, output.status.code())
}

fn named(hops: &[(&str, bool)]) -> Vec<(String, bool)> {
    hops.iter().map(|(name, ok)| ((*name).to_owned(), *ok)).collect()
}

#[test]
fn diagnose_passes_every_hop_and_names_the_one_that_fails() {
    let mut fleet = Fleet::started();
    let all = [
        ("settings", true),
        ("name", true),
        ("tcp", true),
        ("server", true),
        ("clock", true),
        ("credential", true),
        ("poll", true),
    ];
    let (hops, whole, code) = diagnose(&fleet);
    assert_eq!((hops, code), (named(&all), Some(0)), "{whole}");

    fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("revoked");
    // Another server than the one that was asked may let it in for half a second more.
    let (hops, whole, _) = eventually("the revocation counts everywhere", Duration::from_secs(2), || {
        Some(diagnose(&fleet)).filter(|(_, _, code)| *code == Some(1))
    });
    assert!(hops.contains(&("credential".to_owned(), false)), "{whole}");
    let change = whole["hops"].as_array().expect("hops").iter().find(|hop| hop["ok"] == false).expect("one fails");
    assert!(change["change"].as_str().expect("what to change").contains("enroll this host again"), "{whole}");

    fleet.server = None;
    let (hops, whole, code) = diagnose(&fleet);
    assert_eq!((&hops[2], code), (&("tcp".to_owned(), false), Some(1)), "{whole}");
}

#[test]
fn another_program_in_the_servers_place_is_named() {
    let fleet = Fleet::started();
    // What a captive portal does: a page, whatever is asked for.
    let portal = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", portal.local_addr().expect("an address"));
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in portal.incoming() {
            let mut stream = stream.expect("a client");
            let _ = stream.read(&mut [0; 4096]);
            let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 18\r\nConnection: close\r\n\r\n<html>log in</html";
            let _ = stream.write_all(page.as_bytes());
        }
    });
    let settings = fleet.read("agent/agent.toml").replace(&fleet.url(), &url);
    fleet.write("agent/agent.toml", &settings);
    let (hops, whole, code) = diagnose(&fleet);
    assert_eq!((&hops[3], code), (&("server".to_owned(), false), Some(1)), "{whole}");
    let text = whole.to_string();
    assert!(text.contains("captive portal") && text.contains("<html>log in"), "{text}");
}

#[test]
fn status_says_what_the_agent_is_connected_through() {
    let fleet = Fleet::started();
    let status = || {
        let output = Command::new(AGENT).args(["status", "--json", "--dir", text(&fleet.path("agent"))]).output();
        serde_json::from_slice::<Value>(&output.expect("status runs").stdout).unwrap_or_default()
    };
    let status = eventually("the status", Duration::from_secs(20), || Some(status()).filter(|s| s.is_object()));
    assert_eq!(status["connected_through"], "no proxy: directly");
    assert!(status["polls"].as_str().is_some_and(|polls| polls.starts_with("waits 30 s")), "{status}");
}

#[test]
fn a_credential_replaces_itself_and_the_one_before_counts_no_more() {
    let mut fleet = Fleet::started();
    let credential = |fleet: &Fleet| {
        let identity: Value = serde_json::from_str(&fleet.read("agent/identity.json")).expect("JSON");
        (identity["credential"].as_str().expect("a credential").to_owned(), identity)
    };
    let first = credential(&fleet).0;
    let settings = fleet.read("agent/agent.toml");
    fleet.write("agent/agent.toml", &settings.replace("host = ", "rotate_after = \"1s\"\nhost = "));
    // Killed again and again while credentials follow each other every second: nobody is locked out.
    for pause in [2100, 700, 1300, 900, 2600] {
        fleet.agent = None;
        fleet.start_agent();
        std::thread::sleep(Duration::from_millis(pause));
    }
    fleet.write("agent/agent.toml", &settings);
    fleet.agent = None;
    fleet.start_agent();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let (last, identity) = credential(&fleet);
    assert!(last != first && identity["previous_credential"].is_string(), "{identity}");
    let beat = |credential: &str| {
        let bearer = format!("Authorization: Bearer {credential}");
        let body = r#"{"sent_at":"2026-01-01T00:00:00Z"}"#;
        fleet.ask(&bearer, &["-d", body, "/v1/agents/web-1/heartbeat"]).expect("an answer").code
    };
    assert_eq!((beat(&last), beat(&first)), (200, 401));
    let log = fleet.read("agent.log") + &fleet.read("server.log");
    assert!(!log.contains(&last) && !log.contains(&first), "no credential is in a log");
}

#[test]
fn a_server_from_before_the_last_rotation_still_knows_its_agent() {
    let mut fleet = Fleet::started();
    let settings = fleet.read("agent/agent.toml");
    fleet.write("agent/agent.toml", &settings.replace("host = ", "rotate_after = \"0s\"\nhost = "));
    fleet.agent = None;
    fleet.start_agent();
    let previous = || {
        let identity: Value = serde_json::from_str(&fleet.read("agent/identity.json")).ok()?;
        identity["previous_credential"].as_str().map(str::to_owned)
    };
    eventually("a rotation", Duration::from_secs(20), previous);
    fleet.write("agent/agent.toml", &settings);
    fleet.agent = None;
    fleet.start_agent();
    // The last rotation is undone, as a restored backup of the state does.
    fleet.agent = None;
    fleet.server = None;
    let identity: Value = serde_json::from_str(&fleet.read("agent/identity.json")).expect("JSON");
    let previous = identity["previous_credential"].as_str().expect("one before");
    let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(previous.as_bytes()));
    fleet.write("state/hosts/web-1/credential.json", &format!("{{\"sha256\":[\"{sha256}\"]}}"));
    fleet.start_server();
    fleet.start_agent();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
}
