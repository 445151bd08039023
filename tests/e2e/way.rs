//! The way to the server as the agent sees it: `diagnose` and `status` name it, a certificate of the agent's own is shown, and the
//! credential replaces itself without locking anybody out. Proxies are in `tests/firewall`.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

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
    let (hops, whole, code) = diagnose(&fleet);
    assert_eq!(code, Some(1));
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
