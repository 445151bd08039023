//! Alerts by mail, to aiosmtpd: STARTTLS and a login are insisted on, and what arrives is judged by Python's own reader of mails.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, free_port, text};
use crate::tool;

const PASSWORD: &str = "canary-31 of+the mail\"server/ö";

/// A certificate for 127.0.0.1, and its key.
fn certificate(fleet: &Fleet) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    fleet.write("mail.crt", &made.cert.pem());
    fleet.write("mail.key", &made.signing_key.serialize_pem());
}

fn mails(fleet: &Fleet) -> Vec<Value> {
    fleet.read("mails").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn settings(port: u16, tls: &str, ca: &str) -> String {
    format!(
        "secret_roots = [\"../secrets\"]\n[alerts.channels.mail]\nkind = \"smtp\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = {tls:?}\nusername = \"backups\"\n\
         password = {{ file = \"../secrets/mail\" }}\nfrom = \"restic-manager <backups@example.org>\"\nto = [\"ops@example.org\", \"Zoë <zoe@example.org>\"]\n{ca}"
    )
}

#[test]
fn mails_arrive_over_starttls_with_a_login_once_each() {
    let Some(aiosmtpd) = tool("aiosmtpd") else { return };
    let python =
        aiosmtpd.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or("python3".into(), |dir| dir.join("python3"));
    let mut fleet = Fleet::new();
    certificate(&fleet);
    fleet.write("secrets/mail", PASSWORD);
    let port = free_port();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/mail_server.py");
    let mut server = Command::new(python)
        .args([script, &port.to_string(), text(&fleet.path("mail.crt")), text(&fleet.path("mail.key"))])
        .args(["backups", text(&fleet.path("secrets/mail")), text(&fleet.path("mails"))])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    eventually("the mail server listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let trusted = format!("ca_file = {:?}\n", fleet.path("mail.crt"));
    fleet.write("config/server.toml", &settings(port, "starttls", &trusted));
    fleet.start_server_with(&[("RUST_LOG", "trace")]);
    let test = || fleet.try_post("/v1/alerts/test", &json!({"channel": "mail"}).to_string());
    let (code, answer) = test();
    assert_eq!((code, answer["said"].as_str().is_some_and(|said| said.contains("250"))), (200, true), "{answer}");
    fleet.write("config/hosts/web-1.toml", "repository = 5\n");
    fleet.post("/v1/config/reload", "");
    let two =
        eventually("both have come", Duration::from_secs(20), || Some(mails(&fleet)).filter(|mails| mails.len() >= 2));
    let mail = &two[1];
    assert_eq!((&mail["tls"], &mail["login"]), (&json!(true), &json!("backups")), "{mail}");
    assert_eq!(mail["recipients"], json!(["ops@example.org", "zoe@example.org"]));
    assert_eq!(mail["subject"], "the fleet: config_rejected", "{mail}");
    assert_eq!(mail["to"], "ops@example.org, Zoë <zoe@example.org>", "{mail}");
    let id = fleet.get("/v1/alerts")["alerts"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(mail["message_id"], format!("<{id}-raised@example.org>"));
    assert!(mail["body"].as_str().is_some_and(|body| body.contains("the configuration was refused")), "{mail}");

    // What is wrong is told in words, without the password.
    let refused = |change: &str, words: &[&str]| {
        fleet.write("config/hosts/web-1.toml", "repository = \"main\"\n");
        fleet.write("config/server.toml", change);
        fleet.post("/v1/config/reload", "");
        let (code, answer) = test();
        let answer = answer.to_string();
        assert!(code == 502 && words.iter().all(|word| answer.contains(word)), "{code} {answer}");
        assert!(!answer.contains("canary-31"), "{answer}");
    };
    refused(&settings(port, "starttls", ""), &["ca_file"]);
    refused(&settings(port, "tls", &trusted), &["see whether"]);
    fleet.write("secrets/mail.wrong", "canary-31-wrong");
    let wrong = settings(port, "starttls", &trusted).replace("secrets/mail\"", "secrets/mail.wrong\"");
    refused(&wrong, &["535", "username and password"]);
    drop(server.stdin.take());
    assert!(server.wait().expect("it ends").success());
    refused(&settings(port, "starttls", &trusted), &["host and port"]);
    assert_eq!(mails(&fleet).len(), 2);
    fleet.server = None;
    assert!(!fleet.read("server.log").contains("canary-31"));
}
